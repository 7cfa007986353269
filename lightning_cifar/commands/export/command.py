"""``export``: a trained model as one file, checked against the PyTorch model, with a model card."""

import os
import tempfile
from pathlib import Path

from lightning_cifar.errors import InputError, check_range, reason, require_extra
from lightning_cifar.evaluate.listing import find_images
from lightning_cifar.files import WEIGHTS, open_atomically, write_whole
from lightning_cifar.run.records.stored_files import DAMAGED
from lightning_cifar.run.settings.options import Arguments, add_checkpoint, check_parent

SUFFIXES = {"safetensors": WEIGHTS, "onnx": ".onnx", "torch.export": ".pt2"}
EXTRA = ("onnx", "onnxscript", "onnxruntime")


def parser() -> Arguments:
    arguments = Arguments(
        "export",
        description="Write a trained model as one file, checked against the PyTorch model, with a model card.",
    )
    add_checkpoint(arguments, required=True)
    add = arguments.add_argument
    add("--output", type=Path, required=True, help=f"new file: {', '.join(SUFFIXES.values())}; the card is FILE.md")
    add("--format", choices=SUFFIXES, help="default: by the suffix of --output")
    add("--int8", action="store_true", help="quantise ONNX to 8 bits: smaller, faster on a CPU, slightly less accurate")
    add("--images", nargs="+", metavar="PATH", help="files, folders or patterns of images for the check and the "
        "calibration of --int8; default: the model's test and training data, if found")  # fmt: skip
    for name, meaning in (("root", "directory"), ("labels", "CSV file")):
        add(f"--data.{name}", dest=name, metavar="PATH", help=f"{meaning} of the model's data, as in training")
    return arguments


def main(args: list[str]) -> int:
    """Run the command and return its exit status; `SystemExit` if the exported file disagrees with the model."""
    options = parser().parse_args(args)
    file_format = choose_format(options.output, options.format, options.int8)
    card = options.output.with_name(f"{options.output.name}.md")
    for file in (options.output, card):
        check_new_file(file)
    paths = list(find_images(options.images or []))
    if options.images and not paths:
        raise InputError(f"--images {' '.join(options.images)}: no image found")
    for name in ("root", "labels"):
        if paths and getattr(options, name):
            print(f"note: --data.{name} has no effect: --images are checked")
    from lightning_cifar.commands.export.card import collect_facts, format_card
    from lightning_cifar.commands.export.check_images import load_images
    from lightning_cifar.commands.export.formats import export_model
    from lightning_cifar.run.weights import find_checkpoint, get_class_names, load_pretrained

    checkpoint = find_checkpoint(options.ckpt_path)
    model = load_pretrained(checkpoint)
    about = dict(model.hparams), options.output.name, file_format
    try:
        facts = collect_facts(checkpoint, get_class_names(model))
        model.temperature = facts.get("temperature", 1.0)
        check_range(f"the temperature of {checkpoint} or of its test", model.temperature, "(0, 1e9]")
        format_card(facts, *about, checked="")  # before the work
    except InputError:
        raise
    except DAMAGED as error:
        remedy = "name another file" if checkpoint.suffix == WEIGHTS else "export a copy of it without its run"
        raise InputError(f"the facts about {checkpoint} are damaged ({reason(error)}): {remedy}") from error
    which, images, calibration = load_images(
        paths, checkpoint, model.hparams, {"root": options.root, "labels": options.labels}
    )
    if options.int8 and calibration is None:
        raise InputError("--int8 needs images to calibrate with, and the model's data was not found: set --images")
    if file_format != "safetensors":
        print(f"exporting to {file_format}, which may take a minute", flush=True)
    content, check = export_model(
        model, file_format, f"model{SUFFIXES[file_format]}", facts, images, calibration if options.int8 else None
    )
    checked = check.describe(which)
    if not check.passed:
        raise SystemExit(f"{options.output} was not written because it disagrees with the model: {checked}")
    text = format_card(facts, *about, check.describe(which.partition(" (")[0]))  # without the advice
    with open_atomically(options.output, "wb") as file:  # both files or none
        file.write(content)
        write_whole(card, text.encode(errors="backslashreplace"))
    print(f"checked: {checked}\nmodel: {options.output}, {len(content) / 1e6:.1f} MB\ncard: {card}")
    return 0


def choose_format(output: Path, named: str | None, int8: bool) -> str:
    """Return the format by its name or by the suffix of ``output``; the packages that it needs must be installed."""
    chosen = named or next((name for name, suffix in SUFFIXES.items() if suffix == output.suffix), None)
    if chosen is None:
        raise InputError(f"--output {output}: the suffix must be one of {', '.join(SUFFIXES.values())}")
    if output.suffix != SUFFIXES[chosen]:
        raise InputError(f"--output {output}: --format {chosen} needs the suffix {SUFFIXES[chosen]}")
    if int8 and chosen != "onnx":
        raise InputError(f"--int8 needs --format onnx, got {chosen}")
    if chosen == "onnx":
        require_extra("export --format onnx", "onnx", EXTRA)
    return chosen


def check_new_file(file: Path) -> None:
    """Raise `InputError` unless ``file`` is new and can be written, before the work is done."""
    if os.path.lexists(file):
        raise InputError(f"--output {file} exists: remove it or name another file")
    check_parent(file)
    try:
        tempfile.TemporaryFile(dir=file.parent).close()
    except OSError as error:
        raise InputError(f"--output {file}: {error.strerror}") from error
