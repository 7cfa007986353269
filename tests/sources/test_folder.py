"""Image folders: their classes and parts, the cache, and errors about bad files."""

import errno
import os
import pwd
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, features

from lightning_cifar.data.module import CIFAR10DataModule
from lightning_cifar.data.square import Square
from lightning_cifar.sources import folder
from lightning_cifar.sources.cache import locate_cache
from lightning_cifar.sources.folder import load_folder
from tests.sources.pixels import make_noise, read_with_pillow

# -------------------------------------------------------------------------------------------------- listing


def test_parts_labels_and_names_follow_the_folders(image_folder):
    dataset = load_folder(image_folder)
    assert dataset.class_names == ("cat", "dog")
    for name, part in (("train", dataset.train), ("val", dataset.val), ("test", dataset.test)):
        files = sorted((image_folder / name).glob("*/*"))
        assert part.labels.tolist() == [("cat", "dog").index(file.parent.name) for file in files]
        assert np.array_equal(part.images.permute(0, 2, 3, 1), [read_with_pillow(file) for file in files])
        assert part.images.dtype == torch.uint8
        assert part.labels.dtype == torch.int64
        assert part.images.is_contiguous(memory_format=torch.channels_last)


def test_val_is_optional(image_folder):
    shutil.rmtree(image_folder / "val")
    dataset = load_folder(image_folder)
    assert dataset.val is None
    assert (len(dataset.train), len(dataset.test)) == (18, 3)
    assert load_folder(image_folder).val is None  # from the cache too


def test_hidden_and_stray_files_are_ignored(image_folder):
    expected = load_folder(image_folder).fingerprint()
    (image_folder / "train" / "cat" / ".DS_Store").write_text("x")
    (image_folder / "train" / ".ipynb_checkpoints").mkdir()
    (image_folder / "train" / "README").write_text("x")
    (image_folder / "README").write_text("x")
    assert load_folder(image_folder).fingerprint() == expected


def test_symbolic_links_are_followed(image_folder, tmp_path):
    expected = load_folder(image_folder).fingerprint()
    (image_folder / "train" / "cat").rename(tmp_path / "elsewhere")
    (image_folder / "train" / "cat").symlink_to(tmp_path / "elsewhere")
    assert load_folder(image_folder).fingerprint() == expected


# ---------------------------------------------------------------------------------------------------------- the cache


