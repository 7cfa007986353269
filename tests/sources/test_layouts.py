"""Image folders as people have them: without parts, without test images, nested, with labels in a CSV file."""

import json
import os
import re
import shutil
import unicodedata
from pathlib import Path

import pytest
import torch
from lightning.pytorch.utilities import rank_zero_only

from lightning_cifar import main
from lightning_cifar.data.module import CIFAR10DataModule
from lightning_cifar.run.job import load_data, parse
from lightning_cifar.run.process.state import process_settings
from lightning_cifar.sources import memory
from lightning_cifar.sources.folder import list_images, load_folder

SMALL = ("--data.val_size", "1", "--data.batch_size", "32", "--trainer.log_every_n_steps", "1")


@pytest.fixture
def fit(tiny, capsys):
    """Return a function that trains a step on a folder, and returns the run directory."""

    def run(root: Path, *args: str) -> Path:
        words = [
            "--data.dataset",
            "folder",
            "--data.root",
            str(root),
            "--run_dir",
            "run",
            *SMALL,
        ]
        assert main(["fit", *tiny, *words, *args]) == 0
        capsys.readouterr()
        return Path("run")

    return run


@pytest.fixture
def test(capsys):
    """Return a function that tests the run on a folder, and returns the status, all lines and the result."""

    def run(root: Path, *args: str) -> tuple[int, str, dict]:
        shutil.rmtree("tested", ignore_errors=True)
        status = main(["test", "--ckpt_path", "run", "--data.root", str(root), "--run_dir", "tested", *args])
        output = capsys.readouterr()
        result = json.loads(Path("tested/test.json").read_text()) if status == 0 else {}
        return status, output.out + output.err, result

    return run


@pytest.fixture
def flat(image_folder) -> Path:
    """The training images, ``<class>/*``, without parts."""
    return (image_folder / "train").rename(image_folder.parent / "flat")


def names_of(root: Path, *args: object) -> dict[str, list[str]]:
    return {part: [Path(path).name for path, _ in found] for part, found in list_images(root, *args)[1].items()}


# ------------------------------------------------------------------------------------------------------- missing parts


@pytest.mark.slow
def test_without_test_the_validation_images_are_tested(image_folder, fit, test):
    shutil.rmtree(image_folder / "test")
    assert json.loads((fit(image_folder) / "run.json").read_text())["data"]["split"].startswith("none: test evaluates")
    status, text, result = test(image_folder)
    assert (status, result["images"], result["temperature"]) == (0, 3, None)  # no other images to fit one on
    assert f"{image_folder} has no test images: test evaluates the validation images" in text


@pytest.mark.slow
@pytest.mark.parametrize("folders", ["flat", pytest.param("train only", marks=pytest.mark.slow)])
def test_images_without_parts_are_split_by_seed(flat, fit, test, folders):
    root = flat
    if folders == "train only":
        root = flat.parent / "parent"
        root.mkdir()
        root = flat.rename(root / "Train").parent
    record = json.loads((fit(root) / "run.json").read_text())["data"]
    assert [record[part] for part in ("train", "val", "test")] == [14, 1, 3]
    assert record["split"].startswith("split_seed 0, list of files ")
    status, text, result = test(root)
    assert (status, result["per_class"]["cat"]["images"], result["per_class"]["dog"]["images"]) == (0, 2, 1)
    assert f"{root} has no test images: split_seed 0 chooses 3 of its 18 images of 2 classes (cat, dog)" in text
    assert "warning" not in text
    assert json.loads(Path("tested/run.json").read_text())["data"]["split"] == record["split"]
    assert main(["report", "run", "--output", "page"]) == 0
    assert record["split"] in Path("page/report.html").read_text()


def test_the_split_depends_on_the_seed_only(flat):
    splits = [load_folder(flat, split_seed=seed).test.images for seed in (0, 0, 1)]
    assert torch.equal(splits[0], splits[1])
    assert not torch.equal(splits[0], splits[2])
    files = load_folder(flat, in_memory=False)
    assert torch.equal(files.test.sample(3).images, splits[0])
    assert {*files.train.list_paths()}.isdisjoint(files.test.list_paths())
    shutil.move(flat, flat.parent / "elsewhere")
    assert torch.equal(load_folder(flat.parent / "elsewhere").test.images, splits[0])


@pytest.mark.slow
def test_a_split_that_has_changed_since_training_is_a_warning(flat, fit, test):
    fit(flat)
    (flat / "cat" / "image-00.bmp").unlink()
    status, text, _ = test(flat)
    assert status == 0
    assert f"warning: {flat} has changed since training began" in text


