"""The surroundings of the data: home directory, cache, worker processes, links, foreign checkpoints, bare loaders."""

import errno
import multiprocessing
import os
import pwd
import shutil
from pathlib import Path

import lightning
import pytest
import torch

from lightning_cifar import ImageClassifier, main
from lightning_cifar.data.module import CIFAR10DataModule
from lightning_cifar.files import write_whole
from lightning_cifar.sources.folder import load_folder, locate_cache
from tests.trainer import make_quiet_trainer


@pytest.fixture
def home(tmp_path) -> Path:
    return tmp_path / "home"


@pytest.mark.slow
def test_home_is_expanded_wherever_a_path_is_taken(image_folder, tiny, home, monkeypatch):
    shutil.move(image_folder, home / "images")
    data = ["--data.dataset", "folder", "--trainer.log_every_n_steps", "1", "--data.batch_size", "9"]
    assert main(["fit", *tiny, *data, "--data.root=~/images", "--run_dir=~/first"]) == 0
    assert (home / "first" / "checkpoints" / "last.ckpt").is_file()
    Path("config.yaml").write_text("run_dir: ~/second\ndata: {root: ~/images}")
    assert main(["fit", *tiny, *data, "--config", "config.yaml"]) == 0
    assert (home / "second" / "config.yaml").is_file()
    monkeypatch.setenv("LIGHTNING_CIFAR_DATA", "~/images")
    assert main(["validate", "--ckpt_path=~/first/checkpoints/last.ckpt"]) == 0
    assert not Path("~").exists()


def test_without_a_home_no_directory_is_named_by_a_tilde(tiny, capsys, monkeypatch):
    monkeypatch.delenv("HOME")
    monkeypatch.setattr(pwd, "getpwuid", lambda _: {}["uid not found"])
    for words in (["--run_dir=~/run"], ["--run_dir", "~/run"]):
        assert main(["fit", *tiny, *words]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert "set HOME, or write the whole path" in line
    assert not Path("~").exists()


def test_home_is_expanded_for_archives(tiny, home, capsys):
    Path("config.yaml").write_text("data: {archive: ~/absent.tar.gz, dataset: cifar10}")
    assert main(["fit", *tiny, "--config=~/../config.yaml"]) == 2
    assert f"{home}/absent.tar.gz: no such file" in capsys.readouterr().err


@pytest.mark.parametrize("cache", [None, "relative"])
def test_without_a_home_there_is_no_cache(image_folder, monkeypatch, cache):
    def fail(*_):
        raise KeyError("uid not found")

    monkeypatch.delenv("HOME")
    monkeypatch.delenv("XDG_CACHE_HOME")
    if cache:
        monkeypatch.setenv("XDG_CACHE_HOME", cache)
    monkeypatch.setattr(pwd, "getpwuid", fail)
    with pytest.warns(UserWarning, match="could not be cached"):
        assert len(load_folder(image_folder).train) == 18
    assert not Path("~").exists()
    assert not Path("relative").exists()


def test_workers_send_no_tensors_through_shared_memory(image_folder):
    """A full /dev/shm would hang them."""
    data = CIFAR10DataModule("folder", root=str(image_folder), in_memory=False)
    data.setup()
    assert all(not isinstance(part, torch.Tensor) for part in data.train.__getitems__([0, 1]))


def test_workers_without_dev_shm_are_one_line(image_folder, tiny, capsys, monkeypatch):
    def fail(*_):
        raise OSError(28, "No space left on device")

    data = ["--data.dataset", "folder", "--data.root", str(image_folder), "--data.in_memory", "false"]
    monkeypatch.setattr(multiprocessing, "Lock", fail)
    assert main(["fit", *tiny, *data, "--data.num_workers", "1"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "--data.num_workers 1 needs room in /dev/shm (No space left on device)" in line


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


def test_a_lock_of_another_user_in_shared_directories_is_passed_over(image_folder, tmp_path, monkeypatch, capsys):
    """As in a directory with the sticky bit, where nobody may open files of others for writing."""
    opened, refused = os.open, []

    def forbid(path, *args, **options):
        if str(path).endswith(".lock"):
            refused.append(Path(path).parent)
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return opened(path, *args, **options)

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    cache = locate_cache(image_folder)
    cache.parent.mkdir(parents=True)
    cache.with_suffix(".lock").touch()
    monkeypatch.setattr(os, "open", forbid)
    CIFAR10DataModule("folder", root=str(image_folder)).setup("fit")
    assert ({*refused}, capsys.readouterr().out) == ({cache.parent}, "")
    assert cache.exists()


def test_links_in_place_of_temporary_files_are_not_followed():
    Path("mine").write_text("mine")
    for name in (".out.partial", ".out.0.partial"):
        Path(name).symlink_to("mine")
    write_whole(Path("out"), b"new")
    assert (Path("mine").read_text(), Path("out").read_text()) == ("mine", "new")


@pytest.mark.slow
def test_partial_files_of_killed_writers_are_removed(trained, tmp_path):
    shutil.copytree(trained, tmp_path / "run")
    left = tmp_path / "run" / "checkpoints" / ".last.ckpt.0123.partial"
    left.write_bytes(b"half")
    assert main(["fit", "--resume", str(tmp_path / "run")]) == 0
    assert not left.exists()


@pytest.mark.slow
def test_sources_are_never_taken_from_a_checkpoint(trained, tmp_path):
    checkpoint = torch.load(trained / "checkpoints" / "last.ckpt", weights_only=True)
    foreign = {"url": "http://127.0.0.1:9/x", "archive": "/absent", "root": str(tmp_path), "dataset": "cifar10"}
    checkpoint["datamodule_hyper_parameters"] |= foreign
    torch.save(checkpoint, tmp_path / "foreign.ckpt")
    data = CIFAR10DataModule.load_from_checkpoint(tmp_path / "foreign.ckpt", root="mine")
    assert [data.hparams[name] for name in ("dataset", "root", "url", "archive")] == ["cifar10", "mine", None, None]
