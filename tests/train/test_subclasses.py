"""Subclasses of ImageClassifier, batches of other parts, and what users put in place of parts of the model."""

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_cifar import CIFAR10DataModule, ImageClassifier, InputError
from tests.trainer import make_quiet_trainer

SMALL = {"widths": (4, 4, 8, 8, 8), "hidden": 16}
IMAGES = torch.randint(256, (8, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(8)
pytestmark = [
    pytest.mark.filterwarnings("ignore:The '.*_dataloader' does not have many workers"),
    pytest.mark.filterwarnings("ignore:You defined a `validation_step`"),
]


def make_loader(items) -> DataLoader:
    return DataLoader([*items], batch_size=4)


def make_trainer(**options):
    return make_quiet_trainer(**{"max_epochs": 1, "log_every_n_steps": 1, **options})


DICTIONARIES = [{"image": one, "label": label} for one, label in zip(IMAGES, LABELS, strict=True)]
OTHER_PARTS = {
    "dict": DICTIONARIES,
    "Tensor, Tensor, Tensor": [*zip(IMAGES, LABELS, LABELS, strict=True)],
    "Tensor, tuple": [(one, "cat") for one in IMAGES],
    "Tensor": IMAGES,
}


@pytest.mark.parametrize("found", OTHER_PARTS)
def test_a_batch_of_other_parts_is_one_line(found):
    model, loader = ImageClassifier(**SMALL), make_loader(OTHER_PARTS[found])
    for call in (make_trainer().fit, make_trainer().validate, make_trainer().test):
        with pytest.raises(InputError, match=f"images and one of labels, got {found}: return such pairs"):
            call(model, loader)


class OfDictionaries(ImageClassifier):
    def training_step(self, batch, batch_idx):
        return super().training_step((batch["image"], batch["label"]), batch_idx)

    def validation_step(self, batch, batch_idx):
        super().validation_step((batch["image"], batch["label"]), batch_idx)

    def test_step(self, batch, batch_idx):
        super().test_step((batch["image"], batch["label"]), batch_idx)


@pytest.mark.slow
def test_steps_of_a_subclass_take_any_batches_and_log_the_same():
    logged = []
    for kind, items in ((ImageClassifier, [*zip(IMAGES, LABELS, strict=True)]), (OfDictionaries, DICTIONARIES)):
        torch.manual_seed(0)
        model, loader, trainer = kind(**SMALL), make_loader(items), make_trainer()
        trainer.fit(model, loader, loader)
        logged.append({**trainer.logged_metrics, **trainer.test(model, loader, verbose=False)[0]})
    assert {"train/loss_epoch", "train/accuracy_epoch", "val/accuracy", "test/accuracy"} <= logged[0].keys()
    assert logged[0] == logged[1]


class WithOwnTest(ImageClassifier):
    def test_step(self, batch, batch_idx):
        self.log("test/mine", 0.25, sync_dist=True)


def test_a_subclass_may_test_in_its_own_way():
    assert make_trainer().test(WithOwnTest(**SMALL), make_loader(zip(IMAGES, LABELS, strict=True)), verbose=False) == [
        {"test/mine": 0.25}
    ]


def test_several_test_loaders_are_not_measured_as_one():
    loader = make_loader(zip(IMAGES, LABELS, strict=True))
    with pytest.raises(InputError, match="test one loader at a time: the images of these 2"):
        make_trainer().test(ImageClassifier(**SMALL), [loader, loader], verbose=False)


def test_several_loaders_are_predicted_one_by_one():
    loader = make_loader(zip(IMAGES, LABELS, strict=True))
    model, trainer = ImageClassifier(**SMALL), make_trainer()
    first, second = trainer.predict(model, [loader, loader])
    assert torch.equal(torch.cat(first), torch.cat(trainer.predict(model, loader)))
    assert torch.equal(torch.cat(first), torch.cat(second))


class WithForward(ImageClassifier):
    def forward(self, images):
        return super().forward(images).softmax(1)


def compile_network():
    model = ImageClassifier(**SMALL)
    model.network.classifier = torch.compile(model.network.classifier, backend="eager")
    return model


@pytest.mark.filterwarnings("ignore:training without augmentation")
@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: WithForward(**SMALL), "without WithForward.forward, which training_step and test_step do not call"),
        pytest.param(
            compile_network,
            r"a checkpoint of torch.compile\(network\) fits no other: set compile=True",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_what_a_training_loses_is_a_warning(make, words):
    with pytest.warns(UserWarning, match=words):
        make_trainer().fit(make(), make_loader(zip(IMAGES, LABELS, strict=True)))


@pytest.mark.slow
def test_a_network_that_is_compiled_in_place_has_loadable_checkpoints(tmp_path):
    model, trainer = ImageClassifier(**SMALL), make_trainer()
    model.network.compile(backend="eager")
    trainer.validate(model, make_loader(zip(IMAGES, LABELS, strict=True)), verbose=False)
    trainer.save_checkpoint(tmp_path / "x.ckpt", weights_only=True)
    loaded = ImageClassifier.load_from_checkpoint(tmp_path / "x.ckpt")
    assert loaded.state_dict().keys() == model.state_dict().keys()


class WithTeacher(ImageClassifier):
    def __init__(self, teacher: nn.Module) -> None:
        super().__init__(**SMALL)
        self.save_hyperparameters()


@pytest.mark.filterwarnings("ignore:Attribute 'teacher' is an instance of `nn.Module`")
@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("teacher", r"it holds torch.nn.modules.linear.Linear, .* leave it out of save_hyperparameters"),
        ("weights", "it has no state_dict. For weights alone, use model.load_state_dict"),
        ("nothing", "x.ckpt cannot be read: No such file or directory"),
    ],
)
def test_a_file_that_is_no_checkpoint_says_what_it_is(content, words, tmp_path):
    file, model = tmp_path / "x.ckpt", WithTeacher(nn.Linear(2, 2))
    if content == "teacher":
        trainer = make_trainer()
        trainer.validate(model, make_loader(zip(IMAGES, LABELS, strict=True)), verbose=False)
        trainer.save_checkpoint(file, weights_only=False)
    elif content == "weights":
        torch.save(model.state_dict(), file)
    with pytest.raises(InputError, match=words) as caught:
        ImageClassifier.load_from_checkpoint(file)
    assert "\x1b" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("optimizer", None, "no optimizer 'None'"),
        ("optimizer", torch.optim.AdamW, "did you mean adamw"),
        ("learning_rate", None, "learning_rate must be a number, got None"),
        ("mixup", None, "mixup must be a number, got None"),
        ("network_args", [1], r"network_args must be a mapping or null, got \[1\]"),
        ("optimizer_args", "x", "optimizer_args must be a mapping or null, got 'x'"),
        ("class_names", 10, "class_names must be a list, got 10"),
        ("mean", 0.5, "mean must be a list, got 0.5"),
        ("widths", 32, "widths must be a list, got 32"),
        ("kernel_sizes", 3, "kernel_sizes must be a list, got 3"),
        ("compile", "yes", "compile must be true or false, got 'yes'"),
    ],
)
def test_arguments_of_another_type_are_one_line(name, value, words):
    with pytest.raises(InputError, match=words):
        ImageClassifier(**{name: value})


