"""The data module in a training: which batches arrive, also from loaders of the user's."""

import lightning
import pytest
import torch

from lightning_cifar import CIFAR10DataModule, ImageClassifier
from tests.trainer import make_quiet_trainer


@pytest.mark.filterwarnings("ignore:The '.*_dataloader' does not have many workers")
@pytest.mark.parametrize("in_memory", [True, False])
def test_overfit_batches_repeats_the_same_batch(image_folder, in_memory):
    seen = []

    class Watch(lightning.Callback):
        def on_train_batch_start(self, trainer, module, batch, index):
            seen.append(batch[1].tolist())

    data = CIFAR10DataModule("folder", root=str(image_folder), batch_size=7, in_memory=in_memory, num_workers=0)
    trainer = make_quiet_trainer(max_epochs=3, overfit_batches=1, log_every_n_steps=1, callbacks=[Watch()])
    trainer.fit(ImageClassifier(2, widths=[4, 4, 8, 8, 8]), data)
    assert len(seen) == 3
    assert seen[0] == seen[1] == seen[2]
    assert set(seen[0]) == {0, 1}  # not the first images of the folder, which are cats


@pytest.mark.filterwarnings("ignore:The '.*_dataloader' does not have many workers")
@pytest.mark.parametrize("in_memory", [True, False])
def test_training_batches_are_pairs_after_a_training_as_before_it(image_folder, in_memory):
    data = CIFAR10DataModule("folder", root=str(image_folder), batch_size=9, in_memory=in_memory, num_workers=0)
    data.setup()
    before = [len(batch) for batch in data.train_dataloader()]
    trainer = make_quiet_trainer(max_steps=1, log_every_n_steps=1, limit_val_batches=0)
    trainer.fit(ImageClassifier(2, widths=[4, 4, 8, 8, 8]), data)
    assert [len(batch) for batch in data.train_dataloader()] == before == [2, 2]


def test_a_data_module_names_setup_before_it():
    data = CIFAR10DataModule("digits")
    for use in (data.train_dataloader, data.val_dataloader, data.test_dataloader, lambda: data.train):
        with pytest.raises(AttributeError, match=r"call setup\(\) first"):
            use()


@pytest.mark.filterwarnings("ignore:You defined a `validation_step`")
def test_a_loader_without_its_data_module_warns(image_folder):
    data = CIFAR10DataModule("folder", root=str(image_folder), batch_size=9)
    data.setup()
    trainer = make_quiet_trainer(max_epochs=1, log_every_n_steps=1)
    with pytest.warns(UserWarning, match="without augmentation: pass trainer.fit the data module"):
        trainer.fit(ImageClassifier(2, widths=[4, 4, 8, 8, 8]), data.train_dataloader())


class WithOwnLoader(CIFAR10DataModule):
    def train_dataloader(self):
        return torch.utils.data.DataLoader([*zip(self.train.images, self.train.labels, strict=True)])


@pytest.mark.filterwarnings("ignore:The 'train_dataloader' does not have many workers")
def test_a_loader_of_a_subclass_warns(image_folder):
    trainer = make_quiet_trainer(max_steps=2, log_every_n_steps=1, limit_val_batches=0)
    with pytest.warns(UserWarning, match="without augmentation: pass trainer.fit the data module, with its own loader"):
        trainer.fit(ImageClassifier(2, widths=[4, 4, 8, 8, 8]), WithOwnLoader("folder", root=str(image_folder)))


class WithDictionaries(CIFAR10DataModule):
    """Gives a model dictionaries to validate on, and (image, label, weight) to train on."""

    def train_dataloader(self):
        items = [*zip(self.train.images, self.train.labels, torch.arange(len(self.train)), strict=True)]
        return torch.utils.data.DataLoader(items, batch_size=9, collate_fn=collate_tuple)

    def val_dataloader(self):
        items = [{"image": one, "label": label} for one, label in zip(self.val.images, self.val.labels, strict=True)]
        return torch.utils.data.DataLoader(items, batch_size=2)


def collate_tuple(items):
    return tuple(torch.utils.data.default_collate(items))


class Recorder(ImageClassifier):
    """Keeps its batches."""

    def training_step(self, batch, batch_idx):
        self.trained = batch
        return super().training_step(batch[:2], batch_idx)["loss"]

    def validation_step(self, batch, batch_idx):
        self.validated = batch


@pytest.mark.filterwarnings("ignore:The '(train|val)_dataloader' does not have many workers")
@pytest.mark.filterwarnings("ignore:training without augmentation")
def test_batches_of_a_subclass_arrive_as_they_are(image_folder):
    model, data = Recorder(2, widths=[4, 4, 8, 8, 8]), WithDictionaries("folder", root=str(image_folder), val_size=2)
    make_quiet_trainer(max_epochs=1, log_every_n_steps=1).fit(model, data)
    assert {*model.validated} == {"image", "label"}
    images, _, positions = model.trained
    assert torch.equal(images, data.train.images[positions])