@pytest.mark.slow
def test_test_images_that_were_removed_since_training_are_a_warning(image_folder, fit, test):
    fit(image_folder)
    other = shutil.copytree(image_folder / "train", image_folder.parent / "other")
    for part in ("val", "test"):
        shutil.rmtree(image_folder / part)
    assert f"warning: {image_folder} has changed since training began" in test(image_folder)[1]
    status, text, _ = test(other)
    assert (status, "has changed since training began" in text) == (0, False)


@pytest.mark.slow
def test_a_split_that_has_changed_in_training_is_a_warning(flat, fit, test, capsys):
    """After a resume on the changed images, whose split is then the run's newest."""
    fit(flat)
    (flat / "cat" / "image-00.bmp").unlink()
    assert main(["fit", "--resume", "run", "--trainer.max_epochs", "2"]) == 0
    assert re.search(r"changed: the data \(fingerprint \w{12} before, \w{12} now\)\n", capsys.readouterr().out)
    record = json.loads(Path("run/run.json").read_text())
    record["resumed"].append({"data": None})  # of an earlier version
    Path("run/run.json").write_text(json.dumps(record))
    assert f"warning: {flat} has changed since training began" in test(flat)[1]


@pytest.mark.slow
@pytest.mark.parametrize("missing", [pytest.param("", marks=pytest.mark.slow), "dog"])
def test_a_folder_with_test_images_only_is_tested(image_folder, fit, test, missing):
    fit(image_folder)
    for part in ("train", "val"):
        shutil.rmtree(image_folder / part)
    if missing:
        shutil.rmtree(image_folder / "test" / missing)
    status, _, result = test(image_folder)
    assert (status, result["images"], result["temperature"]) == (0, 2 if missing else 3, None)
    assert [*result["per_class"]] == ["cat", "dog"]


@pytest.mark.slow
def test_a_folder_with_test_images_only_cannot_be_trained_on(image_folder, fit, tiny, capsys):
    fit(image_folder)
    for part in ("train", "val"):
        shutil.rmtree(image_folder / part)
    words = ["--data.dataset", "folder", "--data.root", str(image_folder), "--run_dir", "other"]
    for command, *options in (("fit", *tiny), ("validate", "--ckpt_path", "run")):
        assert main([command, *options, *words]) == 2
        assert f"only images to test on: {command} needs train/<class>/* there" in capsys.readouterr().err
    assert not Path("other").exists()


@pytest.mark.slow
def test_a_folder_with_other_classes_is_refused(image_folder, fit, test):
    fit(image_folder)
    for part in ("train", "val"):
        shutil.rmtree(image_folder / part)
    (image_folder / "test" / "dog").rename(image_folder / "test" / "eel")
    status, text, _ = test(image_folder)
    assert (status, "the model has the classes cat, dog; the data has cat, eel" in text) == (2, True)


def test_a_part_without_a_class_is_reported(image_folder, read):
    shutil.rmtree(image_folder / "val" / "dog")
    status, text = read()
    assert (status, f"val of {image_folder} has no images of dog" in text) == (0, True)


# ------------------------------------------------------------------------------------------------------ other folders


def test_folders_below_a_class_are_read(image_folder):
    expected = load_folder(image_folder)
    for index, file in enumerate(sorted((image_folder / "train" / "cat").iterdir())):
        folder = file.parent / ("a", "b/c")[index > 5]
        folder.mkdir(parents=True, exist_ok=True)
        file.rename(folder / file.name)
    (image_folder / "train" / "cat" / "b" / "up").symlink_to(image_folder / "train" / "cat")  # no folder is read twice
    assert load_folder(image_folder).fingerprint() == expected.fingerprint()


def test_a_folder_that_is_linked_beside_itself_is_read_once(image_folder):
    expected = load_folder(image_folder)
    cats = image_folder / "train" / "cat"
    cats.rename(image_folder / "train" / "2020")
    cats.mkdir()
    (image_folder / "train" / "2020").rename(cats / "2020")
    (cats / "latest").symlink_to("2020")
    assert load_folder(image_folder).fingerprint() == expected.fingerprint()


@pytest.mark.parametrize("link", ["up", "train/up", "train/cat/up", "test/dog/up"])
@pytest.mark.parametrize("target", [".", "train"])
def test_links_to_folders_above_are_no_classes_and_add_no_images(image_folder, link, target):
    expected = load_folder(image_folder)
    if (image_folder / link).is_relative_to(image_folder / target):
        (image_folder / link).symlink_to((image_folder / target).resolve())
    assert load_folder(image_folder).fingerprint() == expected.fingerprint()


