"""Labels of a user's own DataLoader: those that are converted, and those that are refused in one line."""

import pytest
import torch
from torch.utils.data import DataLoader

from lightning_cifar import ImageClassifier, InputError
from lightning_cifar.train.objective import convert_labels
from tests.trainer import make_quiet_trainer

SMALL = {"widths": (4, 4, 8, 8, 8), "hidden": 16}
pytestmark = [
    pytest.mark.filterwarnings("ignore:The '.*_dataloader' does not have many workers"),
    pytest.mark.filterwarnings("ignore:You defined a `validation_step`"),
]


def make_loader(labels: torch.Tensor) -> DataLoader:
    images = torch.randint(256, (len(labels), 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return DataLoader([*zip(images, labels, strict=True)], batch_size=4)


def make_trainer():
    return make_quiet_trainer(max_epochs=1, log_every_n_steps=1)


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (torch.tensor([1, 10, 2, 3]), "labels must be whole numbers from 0 to 9, got 10"),
        (torch.tensor([1, -1, 2, 3], dtype=torch.int8), "labels must be whole numbers from 0 to 9, got -1"),
        (torch.tensor([1, -100, 2, 3]), "from 0 to 9, got -100: leave out unlabelled images"),  # an ignore_index
        (torch.tensor([1.0, 2.0]), r"whole numbers from 0 to 9, or probabilities \(B, 10\), got torch.float32 \[2\]"),
        (torch.ones(4, 10, dtype=torch.int64), r"or probabilities \(B, 10\), got torch.int64 \[4, 10\]"),
        (torch.ones(4, 1, dtype=torch.int64), r"or probabilities \(B, 10\), got torch.int64 \[4, 1\]"),
        (torch.ones(4, 9), r"or probabilities \(B, 10\), got torch.float32 \[4, 9\]"),
    ],
)
def test_labels_that_do_not_fit_are_one_line(labels, words):
    model, loader = ImageClassifier(**SMALL), make_loader(labels)
    for call in (make_trainer().fit, make_trainer().validate, make_trainer().test):
        with pytest.raises(InputError, match=words):
            call(model, loader)


@pytest.mark.slow
def test_labels_of_every_integer_type_train_the_same_weights():
    trained = []
    for dtype in (torch.int64, torch.int32, torch.int16, torch.uint8):
        torch.manual_seed(0)
        model, loader = ImageClassifier(**SMALL), make_loader(torch.arange(6).to(dtype))
        make_trainer().fit(model, loader, loader)
        assert make_trainer().test(model, loader, verbose=False)[0]["test/accuracy"] >= 0
        trained.append(model.network.classifier[-1].weight.detach())
    assert all(torch.equal(one, trained[0]) for one in trained)


@pytest.mark.parametrize("hook", ["on_before_batch_transfer", "on_after_batch_transfer"])
def test_labels_are_read_after_the_hooks_that_a_subclass_changes_them_in(hook):
    class Squeezing(ImageClassifier):
        pass

    setattr(Squeezing, hook, lambda self, batch, dataloader_idx: (batch[0], batch[1].squeeze(1)))
    model, loader = Squeezing(**SMALL), make_loader(torch.arange(6)[:, None])
    make_trainer().fit(model, loader, loader)
    assert "test/accuracy" in make_trainer().test(model, loader, verbose=False)[0]


def test_labels_on_another_device_are_not_read():
    """A GPU would have to finish its work first, in each step."""
    assert convert_labels(torch.empty(3, dtype=torch.int32, device="meta"), 10).dtype == torch.int64


def test_labels_that_no_step_of_this_package_reads_stay_as_they_are():
    """Of images to predict, whose class is not known; and of a subclass, whose second part may be anything."""
    seen = []

    class Pairs(ImageClassifier):
        def training_step(self, batch, batch_idx):
            seen.append(batch[1])
            return super().training_step((batch[0], torch.zeros(len(batch[0]), dtype=torch.int64)), batch_idx)

    years = torch.tensor([1990, -1], dtype=torch.int32)
    make_trainer().predict(ImageClassifier(**SMALL), make_loader(years))
    make_trainer().fit(Pairs(**SMALL), make_loader(years))
    assert torch.equal(seen[0], years)
    assert seen[0].dtype == torch.int32
