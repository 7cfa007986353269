"""What image folders hold in practice: other names of parts, other files, damage, accents, rare classes."""

import os
import re
import shutil
import unicodedata
from pathlib import Path

import pytest
from PIL import Image

from lightning_cifar import main
from lightning_cifar.data.module import CIFAR10DataModule
from lightning_cifar.errors import InputError, list_some
from lightning_cifar.sources import cifar
from lightning_cifar.sources.folder import load_folder


@pytest.mark.parametrize(
    "names",
    [
        ("train", "valid", "test"),
        ("Train", "Validation", "TEST"),
        ("training", "VAL", "testing"),
        ("train", "dev", "test"),
        ("train_set", "val_images", "Test Set"),
    ],
)
def test_parts_may_have_other_usual_names(image_folder, read, names):
    for part, name in zip(("train", "val", "test"), names, strict=True):
        (image_folder / part).rename(image_folder / name)
    assert read()[0] == 0
    assert len(load_folder(image_folder).val) == 3


def test_parts_may_lie_in_folders_of_their_names(image_folder, read):
    """As in ``training_set/training_set/<class>`` of archives on Kaggle."""
    for part, name in (("train", "training_set"), ("test", "test_set")):
        (image_folder / part).rename(image_folder / "moved")
        (image_folder / name).mkdir()
        (image_folder / "moved").rename(image_folder / name / name)
    shutil.copy(image_folder / "val" / "dog" / "image-00.bmp", image_folder / "test_set" / "loose.bmp")
    status, text = read()
    assert (status, "no part" in text) == (0, False), text
    assert "1 file passed over (in no class folder): 1 .bmp" in text
    folder = load_folder(image_folder)
    assert folder.class_names == ("cat", "dog")
    assert len(folder.train) > len(folder.test) > 0


def test_parts_of_other_names_are_no_classes(image_folder, read):
    """A network would learn which part an image is of."""
    for part, name in (("train", "images-train-v2"), ("test", "images-test-v2")):
        (image_folder / name).mkdir()
        (image_folder / part).rename(image_folder / name / name)
    shutil.rmtree(image_folder / "val")
    status, text = read()
    words = "images-test-v2, images-train-v2 all hold folders of cat, dog: name these parts train, val and test"
    assert (status, words in text) == (2, True), text


def test_classes_whose_names_begin_like_parts_may_have_equal_folders(image_folder, read):
    for part, name in (("train", "device1"), ("test", "device2")):
        (image_folder / part).rename(image_folder / name)
    shutil.rmtree(image_folder / "val")
    status, text = read()
    assert status == 0, text


def test_two_folders_of_one_part_are_refused(image_folder, read):
    shutil.copytree(image_folder / "val", image_folder / "valid")
    status, text = read()
    assert status == 2
    assert "both val: keep one" in text


def test_other_folders_are_named(image_folder, read):
    shutil.copytree(image_folder / "val", image_folder / "holdout")
    status, text = read()
    assert status == 0
    assert "other than train, val, test are left out: holdout" in text


def test_a_class_folder_without_images_is_named(image_folder, read):
    """In ``<class>/*``, where any folder may be something else; in a part it is refused."""
    for part in ("val", "test"):
        shutil.rmtree(image_folder / part)
    for name in ("cat", "dog"):
        (image_folder / "train" / name).rename(image_folder / name)
    (image_folder / "train").rename(image_folder / "eel")
    status, text = read()
    assert (status, f"folders of {image_folder} without images are left out: eel\n" in text) == (0, True)


@pytest.mark.slow
@pytest.mark.parametrize("other", ["Cat", "cat ", "c at"])
def test_classes_that_differ_in_case_or_spaces_get_a_warning(image_folder, read, other):
    assert "differs" not in read()[1]
    for part in ("train", "val", "test"):
        shutil.copytree(image_folder / part / "dog", image_folder / part / other)
    status, text = read()
    assert status == 0
    assert f"warning: {min(other, 'cat')!r} differs from another class in case or spaces only" in text


@pytest.mark.slow
@pytest.mark.parametrize("in_memory", ["true", "false"])
def test_files_that_are_not_images_are_passed_over_with_a_count(image_folder, read, in_memory):
    expected = load_folder(image_folder).fingerprint()
    for name in ("Thumbs.db", "desktop.ini", "labels.csv"):
        (image_folder / "train" / "cat" / name).write_bytes(b"not an image")
    (image_folder / "val" / "dog" / "empty").touch()
    status, text = read("--data.in_memory", in_memory, "--data.num_workers", "0")
    assert status == 0
    assert "4 files passed over (no image): 1 .db, 1 .ini, 1 .csv, 1 without suffix" in text
    assert load_folder(image_folder).fingerprint() == expected
    for name in ("train/cat/Thumbs.db", "train/cat/desktop.ini", "train/cat/labels.csv"):
        (image_folder / name).unlink()
    assert "1 file passed over (no image): 1 without suffix" in read()[1]


def test_images_without_suffix_are_read(image_folder):
    expected = load_folder(image_folder).train.images
    for file in (image_folder / "train").glob("*/*"):
        file.rename(file.with_suffix(""))
    assert load_folder(image_folder).train.images.equal(expected)


@pytest.mark.slow
def test_names_that_differ_only_in_unicode_form_are_the_same_class(image_folder, read):
    for part, form in (("train", "NFD"), ("val", "NFC"), ("test", "NFC")):
        (image_folder / part / "cat").rename(image_folder / part / unicodedata.normalize(form, "Bär"))
    assert read()[0] == 0
    assert load_folder(image_folder).class_names == ("Bär", "dog")
    shutil.copytree(image_folder / "test" / "dog", image_folder / "test" / unicodedata.normalize("NFD", "Bär"))
    assert "differ only in Unicode form" in read()[1]