def test_a_model_of_other_classes_says_how_it_is_trained_on_these():
    data = CIFAR10DataModule(dataset="digits", batch_size=64, flip=False)
    for model in (ImageClassifier(3, **SMALL), ImageClassifier(class_names=[*"abcdefghij"], **SMALL)):
        with pytest.raises(InputError, match="start from its weights by fine_tune or --init_from"):
            make_trainer().fit(model, data)


class WithOwnArguments(ImageClassifier):
    def __init__(self, learning_rate=1e-3, share=0.5):
        super().__init__(learning_rate=learning_rate, widths=(8, 8, 8, 8, 8))
        self.share = share


def test_a_checkpoint_gives_what_a_subclass_does_not_pass_on(tmp_path):
    data, trainer = CIFAR10DataModule("digits", batch_size=100), make_trainer(max_steps=1)
    model = WithOwnArguments()
    trainer.fit(model, data)
    trainer.save_checkpoint(tmp_path / "x.ckpt")
    loaded = WithOwnArguments.load_from_checkpoint(tmp_path / "x.ckpt", map_location="cpu")
    assert (loaded.hparams, loaded.normalise.mean.tolist()) == (model.hparams, model.normalise.mean.tolist())
    images = data.test.images[:20]
    assert torch.equal(loaded.eval()(images), model.cpu().eval()(images))


@pytest.mark.parametrize("with_data", [False, True])
def test_a_new_model_takes_the_normalisation_of_a_checkpoint(tmp_path, with_data):
    """Even if the data module has another, and also to train on."""
    source = CIFAR10DataModule("digits", batch_size=100) if with_data else DataLoader(TensorDataset(IMAGES, LABELS), 4)
    model, trainer = ImageClassifier(mean=(0.2, 0.3, 0.4), std=(0.2, 0.3, 0.4), **SMALL), make_trainer(max_steps=1)
    trainer.fit(model, source)
    trainer.save_checkpoint(file := tmp_path / "x.ckpt")
    found = make_trainer().test(ImageClassifier(**SMALL), source, ckpt_path=file, weights_only=True, verbose=False)
    assert found == make_trainer().test(model, source, verbose=False)
    make_trainer(max_steps=2).fit(again := ImageClassifier(**SMALL), source, ckpt_path=file, weights_only=True)
    assert again.hparams["mean"] == [0.2, 0.3, 0.4] == pytest.approx(again.normalise.mean.tolist())


def test_a_checkpoint_of_other_classes_than_the_data_is_refused(tmp_path):
    data = CIFAR10DataModule("digits")
    trainer = make_trainer()
    trainer.strategy.connect(ImageClassifier(class_names=[*"abcdefghij"], **SMALL))
    trainer.save_checkpoint(tmp_path / "x.ckpt")
    with pytest.raises(InputError, match="the model has the classes a, b"):
        make_trainer().test(ImageClassifier(**SMALL), data, ckpt_path=tmp_path / "x.ckpt", weights_only=True)
