"""``export``: a trained model as one file to take away, held against the original before it is there, and its card."""

import os
import tempfile
from importlib.util import find_spec
from pathlib import Path

from lightning_cifar.data.listing import find_images
from lightning_cifar.errors import DISK_FULL, InputError
from lightning_cifar.options import PRETRAINED_NAME, WEIGHTS, Arguments

SUFFIXES = {"safetensors": WEIGHTS, "onnx": ".onnx", "torch.export": ".pt2"}
EXTRA = ("onnx", "onnxscript", "onnxruntime")


def parser() -> Arguments:
    arguments = Arguments(
        "export",
        description="Writes a trained model as one file to take away, held against the original, and its model card.",
    )
    add = arguments.add_argument
    add("--ckpt_path", required=True, help=f"a checkpoint, a .safetensors file, or {PRETRAINED_NAME}")
    add("--output", type=Path, required=True, help=f"a new file, {', '.join(SUFFIXES.values())}; its card: FILE.md")
    add("--format", choices=SUFFIXES, help="default: what the suffix of --output says")
    add("--int8", action="store_true", help="ONNX in 8 bits: smaller, faster on a CPU, a little less accurate")
    add("--images", nargs="+", metavar="PATH", help="pictures to check it on, and to calibrate --int8 by: files, "
        "folders, patterns; default: those the model was trained and tested on, where they are found")  # fmt: skip
    return arguments


def main(args: list[str]) -> int:
    """Runs the command and returns its exit status.

    Raises:
        InputError: bad arguments.
        SystemExit: the file does not agree with the model, and was not kept.
    """
    own = parser().parse_args(args)
    form = format_of(own.output, own.format, own.int8)
    card = own.output.with_name(f"{own.output.name}.md")
    for file in (own.output, card):
        check_new(file)
    paths = list(find_images(own.images or []))
    if own.images and not paths:
        raise InputError(f"--images {' '.join(own.images)}: there is no picture")
    from lightning_cifar.commands.export.card import facts_of, model_card
    from lightning_cifar.commands.export.check_images import pictures
    from lightning_cifar.commands.export.formats import exported
    from lightning_cifar.train.weights import find_checkpoint, get_class_names, load_model

    checkpoint = find_checkpoint(own.ckpt_path)
    model = load_model(checkpoint)
    facts = facts_of(checkpoint, get_class_names(model))
    which, images, real = pictures(paths, checkpoint)
    if own.int8 and real is None:
        raise InputError(
            "--int8 is calibrated on real images, and those of the model are not found: name some by --images"
        )
    content, check = exported(model, form, own.output.name, facts, images, real if own.int8 else None)
    checked = check.told(which)
    if not check.passed:
        raise SystemExit(f"{own.output} was not written, for it does not agree with the model: {checked}")
    keep(own.output, content)
    keep(card, model_card(facts, dict(model.hparams), own.output.name, form, checked).encode())
    print(f"checked: {checked}\nmodel: {own.output}, {len(content) / 1e6:.1f} MB\ncard: {card}")
    return 0


def format_of(output: Path, named: str | None, int8: bool) -> str:
    """The format that is asked for, by name or by suffix; what it needs must be installed."""
    form = named or next((form for form, suffix in SUFFIXES.items() if suffix == output.suffix), None)
    if form is None:
        raise InputError(f"--output {output}: name it {', '.join(SUFFIXES.values())}, by what it is to be")
    if output.suffix != SUFFIXES[form]:
        raise InputError(f"--output {output}: a file of --format {form} is called {output.stem}{SUFFIXES[form]}")
    if int8 and form != "onnx":
        raise InputError(f"--int8 is for --format onnx, not {form}")
    if form == "onnx" and not all(map(find_spec, EXTRA)):
        raise InputError("export --format onnx needs the extra: pip install 'lightning-cifar[onnx]'")
    return form


def check_new(file: Path) -> None:
    """Before the work is done: whether it is a new file, where one can be written."""
    try:
        if os.path.lexists(file):
            raise InputError(f"--output: {file} is there already; remove it, or name another")
        tempfile.TemporaryFile(dir=file.parent).close()
    except OSError as error:
        raise InputError(f"--output {file}: {error.strerror}") from error


def keep(file: Path, content: bytes) -> None:
    from lightning_cifar.files import write_whole

    try:
        write_whole(file, content)
    except OSError as error:
        if error.errno in DISK_FULL:
            raise
        raise InputError(f"cannot write {file}: {error.strerror}") from error
