"""Valid arguments of `CIFAR10DataModule`."""

from collections.abc import Mapping
from typing import Any, Literal

from lightning_cifar.data.source import SourceName
from lightning_cifar.data.square import SIZE, NonSquare
from lightning_cifar.errors import InputError, check_choice, check_flag, check_range

HeldOut = Literal["val", "test"]
LARGEST = 224  # pixels
LARGEST_PADDING = 127  # the draw of a crop, up to twice the padding, is a byte
LOCATIONS = ("root", "url", "archive", "labels")  # where the data lies: named by the user only


def check_arguments(values: Mapping[str, Any]) -> None:
    """Raise `InputError` for the first argument that is not allowed."""
    for name, choices in (("dataset", SourceName), ("held_out", HeldOut), ("non_square", NonSquare)):
        check_choice(name, values[name], choices)
    for name, other in (("flip", "alternating"), ("in_memory", "auto"), ("drop_last", ""), ("balanced", "")):
        check_flag(name, values[name], other)
    for name in (*LOCATIONS, "sizes", "size_shares", "classes"):
        if not isinstance(values[name], str | None if name in LOCATIONS else list | None):
            kind = "text" if name in LOCATIONS else "a list"
            raise InputError(f"{name} must be {kind} or null, got {values[name]!r}")
    size = values["image_size"]
    check_range("image_size", size, f"[{SIZE}, {LARGEST}]", whole=True)
    check_range("crop_padding", values["crop_padding"], f"[0, {min(size - 1, LARGEST_PADDING)}]", whole=True)
    check_range("cutout", values["cutout"], f"[0, {size}]", whole=True)
    sizes, shares = [size] if values["sizes"] is None else values["sizes"], values["size_shares"]
    check_range("the number of sizes", len(sizes), "[1, inf)")
    for one in sizes:
        check_range("sizes", one, f"[8, {size}]", whole=True)
    for share in shares or ():
        check_range("size_shares", share, "(0, 1e9]")
    if shares is not None and not len(shares) == len(sizes) > 1:
        problem = f"size_shares must have one share for each of several sizes, got {shares} for sizes {sizes}"
        raise InputError(f"{problem}; leave it out for equal shares")
    check_range("batch_size", values["batch_size"], "[1, inf)", whole=True)
    check_range("eval_batch_size", values["eval_batch_size"], "[1, inf)", whole=True)
    check_range("split_seed", values["split_seed"], "[-1e18, 1e18]", whole=True)
    check_range("num_workers", values["num_workers"] or 0, "[0, inf)", whole=True)
    for name, given in (("in_memory", values["in_memory"] is False), ("labels", values["labels"] is not None)):
        if given and values["dataset"] != "folder":
            raise InputError(f"{name} {values[name]} needs dataset folder, got {values['dataset']}")