def test_images_outside_of_class_folders_are_counted(image_folder, read):
    for name in ("train/a.png", "b.jpg", "test/c.png"):
        shutil.copy(image_folder / "test" / "dog" / "image-00.bmp", image_folder / name)
    status, text = read()
    assert (status, "3 files passed over (in no class folder): 2 .png, 1 .jpg" in text) == (0, True)


def test_folders_without_images_are_no_classes(flat):
    (flat / "scripts").mkdir()
    (flat / "scripts" / "run.sh").write_text("x")
    os.mkfifo(flat / "scripts" / "pipe")
    assert list_images(flat)[0] == ("cat", "dog")


def test_a_class_may_be_called_train(flat):
    (flat / "dog").rename(flat / "train")
    assert list_images(flat)[0] == ("cat", "train")


def test_unlabelled_test_images_are_passed_over(image_folder, read):
    for file in sorted((image_folder / "test").glob("*/*")):
        file.rename(image_folder / "test" / f"{file.parent.name}.bmp")
    for name in ("test/cat", "test/dog"):
        (image_folder / name).rmdir()
    shutil.rmtree(image_folder / "val")
    status, text = read()
    assert status == 0
    assert "other than train are left out: test" in text
    assert "split_seed 0 chooses 3 of its 18 images" in text


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        pytest.param(
            lambda root: [shutil.rmtree(one) for one in root.iterdir()],
            "needs images of at least two classes, got none",
            id="empty",
        ),
        pytest.param(shutil.rmtree, "is not a directory: name one with train/<class>/* or <class>/*", id="absent"),
        pytest.param(
            lambda root: (
                [one.rename(root / "train" / f"{one.name}.bmp") for one in (root / "train").glob("*/*.bmp")]
                and [one.rmdir() for one in (root / "train").iterdir() if one.is_dir()]
                and [shutil.rmtree(root / part) for part in ("val", "test")]
            ),
            "train holds no class folders: sort its images into them, or set labels to a CSV file",
            id="images without classes",
        ),
        pytest.param(
            lambda root: [shutil.rmtree(root / "val"), (root / "test").rename(root / "plane")],
            "hold images: is one a part and one a class?",
            id="train and a class",
        ),
        pytest.param(
            lambda root: (
                [(root / "inside").mkdir(), *[(root / p).rename(root / "inside" / p) for p in ("train", "val")]]
                and shutil.rmtree(root / "test")
            ),
            "inside the one?",
            id="a folder deeper",
        ),
    ],
)
def test_layouts_that_cannot_be_read_are_explained(image_folder, read, edit, words):
    edit(image_folder)
    status, text = read()
    assert (status, words in text) == (2, True), text


