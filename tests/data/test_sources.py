"""Sources are held to what was put in: pixels, labels and names; and to one clear line when it cannot be had.

The CIFAR archives are made here, in the published format but with random pixels, and served from this machine.
"""

import gc
import hashlib
import io
import os
import pickle
import shutil
import socket
import sys
import tarfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.datasets import CIFAR10, CIFAR100

from lightning_cifar.data import sources
from lightning_cifar.data.sources import Dataset, ImageSet, load_cifar, load_digits, stratified_split

# ------------------------------------------------------------------------------------------------------------- splits

UNBALANCED = torch.repeat_interleave(torch.arange(5), torch.tensor([1, 2, 7, 30, 60]))
LABELS = {
    "balanced": torch.arange(100) % 10,
    "unbalanced": UNBALANCED,
    "shuffled": UNBALANCED[torch.randperm(100, generator=torch.Generator().manual_seed(0))],
    "with a gap": torch.arange(90) % 3 * 2,
    "one class": torch.zeros(20, dtype=torch.int64),
}


@pytest.mark.parametrize("size", [0, 1, 7, 10, 19])
@pytest.mark.parametrize("labels", LABELS.values(), ids=LABELS.keys())
def test_split_is_disjoint_whole_and_stratified(labels, size):
    rest, held_out = stratified_split(labels, size, seed=0)
    assert len(held_out) == size
    assert sorted(rest.tolist() + held_out.tolist()) == list(range(len(labels)))
    for label in labels.unique():
        share = (labels == label).sum() * size / len(labels)
        assert abs((labels[held_out] == label).sum() - share) < 1


def test_split_is_ascending():
    for part in stratified_split(LABELS["shuffled"], 30, seed=0):
        assert torch.equal(part, part.sort().values)


def test_split_is_exact_where_shares_are_whole():
    _, held_out = stratified_split(LABELS["balanced"], 30, seed=0)
    assert torch.equal(LABELS["balanced"][held_out].bincount(), torch.full((10,), 3))


def test_split_is_a_function_of_its_seed_alone():
    splits = []
    for seed in (1, 1, 2):
        torch.manual_seed(len(splits))  # the global generator has no part in it
        splits.append(stratified_split(LABELS["balanced"], 30, seed)[1].tolist())
    assert splits[0] == splits[1] != splits[2]


@pytest.mark.parametrize("size", [-1, 100, 101])
def test_split_size_out_of_range_is_named(size):
    with pytest.raises(ValueError, match=f"size .* {size}$"):
        stratified_split(LABELS["balanced"], size, seed=0)


# ------------------------------------------------------------------------------------------------------------- digits


def test_digits_are_32x32_rgb_in_the_full_range():
    digits = load_digits()
    for part, count in ((digits.train, 1437), (digits.test, 360)):
        assert part.images.dtype == torch.uint8
        assert part.images.shape == (count, 3, 32, 32)
        assert part.images.is_contiguous(memory_format=torch.channels_last)
        assert (part.images.min(), part.images.max()) == (0, 255)
        assert torch.equal(part.images[:, 0], part.images[:, 1])
        assert torch.equal(part.images[:, 0], part.images[:, 2])
        assert part.labels.dtype == torch.int64
    assert digits.val is None
    assert digits.class_names == tuple("0123456789")


def test_every_digit_is_in_one_part_enlarged_as_by_pillow():
    from sklearn import datasets

    digits, original = load_digits(), datasets.load_digits()
    large = [
        np.asarray(Image.fromarray(grey.astype(np.float32) * 255 / 16).resize((32, 32), Image.Resampling.BILINEAR))
        for grey in original.images
    ]
    expected = sorted((np.rint(x).astype(np.uint8).tobytes(), y) for x, y in zip(large, original.target, strict=True))
    found = sorted(
        (image[0].numpy().tobytes(), int(label))
        for part in (digits.train, digits.test)
        for image, label in zip(part.images, part.labels, strict=True)
    )
    assert len(found) == len({pixels for pixels, _ in found}) == 1797  # all distinct, so train and test are disjoint
    assert found == expected


def test_digits_test_set_is_stratified():
    digits = load_digits()
    counts = digits.train.labels.bincount() + digits.test.labels.bincount()
    assert ((digits.test.labels.bincount() - counts / 1797 * 360).abs() < 1).all()