@pytest.fixture
def cache_home(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "lightning-cifar"


@pytest.fixture
def decodes(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the parts decoded so far."""
    parts: list[str] = []
    decode_all = folder.decode_all
    monkeypatch.setattr(folder, "decode_all", lambda part, *rest: parts.append(part) or decode_all(part, *rest))
    return parts


def test_second_load_is_equal_and_decodes_nothing(image_folder, decodes):
    first = load_folder(image_folder)
    assert decodes == ["train", "val", "test"]
    second = load_folder(image_folder)
    assert decodes == ["train", "val", "test"]
    assert second.fingerprint() == first.fingerprint()
    for name in ("train", "val", "test"):
        assert torch.equal(getattr(second, name).images, getattr(first, name).images)
        assert torch.equal(getattr(second, name).labels, getattr(first, name).labels)
    assert second.class_names == first.class_names


@pytest.mark.parametrize("spelling", ["images", "images/../images", "."])
def test_cache_is_the_same_however_the_folder_is_spelled(image_folder, decodes, monkeypatch, spelling):
    load_folder(image_folder)
    decodes.clear()
    monkeypatch.chdir(image_folder if spelling == "." else image_folder.parent)
    load_folder(Path(spelling))
    assert decodes == []


def test_folders_of_the_same_name_have_separate_caches(image_folder, tmp_path):
    other = tmp_path / "other" / "images"
    shutil.copytree(image_folder, other)
    (other / "train" / "cat" / "image-00.bmp").unlink()
    for _ in range(2):
        assert (len(load_folder(image_folder).train), len(load_folder(other).train)) == (18, 17)


def test_image_folder_is_not_modified(image_folder):
    before = sorted(image_folder.rglob("*"))
    load_folder(image_folder)
    assert sorted(image_folder.rglob("*")) == before


def change(file: Path) -> None:
    size = file.stat().st_size
    Image.fromarray(make_noise(32, 32, seed=9)).save(file)
    assert file.stat().st_size == size


def change_and_set_times_back(file: Path) -> None:
    stat = file.stat()
    change(file)
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert file.stat().st_mtime_ns == stat.st_mtime_ns


def add(file: Path) -> None:
    shutil.copy(file, file.with_name("new.bmp"))


def remove(file: Path) -> None:
    file.unlink()


def rename(file: Path) -> None:
    file.rename(file.with_name("z.bmp"))


def move_to_another_class(file: Path) -> None:
    file.rename(file.parent.parent / "dog" / "a.bmp")


def rename_class(file: Path) -> None:
    for part in ("train", "val", "test"):
        (file.parents[2] / part / "cat").rename(file.parents[2] / part / "ant")


def remove_val(file: Path) -> None:
    shutil.rmtree(file.parents[2] / "val")


@pytest.mark.parametrize(
    ("part", "edit"),
    [
        ("train", change),
        ("val", change),
        ("test", change),
        ("train", change_and_set_times_back),
        ("test", change_and_set_times_back),
        ("train", add),
        ("train", remove),
        ("train", rename),
        ("train", move_to_another_class),
        ("train", rename_class),
        ("train", remove_val),
    ],
)
def test_cache_is_replaced_after_any_edit(image_folder, tmp_path, monkeypatch, part, edit):
    before = load_folder(image_folder).fingerprint()
    edit(image_folder / part / "cat" / "image-00.bmp")
    after = load_folder(image_folder).fingerprint()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "no cache here"))
    assert before != after == load_folder(image_folder).fingerprint()


def flip_a_pixel(cache: bytes, pixels: bytes) -> bytes:
    at = cache.index(pixels)
    return cache[:at] + bytes([cache[at] ^ 1]) + cache[at + 1 :]


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda cache, _: b"", id="empty"),
        pytest.param(lambda cache, _: cache[:1], id="one byte"),
        pytest.param(lambda cache, _: cache[: len(cache) // 2], id="half"),
        pytest.param(lambda cache, _: cache[:-1], id="all but a byte"),
        pytest.param(lambda cache, _: b"not a cache\n", id="text"),
        pytest.param(lambda cache, _: make_noise(1, 1000, 1).tobytes(), id="noise"),
        pytest.param(lambda cache, _: b"\x80\x02.", id="pickle of nothing"),
        pytest.param(lambda cache, _: cache.replace(b"serialization_id", b"serialization_i\xe4"), id="broken name"),
        pytest.param(flip_a_pixel, id="one bit of a pixel"),
    ],
)
def test_damaged_cache_is_ignored_and_replaced(image_folder, cache_home, decodes, damage):
    first = load_folder(image_folder)
    (cache,) = cache_home.glob("*.pt")
    damaged = damage(cache.read_bytes(), first.train.images.permute(0, 2, 3, 1).numpy().tobytes())
    assert damaged != cache.read_bytes()
    cache.write_bytes(damaged)
    assert load_folder(image_folder).fingerprint() == first.fingerprint()
    decodes.clear()
    assert load_folder(image_folder).fingerprint() == first.fingerprint()
    assert decodes == []


@pytest.mark.parametrize("stored", [[], {}, {"parts": {}}, "no state"], ids=str)
def test_cache_of_another_layout_is_ignored(image_folder, cache_home, stored):
    expected = load_folder(image_folder).fingerprint()
    (cache,) = cache_home.glob("*.pt")
    if stored == "no state":
        stored = torch.load(cache, weights_only=True)
        del stored["state"]
    torch.save(stored, cache)
    assert load_folder(image_folder).fingerprint() == expected


def test_a_well_formed_cache_of_altered_pixels_is_ignored(image_folder, cache_home):
    expected = load_folder(image_folder).fingerprint()
    (cache,) = cache_home.glob("*.pt")
    stored = torch.load(cache, weights_only=True)
    stored["parts"]["test"][0][0, 0, 0, 0] ^= 1
    torch.save(stored, cache)
    assert load_folder(image_folder).fingerprint() == expected


def test_cache_that_cannot_be_written_only_warns(image_folder, tmp_path, monkeypatch):
    expected = load_folder(image_folder).fingerprint()
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.warns(UserWarning, match=f"could not be cached in {tmp_path / 'file'}"):
        assert load_folder(image_folder).fingerprint() == expected


def test_full_disk_only_warns_and_leaves_no_partial_cache(image_folder, cache_home, full_disk):
    with full_disk(20_000), pytest.warns(UserWarning, match="could not be cached"):
        dataset = load_folder(image_folder)
    assert len(dataset.train) == 18
    assert [file.suffix for file in cache_home.iterdir()] == [".lock"]


# ---------------------------------------------------------------------------------------------------------- bad input


def add_class(part: Path) -> None:
    shutil.copytree(part / "dog", part / "eel")


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        pytest.param(
            lambda root: add_class(root / "test"),
            ["test has", "'eel'", "train only cat, dog: rename one"],
            id="extra test class",
        ),
        pytest.param(
            lambda root: add_class(root / "val"),
            ["val has", "'eel'", "train only cat, dog: rename one"],
            id="extra val class",
        ),
        pytest.param(
            lambda root: [shutil.rmtree(root / part / "dog") for part in ("train", "val", "test")],
            ["images needs images of at least two classes, got cat"],
            id="one class",
        ),
        pytest.param(
            lambda root: [file.unlink() for file in (root / "val" / "dog").iterdir()],
            ["images/val/dog", "empty", "add images"],
            id="empty class",
        ),
        pytest.param(
            lambda root: [file.rename(file.with_name(".hidden")) for file in (root / "val" / "dog").iterdir()],
            ["images/val/dog", "empty", "add images"],
            id="class of hidden files",
        ),
    ],
)
def test_bad_layout_is_named(image_folder, cache_home, bad_input, damage, words):
    damage(image_folder)
    with bad_input(*words):
        load_folder(image_folder)
    assert not cache_home.exists()


@pytest.mark.parametrize("fraction", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("name", ["0.jpg", "0.png", "0.webp", "0.bmp", "0.gif", "0.tiff"])
def test_truncated_image_is_named(image_folder, cache_home, bad_input, name, fraction):
    file = image_folder / "test" / "dog" / name
    Image.fromarray(make_noise(32, 32)).save(file)
    file.write_bytes(file.read_bytes()[: int(fraction * file.stat().st_size)])
    with bad_input(file, "remove it"):
        load_folder(image_folder)
    assert list(cache_home.glob("*.pt")) == []


@pytest.mark.skipif(not features.check("avif"), reason="Pillow was built without AVIF")
def test_damaged_avif_is_named(image_folder, bad_input):
    file = image_folder / "test" / "dog" / "0.avif"
    Image.fromarray(make_noise(32, 32)).save(file)
    content = file.read_bytes()
    middle = content.index(b"mdat") + 4
    file.write_bytes(content[:middle] + bytes(len(content) - middle))
    with bad_input(file, "remove it"):
        load_folder(image_folder)


def test_decompression_bomb_is_refused(image_folder, bad_input, monkeypatch):
    file = image_folder / "train" / "cat" / "bomb.png"
    Image.new("RGB", (64, 64)).save(file)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 64 * 64 // 2 - 1)
    with bad_input(file, "remove it"):
        load_folder(image_folder)


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda file: file.write_text("image,label\n"), id="text"),
        pytest.param(lambda file: file.write_bytes(b""), id="empty"),
        pytest.param(lambda file: file.symlink_to("absent"), id="broken link"),
        pytest.param(lambda file: file.symlink_to(file.name), id="link to itself"),
    ],
)
def test_a_file_that_is_not_an_image_is_named(image_folder, bad_input, make):
    file = image_folder / "train" / "dog" / "labels.jpg"
    make(file)
    with bad_input(file, "remove it"):
        load_folder(image_folder)


def test_each_size_and_rule_has_its_cache(image_folder):
    squares = [Square(), Square(64), Square(64, "letterbox")]
    first = [load_folder(image_folder, square=square) for square in squares]
    assert [dataset.train.images.shape for dataset in first] == [(18, 3, side, side) for side in (32, 64, 64)]
    caches = {locate_cache(image_folder, square) for square in squares}
    assert {*(Path("cache").resolve() / "lightning-cifar").glob("*.pt")} == caches
    assert len(caches) == 3
    for square, dataset in zip(squares, first, strict=True):
        assert load_folder(image_folder, square=square).fingerprint() == dataset.fingerprint()


def test_files_and_memory_give_the_same_images(image_folder):
    for square in (Square(64), Square(48, "letterbox")):
        eager, lazy = (load_folder(image_folder, None, square, kept).test for kept in (True, False))
        assert torch.equal(lazy.sample(3).images, eager.images)


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