@pytest.mark.parametrize("in_memory", ["true", "false"])
def test_all_damaged_files_are_named_at_once(image_folder, tiny, capsys, in_memory):
    bad = [image_folder / "train/cat/a.jpg", image_folder / "train/dog/IMG_1.HEIC", image_folder / "test/cat/c.png"]
    for file in bad:
        file.write_bytes(b"\0\0\0\x18ftypheic")
    words = ["--data.root", str(image_folder), "--data.in_memory", in_memory, "--data.num_workers", "0"]
    assert main(["fit", *tiny, "--data.dataset", "folder", *words]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert all(str(file) in line for file in bad)
    assert not Path("runs").exists()


def test_a_file_that_is_damaged_later_brings_all_names(image_folder, bad_input):
    data = CIFAR10DataModule("folder", root=str(image_folder), in_memory=False, num_workers=0)
    data.setup()
    bad = [image_folder / "train/cat/image-03.bmp", image_folder / "test/dog/image-00.bmp"]
    for file in bad:
        file.write_bytes(b"damaged")
    with bad_input(*bad):
        list(data.train_dataloader())


@pytest.mark.slow
def test_images_that_do_not_fit_in_memory_are_read_from_files(image_folder, read, monkeypatch):
    size = 24 * 32 * 32 * 3
    for free, kept in ((3 * size, True), (3 * size - 1, False)):
        monkeypatch.setattr("lightning_cifar.sources.memory.measure_memory", lambda free=free: free)
        assert hasattr(load_folder(image_folder, in_memory="auto").train, "images") == kept
    status, text = read()
    assert status == 0
    assert "24 images of 32x32 pixels need 7.37e-05 GB, more than a third of the 0.000221 GB of memory" in text
    assert "they are read from their files in every epoch" in text
    assert "read from their files" not in read("--data.in_memory", "true")[1]


@pytest.mark.parametrize(
    ("group", "file"),
    [("0::/job/step", "job/memory.max"), ("4:memory:/job/step", "memory/job/memory.limit_in_bytes")],
)
def test_the_memory_of_a_job_is_limited_at_any_level(image_folder, monkeypatch, group, file):
    lines = {"/proc/self/cgroup": ["9:cpu:/other", group], f"/sys/fs/cgroup/{file}": ["1000"]}
    monkeypatch.setattr(memory, "read_lines", lambda path: lines.get(str(path), []))
    assert not hasattr(load_folder(image_folder, in_memory="auto").train, "images")


def test_a_process_keeps_images_in_memory_if_rank_zero_does(image_folder, tiny, monkeypatch):
    """It has less free memory than rank 0 had, which has read its images by then."""
    monkeypatch.setattr(rank_zero_only, "rank", 1, raising=False)
    monkeypatch.setenv("LIGHTNING_CIFAR_RANK_ZERO", '{"in_memory": true}')
    monkeypatch.setattr("lightning_cifar.sources.memory.measure_memory", lambda: 0)
    with process_settings():
        job = parse(["fit", *tiny, "--data.dataset", "folder", "--data.root", str(image_folder), *SMALL])
    load_data(job)
    assert hasattr(job.data.train, "images")


# ---------------------------------------------------------------------------------------------------------------- CSV


@pytest.fixture
def loose(image_folder) -> Path:
    """A folder of 24 images, ``images/<class><number>.bmp`` and one in a folder below; no class folders."""
    root = image_folder.parent / "loose"
    (root / "images" / "deep").mkdir(parents=True)
    for number, file in enumerate(sorted(image_folder.glob("*/*/*.bmp"))):
        folder = root / "images" / ("deep" if number == 0 else "")
        file.rename(folder / f"{file.parent.name}{number}.bmp")
    return root


def write_labels(root: Path, header: str, write, sep: str = ",") -> Path:
    """Write a row for each image by ``write``, a function of its path below ``root`` and its class."""
    rows = [header, *(write(one.relative_to(root), one.name[:3]) for one in sorted(root.rglob("*.bmp")))]
    (root / "labels.csv").write_text("\n".join(rows).replace(",", sep), encoding="utf-8-sig")
    return root / "labels.csv"


@pytest.mark.parametrize(
    ("header", "write", "sep"),
    [
        ("path,label", lambda path, name: f"{path},{name}", ","),
        ("id,label", lambda path, name: f"{path.stem},{name}", ","),  # Kaggle's
        ("id,breed", lambda path, name: f"{path.name},{name}", ","),
        ("Filename,Class", lambda path, name: f"./{path},{name}", ";"),
        ("id,image,label", lambda path, name: f"{len(path.stem)},{path},{name}", ","),
        ("label,other,image", lambda path, name: f"{name},x,{path.with_suffix('')}", "\t"),
        ("path,label,split", lambda path, name: "C:\\data\\" + str(path).replace("/", "\\") + f",{name},", ","),
    ],
)
def test_labels_are_read_from_a_csv_file(loose, header, write, sep):
    labels = write_labels(loose, header, write, sep)
    names, files = list_images(loose, labels)
    assert names == ("cat", "dog")
    assert [*files] == ["train"]
    assert [(Path(path).name[:3], label) for path, label in files["train"]] == [("cat", 0)] * 16 + [("dog", 1)] * 8


@pytest.mark.slow
def test_a_csv_file_may_have_parts(loose, fit, test):
    parts = {"0": "Train", "1": "training", "2": "valid", "3": "TEST"}
    write_labels(loose, "path,label,split", lambda path, name: f"{path},{name},{parts[str(len(path.stem) % 4)]}")
    for number, row in enumerate(lines := (loose / "labels.csv").read_text(encoding="utf-8-sig").splitlines()[1:]):
        lines[number] = row.rpartition(",")[0] + "," + parts[str(number % 4)]
    (loose / "labels.csv").write_text("\n".join(["path,label,split", *lines]))
    record = json.loads((fit(loose, "--data.labels", "labels.csv") / "run.json").read_text())["data"]  # below the root
    assert [record[part] for part in ("train", "val", "test")] == [12, 6, 6]
    assert record["split"] is None
    assert test(loose)[0] == 2  # the file is not taken from the checkpoint
    status, _, result = test(loose, "--data.labels", str(loose / "labels.csv"))
    assert (status, result["images"]) == (0, 6)


def test_images_that_the_csv_file_lacks_are_counted(loose, read):
    labels = write_labels(loose, "path,label", lambda path, name: f"{path},{name}" if name == "dog" else "")
    labels.write_text(labels.read_text() + "\nimages/deep/cat0.bmp,cat")
    status, text = read("--data.root", str(loose), "--data.labels", str(labels))
    assert status == 0
    assert f"15 files passed over (below {loose}, but not in labels.csv): 15 .bmp" in text


@pytest.mark.parametrize(("on_disk", "in_file"), [("NFD", "NFC"), ("NFC", "NFD")])
def test_accents_of_paths_may_have_another_unicode_form(loose, on_disk, in_file):
    path = "images/b\u00e4r.bmp"
    (loose / "images/cat1.bmp").rename(loose / unicodedata.normalize(on_disk, path))
    rows = ["path,label", f"{unicodedata.normalize(in_file, path)},cat", "images/dog20.bmp,dog"]
    (loose / "labels.csv").write_text("\n".join(rows), encoding="utf-8")
    assert [label for _, label in list_images(loose, loose / "labels.csv")[1]["train"]] == [0, 1]


@pytest.mark.slow
def test_pipes_are_not_read(loose, read):
    os.mkfifo(loose / "images" / "pipe.bmp")
    os.mkfifo(loose / "pipe.csv")
    (loose / "labels.csv").write_text("path,label\nimages/pipe.bmp,cat\nimages/dog20.bmp,dog\n")
    for name, words in (("labels.csv", "not below"), ("pipe.csv", "cannot be read (not a regular file)")):
        status, text = read("--data.root", str(loose), "--data.labels", str(loose / name))
        assert (status, words in text) == (2, True), text


def test_labels_that_change_replace_the_cache(loose):
    labels = write_labels(loose, "path,label", lambda path, name: f"{path},{name}")
    for dogs in (8, 9):
        dataset = load_folder(loose, labels)
        assert dataset.train.labels.sum() + dataset.test.labels.sum() == dogs
        labels.write_text(labels.read_text().replace("deep/cat0.bmp,cat", "deep/cat0.bmp,dog"))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "labels.csv has no column path: its first row is ''"),
        ("a,b,c\n", "has no column path: its first row is 'a,b,c'; name the columns there"),
        ("path,b,c\n", "has no column label"),
        (
            "path,label\nabsent.jpg,cat\ncat1,cat\nneither,dog",
            "names images that are not below ROOT: absent.jpg, neither",
        ),
        ("path,label\ncat1,cat\nimages/cat1.bmp,dog", "line 3: images/cat1.bmp is also in line 2: remove one"),
        ("path,label\nother/cat1.bmp,cat\ndog20,dog", "names images that are not below ROOT: other/cat1.bmp"),
        ("path,label\ncat1,", "line 2: it lacks a path or a label"),
        ("path,label,split\ncat1,cat,holdout", "line 2: the split 'holdout' is none of train, val, test"),
        (
            "path,label\ncat1,cat",
            "error: ROOT/labels.csv needs images of at least two classes, got cat: add rows of other classes",
        ),
        ("path,label\ncat1,big, brown cat", "line 2: it has more values than the first row: quote those with a comma"),
        ('path,label\ncat1,"cat\ncat2,dog\n', "line 3: a value of several lines ends here: is a quote not closed?"),
        (
            "path,label,split\ncat1,cat,train\ncat2,dog,train\ncat3,eel,test",
            "test has the class 'eel', train only cat, dog: rename one in ROOT/labels.csv",
        ),
        ("path,label\nsame,cat\ndog20,dog", "line 2: same may be ROOT/images/same.bmp or ROOT/images/deep/same.bmp"),
        (b"\xff\xfe", "cannot be read ("),
        (None, "cannot be read (No such file or directory)"),
    ],
)
def test_csv_files_that_cannot_be_used_are_explained(loose, read, text, words):
    for folder in ("images", "images/deep"):
        shutil.copy(loose / "images" / "cat1.bmp", loose / folder / "same.bmp")
    labels = loose / "labels.csv"
    if text is not None:
        labels.write_bytes(text if isinstance(text, bytes) else text.encode())
    status, found = read("--data.root", str(loose), "--data.labels", str(labels))
    assert (status, words.replace("ROOT", str(loose)) in found) == (2, True), found