def test_digits_are_the_same_each_time():
    torch.manual_seed(1)
    first = load_digits().fingerprint()
    torch.manual_seed(2)
    assert load_digits().fingerprint() == first


def test_digits_without_scikit_learn_names_the_extra(monkeypatch, bad_input):
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with bad_input("digits", "scikit-learn", "pip install 'lightning-cifar[digits]'"):
        load_digits()


# -------------------------------------------------------------------------------------------------------------- CIFAR


@dataclass
class Published:
    """An archive made here that stands for the published one."""

    name: str
    source: type[CIFAR10]
    archive: Path
    pixels: dict[str, np.ndarray]  # (N, 3, 32, 32), by part
    labels: dict[str, list[int]]
    class_names: tuple[str, ...]

    def is_what_was_read(self, dataset: Dataset) -> bool:
        return (
            dataset.val is None
            and dataset.class_names == self.class_names
            and all(
                part.images.dtype == torch.uint8
                and part.labels.dtype == torch.int64
                and np.array_equal(part.images.numpy(), self.pixels[name])
                and part.labels.tolist() == self.labels[name]
                for name, part in (("train", dataset.train), ("test", dataset.test))
            )
        )


def pickled(content: dict) -> bytes:
    """As Python 2 and the NumPy of 2009 wrote it: old module name, integers for the flags of the dtype."""
    return pickle.dumps(content, 2).replace(b"numpy._core", b"numpy.core").replace(b"\x89\x88\x87", b"K\0K\1\x87", 1)