def test_names_of_classes_must_be_text(image_folder, read):
    for part in ("train", "val", "test"):
        (image_folder / part / "cat").rename(image_folder / part / os.fsdecode(b"c\xff"))
    status, text = read()
    assert (status, "the name of a class must be valid text: rename the folder" in text) == (2, True)


@pytest.mark.parametrize("folder", [".", "train"])
def test_cifar_is_not_downloaded_into_an_image_folder(image_folder, tiny, capsys, folder):
    before = sorted(image_folder.rglob("*"))
    assert main(["fit", *tiny, "--data.dataset", "cifar10", "--data.root", str(image_folder / folder)]) == 2
    assert "looks like an image folder: set dataset to folder" in capsys.readouterr().err
    assert sorted(image_folder.rglob("*")) == before


@pytest.mark.parametrize("names", [["train_data"], ["train", "training"]])
def test_cifar_is_installed_beside_a_folder_without_images(tmp_path, tiny, capsys, monkeypatch, names):
    def refuse(*_):
        raise InputError("no network")

    monkeypatch.setattr(cifar, "download", refuse)
    for name in names:
        (tmp_path / "data" / name).mkdir(parents=True)
        (tmp_path / "data" / name / "prices.csv").touch()
    assert main(["fit", *tiny, "--data.dataset", "cifar10", "--data.root", str(tmp_path / "data")]) == 2
    assert capsys.readouterr().err == "error: no network\n"


@pytest.mark.parametrize(("dataset", "meta"), [("cifar10", "batches.meta"), ("cifar100", "meta")])
def test_cifar_is_not_downloaded_into_its_own_folder(tmp_path, tiny, capsys, dataset, meta):
    own = tmp_path / "own"
    own.mkdir()
    (own / meta).touch()
    assert main(["fit", *tiny, "--data.dataset", dataset, "--data.root", str(own)]) == 2
    assert f"error: --data.root {own} holds the files themselves: name the directory with" in capsys.readouterr().err
    assert [*own.iterdir()] == [own / meta]


def keep(image_folder: Path, cats: int, dogs: int) -> None:
    shutil.rmtree(image_folder / "val")
    for name, count in (("cat", cats), ("dog", dogs)):
        for file in sorted((image_folder / "train" / name).iterdir())[count:]:
            file.unlink()


def test_no_class_loses_its_only_image_to_validation(image_folder):
    keep(image_folder, 5, 1)
    data = CIFAR10DataModule("folder", root=image_folder, val_size=3)
    data.setup()
    assert data.train.labels.bincount().tolist() == [2, 1]


def test_one_training_image_is_too_few(image_folder, capsys, tiny):
    for name in "abc":  # two of the three are tested
        Path("flat", name).mkdir(parents=True)
        shutil.copy(image_folder / "test/dog/image-00.bmp", Path("flat", name))
    words = ["--data.dataset", "folder", "--data.root", "flat", "--data.val_size", "null", "--run_dir", "run"]
    assert main(["fit", *tiny, *words]) == 2
    assert "there is 1 training image, of which none can be held out" in capsys.readouterr().err


def test_classes_without_training_images_are_named(image_folder, read):
    keep(image_folder, 1, 1)
    assert "no training image is left of" in read("--data.val_size", "1")[1]


def test_classes_of_which_all_images_are_tested_are_named(image_folder, capsys):
    for name in "abcd":
        Path("flat", name).mkdir(parents=True)
        for number in range(1 + (name == "a")):
            shutil.copy(image_folder / "test/dog/image-00.bmp", Path("flat", name, f"{number}.bmp"))
    CIFAR10DataModule("folder", root="flat", held_out="test").setup()
    assert re.search("no training image is left of .*: add images, or a folder test", capsys.readouterr().out)


def test_predict_counts_files_that_are_not_images(image_folder, trained, capsys):
    folder = image_folder / "test" / "cat"
    (folder / "IMG_1.HEIC").write_bytes(b"\0\0\0\x18ftypheic")
    (folder / "list.txt").write_text("x")
    (folder / "image-00.bmp").rename(folder / "image")
    os.mkfifo(folder / "pipe")
    Image.new("RGB", (9, 9)).save(folder / "z.png")
    assert main(["predict", "--ckpt_path", str(trained), "--images", str(folder), "--output", "rows.csv"]) == 1
    rows = Path("rows.csv").read_text()
    assert str(folder / "image,") in rows
    assert "left out: 2 files that are not images (1 .txt, 1 without suffix), such as" in capsys.readouterr().err


@pytest.mark.slow
def test_very_many_classes_are_counted_in_messages(read):
    for number in range(300):  # one of two images is tested, the other validates
        folder = Path("many", f"class{number:03}")
        folder.mkdir(parents=True)
        for name in "ab":
            Image.new("RGB", (2, 2)).save(folder / f"{name}.png")
    status, text = read("--data.root", "many", "--data.val_size", "200")
    assert status == 0
    assert "is left of class000, class001, class002, class003, class004, class005, class006, class007, " in text
    assert "class009 and 190 others: add images" in text
    assert list_some("abc", 2) == "a, b and 1 other"
    assert max(map(len, text.splitlines())) < 250


def test_a_folder_deep_in_an_archive_is_suggested(image_folder, read):
    shutil.copytree(image_folder, Path("outer/archive/v2"))
    status, text = read("--data.root", "outer")
    assert (status, "or set labels to a CSV file; is outer/archive/v2 the one?" in text) == (2, True), text