@pytest.fixture(params=[("cifar10", CIFAR10), ("cifar100", CIFAR100)], ids=["cifar10", "cifar100"])
def published(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Published:
    name, source = request.param
    classes = 10 if name == "cifar10" else 100
    rng = np.random.default_rng(classes)
    files: dict[str, bytes] = {}
    pixels, labels = {}, {}
    for part, batches in (("train", source.train_list), ("test", source.test_list)):
        pixels[part] = rng.integers(256, size=(6 * len(batches), 3, 32, 32), dtype=np.uint8)
        labels[part] = rng.integers(classes, size=6 * len(batches)).tolist()
        for index, (file, _) in enumerate(batches):
            chunk = slice(6 * index, 6 * index + 6)
            content = {"data": pixels[part][chunk].reshape(6, 3072), "filenames": ["x.png"] * 6}
            if name == "cifar10":
                content["labels"] = labels[part][chunk]
            else:
                content |= {"fine_labels": labels[part][chunk], "coarse_labels": [0] * 6}
            files[file] = pickled(content)
    class_names = tuple(f"class {index}" for index in rng.permutation(classes))
    files[source.meta["filename"]] = pickled({source.meta["key"]: list(class_names)})

    archive = tmp_path / "made.tar.gz"
    with tarfile.open(archive, "w:gz", compresslevel=1) as tar:
        for file, content in files.items():
            member = tarfile.TarInfo(f"{source.base_folder}/{file}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))

    md5 = {file: hashlib.md5(content).hexdigest() for file, content in files.items()}
    for batches in ("train_list", "test_list"):
        monkeypatch.setattr(source, batches, [[file, md5[file]] for file, _ in getattr(source, batches)])
    monkeypatch.setattr(source, "meta", source.meta | {"md5": md5[source.meta["filename"]]})
    monkeypatch.setattr(source, "tgz_md5", hashlib.md5(archive.read_bytes()).hexdigest())
    monkeypatch.setattr(source, "url", "http://127.0.0.1:9/")  # nothing is ever asked from the authors' host
    return Published(name, source, archive, pixels, labels, class_names)


class Mirror(ThreadingHTTPServer):
    """Serves one folder; can hang up or fall silent after some bytes of a body, or wait until two have asked."""

    last_byte: int | None = None
    silent: threading.Event | None = None
    together: threading.Barrier | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Answer(SimpleHTTPRequestHandler):
    server: Mirror

    def copyfile(self, source, outputfile):
        if self.server.together is not None:
            self.server.together.wait(10)
        outputfile.write(source.read(self.server.last_byte))
        if self.server.silent is not None:
            self.server.silent.wait(10)

    def log_message(self, *_):
        pass


@pytest.fixture
def mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Mirror]:
    """An HTTP server of the folder ``www``."""
    monkeypatch.setenv("no_proxy", "*")
    (tmp_path / "www").mkdir()
    with Mirror(("127.0.0.1", 0), partial(Answer, directory=tmp_path / "www")) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "root"


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


Offer = Callable[[bytes], tuple[dict[str, object], object]]


@pytest.fixture(params=["url", "archive", "root"])
def offer(request: pytest.FixtureRequest, published: Published, mirror: Mirror, root: Path, tmp_path: Path) -> Offer:
    """Offers an archive of these bytes in one of three ways: (arguments of `load_cifar`, what its errors must name)."""

    def by_way(content: bytes) -> tuple[dict[str, object], object]:
        if request.param == "url":
            (tmp_path / "www" / "mirrored.tar.gz").write_bytes(content)
            return {"url": f"{mirror.url}/mirrored.tar.gz"}, f"{mirror.url}/mirrored.tar.gz"
        if request.param == "archive":
            (tmp_path / "mine.tar.gz").write_bytes(content)
            return {"archive": tmp_path / "mine.tar.gz"}, tmp_path / "mine.tar.gz"
        root.mkdir()
        (root / published.source.filename).write_bytes(content)
        return {}, root / published.source.filename

    return by_way


@pytest.fixture
def installed(published: Published, root: Path) -> Path:
    """The extracted folder, put there by the user."""
    with tarfile.open(published.archive) as tar:
        tar.extractall(root, filter="data")
    return root / published.source.base_folder


def test_cifar_is_what_the_archive_holds(published, offer, root):
    given, _ = offer(published.archive.read_bytes())
    assert published.is_what_was_read(load_cifar(published.name, root, **given))
    assert set(names(root)) - {published.source.filename} == {published.source.base_folder}


def test_cifar_comes_from_the_authors_host_by_default(published, mirror, root, tmp_path, monkeypatch):
    shutil.copy(published.archive, tmp_path / "www" / "original.tar.gz")
    monkeypatch.setattr(published.source, "url", f"{mirror.url}/original.tar.gz")
    assert published.is_what_was_read(load_cifar(published.name, root))
    assert names(root) == [published.source.base_folder]


def test_cifar_is_installed_once(published, root):
    load_cifar(published.name, root, archive=published.archive)
    published.archive.unlink()
    assert published.is_what_was_read(load_cifar(published.name, root, archive=published.archive))


@pytest.mark.usefixtures("installed")
def test_cifar_from_an_extracted_folder(published, root):
    assert published.is_what_was_read(load_cifar(published.name, root))
    assert names(root) == [published.source.base_folder]


def test_images_are_channels_last(published, root):
    dataset = load_cifar(published.name, root, archive=published.archive)
    assert dataset.train.images.is_contiguous(memory_format=torch.channels_last)
    assert dataset.test.images.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(("size", "labels"), [(1, [0]), (4, [0, 3, 6, 9]), (10, [*range(10)]), (11, [*range(10)])])
def test_sample_is_evenly_spaced(size, labels):
    images = torch.arange(10, dtype=torch.uint8)[:, None, None, None].expand(-1, 3, 32, 32)
    sample = ImageSet(images, torch.arange(10)).sample(size)
    assert sample.labels.tolist() == sample.images[:, 0, 0, 0].tolist() == labels


def test_two_runs_may_install_at_the_same_time(published, mirror, root, tmp_path):
    shutil.copy(published.archive, tmp_path / "www" / "mirrored.tar.gz")
    mirror.together = threading.Barrier(2)
    load = partial(load_cifar, published.name, root, f"{mirror.url}/mirrored.tar.gz")
    with ThreadPoolExecutor(2) as pool:
        runs = [pool.submit(load) for _ in range(2)]
    assert [published.is_what_was_read(run.result()) for run in runs] == [True, True]
    assert names(root) == [published.source.base_folder]


# -------------------------------------------------------------------------------------------------- CIFAR, bad input


def truncated(content: bytes) -> bytes:
    return content[: len(content) // 2]


def altered(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


def an_error_page(content: bytes) -> bytes:
    return b"<html>Please accept our cookies</html>"


@pytest.mark.parametrize("damage", [truncated, altered, an_error_page])
def test_damaged_archive(published, offer, root, bad_input, damage):
    given, named = offer(damage(published.archive.read_bytes()))
    before = names(root) if root.exists() else []
    with bad_input(named, "truncated or altered", published.source.filename, "--data.url", "--data.archive"):
        load_cifar(published.name, root, **given)
    assert names(root) == before


@pytest.fixture
def refused() -> Iterator[str]:
    """The address of a port that is taken, but at which nobody listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{taken.getsockname()[1]}/x.tar.gz"


def cannot_download(published, root, bad_input, url, *reasons):
    with bad_input(url, *reasons, "--data.url", "--data.archive", "--data.root", published.source.base_folder):
        load_cifar(published.name, root, url)
    assert names(root) == []


def test_not_found(published, mirror, root, bad_input):
    cannot_download(published, root, bad_input, f"{mirror.url}/absent.tar.gz", "not found")
    gc.collect()  # a connection left open would be told of here


def test_connection_refused(published, refused, root, bad_input):
    cannot_download(published, root, bad_input, refused, "refused")


@pytest.mark.parametrize(
    "url", ["cifar-10-python.tar.gz", "htp://x/y.tar.gz", "http://x y/z", "http://[x/y", "file:///absent"]
)
def test_bad_url(published, root, bad_input, url):
    cannot_download(published, root, bad_input, url)


def test_server_falls_silent(published, mirror, root, tmp_path, bad_input, monkeypatch):
    shutil.copy(published.archive, tmp_path / "www" / "mirrored.tar.gz")
    monkeypatch.setattr(sources, "TIMEOUT", 0.1)
    mirror.last_byte, mirror.silent = 1000, threading.Event()
    cannot_download(published, root, bad_input, f"{mirror.url}/mirrored.tar.gz", "timed out")
    mirror.silent.set()


def test_server_hangs_up(published, mirror, root, tmp_path, bad_input):
    shutil.copy(published.archive, tmp_path / "www" / "mirrored.tar.gz")
    mirror.last_byte = 1000
    url = f"{mirror.url}/mirrored.tar.gz"
    with bad_input(url, "--data.url", "--data.archive"):
        load_cifar(published.name, root, url)
    assert names(root) == []


@pytest.mark.parametrize("make", [lambda path: None, Path.mkdir], ids=["absent", "directory"])
def test_archive_is_no_file(published, root, tmp_path, bad_input, make):
    make(tmp_path / "mine.tar.gz")
    with bad_input("--data.archive", tmp_path / "mine.tar.gz", "no such file"):
        load_cifar(published.name, root, archive=tmp_path / "mine.tar.gz")
    assert names(root) == []


@pytest.mark.parametrize("damage", [truncated, altered, None], ids=["truncated", "altered", "missing"])
@pytest.mark.parametrize("which", ["train_list", "test_list", "meta"])
def test_damaged_batch(published, installed, root, bad_input, which, damage):
    listed = getattr(published.source, which)
    batch = installed / (listed["filename"] if which == "meta" else listed[0][0])
    batch.write_bytes(damage(batch.read_bytes())) if damage else batch.unlink()
    before = names(installed)
    with bad_input(installed, "incomplete or altered", "delete it"):
        load_cifar(published.name, root)
    assert names(installed) == before  # it is the user's: nothing is taken away


@pytest.mark.parametrize("below", ["", "root"], ids=["is a file", "is below a file"])
def test_root_cannot_be_made(published, tmp_path, bad_input, below):
    (tmp_path / "file").write_text("mine")
    root = tmp_path / "file" / below
    with bad_input(root, "cannot write", "--data.root", "LIGHTNING_CIFAR_DATA"):
        load_cifar(published.name, root, archive=published.archive)
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_root_cannot_be_written(published, root, bad_input):
    root.mkdir(mode=0o555)
    with bad_input(root, "cannot write", "--data.root", "LIGHTNING_CIFAR_DATA"):
        load_cifar(published.name, root, archive=published.archive)
    assert names(root) == []


def test_disk_is_full(published, offer, root, bad_input, full_disk):
    given, _ = offer(published.archive.read_bytes())
    before = names(root) if root.exists() else []
    with full_disk(10_000), bad_input(root, "cannot write", "--data.root", "LIGHTNING_CIFAR_DATA"):
        load_cifar(published.name, root, **given)
    assert names(root) == before
