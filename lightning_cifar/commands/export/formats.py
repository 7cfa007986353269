"""Export of a trained classifier in three formats, each checked against the PyTorch model.

An exported model takes uint8 RGB images (B, 3, H, W) of any B and of the model's size, with the normalisation inside,
and returns logits (B, K) without test-time augmentation, divided by the model's temperature. The classifier itself is
exported; there is no second definition of the network.
"""

import copy
import io
import json
import logging
import sys
from collections.abc import Callable, Iterable
from contextlib import redirect_stderr
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn

from lightning_cifar.commands.export.quantise import quantise, silence_logs
from lightning_cifar.errors import InputError, reason
from lightning_cifar.files import WEIGHTS, write_whole
from lightning_cifar.run.process.exit_status import is_out_of_memory
from lightning_cifar.run.weights import get_square, load_pretrained, save_weights
from lightning_cifar.train.classifier import ImageClassifier

BATCH = 250  # images checked at once, after a few smaller batches
TOLERANCE = 1e-4  # float32: largest difference relative to the largest logit; 3e-6 was measured
LEAST_AGREEMENT = 0.9  # int8: fraction of images; 0.97 was measured
FACTS = "facts.json"  # in torch.export's archive


@dataclass(frozen=True)
class Check:
    """Agreement of an exported file with the PyTorch model over ``images`` images."""

    images: int
    difference: float  # largest, of any logit
    largest: float  # largest absolute logit
    agreement: float  # fraction of images with the same likeliest class
    int8: bool

    @property
    def passed(self) -> bool:
        if self.int8:
            return self.agreement >= LEAST_AGREEMENT
        return self.agreement == 1 and self.difference <= TOLERANCE * self.largest

    def describe(self, which: str) -> str:
        """Return one line; ``which`` names the images."""
        same = f"{'all' if self.agreement == 1 else f'{self.agreement:.2%}'} of {self.images:,} {which}"
        if self.images == self.agreement == 1:
            same = f"the only {which.replace('images', 'image', 1)}"
        return (
            f"{'int8, ' if self.int8 else ''}same class on {same}, "
            f"largest logit difference {self.difference:.1e} (largest logit {self.largest:.1f})"
        )


def export_model(
    model: ImageClassifier,
    file_format: str,
    name: str,
    facts: dict[str, Any],
    images: Tensor,
    calibration: Tensor | None = None,
) -> tuple[bytes, Check]:
    """Return the content of the file ``name``, which ends in ``.pt2`` for ``torch.export``, and its agreement.

    The model is on the CPU, in evaluation mode. ``facts`` are plain values stored in the file, among them ``held_out``.
    The file is checked on ``images``, uint8 (N, 3, H, W), and quantised with those of ``calibration``; None: float32.
    """
    write, open_model = FORMATS[file_format]
    with TemporaryDirectory() as folder:
        file = Path(folder) / name
        noise = io.StringIO()
        try:
            # torch logs and prints the graph of a network that it cannot export
            with silence_logs(logging.CRITICAL), redirect_stderr(noise):
                write(model, file, facts)
        except Exception as error:  # of torch's exporters, about code of the user
            if isinstance(error, InputError | OSError) or is_out_of_memory(error):
                raise
            cause = error.__cause__ if isinstance(error.__cause__, Exception) else error  # ONNX's describes its steps
            remedy = f"{'' if name.endswith(WEIGHTS) else f'export {WEIGHTS}, or '}keep the checkpoint"
            raise InputError(f"this network cannot be exported as {file_format} ({reason(cause)}): {remedy}") from error
        print(noise.getvalue(), end="", file=sys.stderr)
        if calibration is not None:
            quantise(file, calibration)
        return file.read_bytes(), compare_outputs(model, open_model(file), images, calibration is not None)


@torch.inference_mode()
def compare_outputs(model: ImageClassifier, exported: Callable[[Tensor], Tensor], images: Tensor, int8: bool) -> Check:
    batches = [images[:1], images[1:3], images[3:10], *images[10:].split(BATCH)]
    pairs = [(model(batch) / model.temperature, exported(batch)) for batch in batches if len(batch)]
    ours, theirs = (torch.cat(logits) for logits in zip(*pairs, strict=True))
    return Check(
        len(images),
        float((ours - theirs).abs().max()),
        float(ours.abs().max()),
        float((ours.argmax(1) == theirs.argmax(1)).double().mean()),
        int8,
    )


class Calibrated(nn.Module):
    """Logits of a classifier, divided by its temperature: their softmax is its probabilities."""

    def __init__(self, model: ImageClassifier) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        return self.model(images) / self.model.temperature


def prepare_for_export(model: ImageClassifier) -> tuple[nn.Module, tuple[Tensor], tuple[dict[int, Any]]]:
    """Return what torch's exporters take: the model, example arguments, and their free dimensions."""
    # torch.export warns when it writes weights that are not contiguous.
    model = copy.deepcopy(model).requires_grad_(False).to(memory_format=torch.contiguous_format)
    side = get_square(model.hparams).side
    exported = model if model.temperature == 1 else Calibrated(model).eval()
    return exported, (torch.zeros(2, 3, side, side, dtype=torch.uint8),), ({0: torch.export.Dim("batch")},)


def write_safetensors(model: ImageClassifier, file: Path, facts: dict[str, Any]) -> None:
    if extra := [name for name, value in model.state_dict().items() if not isinstance(value, Tensor)]:
        remedy = "export .onnx or .pt2, or keep the checkpoint"
        raise InputError(f"{WEIGHTS} files hold tensors only, and {extra[0]} of the network is none: {remedy}")
    save_weights(model, file, **facts)


def write_program(model: ImageClassifier, file: Path, facts: dict[str, Any]) -> None:
    exported, example, free = prepare_for_export(model)
    program = torch.export.export(exported, example, dynamic_shapes=free)
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # paths of this machine
    content = io.BytesIO()  # torch does not say that a disk is full
    torch.export.save(program, content, extra_files={FACTS: json.dumps(facts)})
    write_whole(file, content.getvalue())


def open_program(file: Path) -> Callable[[Tensor], Tensor]:
    program: Callable[[Tensor], Tensor] = torch.export.load(file).module()
    return program


def write_onnx(model: ImageClassifier, file: Path, facts: dict[str, Any]) -> None:
    import onnx

    exported, example, free = prepare_for_export(model)
    program = torch.onnx.export(
        exported,
        example,
        dynamo=True,
        dynamic_shapes=free,
        input_names=["images"],
        output_names=["logits"],
        verbose=False,
    )
    assert program is not None
    proto = program.model_proto
    for part in (proto.graph, *proto.functions):
        remove_source_paths(part.node)
    onnx.helper.set_model_props(proto, {name: json.dumps(value) for name, value in facts.items()})
    write_whole(file, proto.SerializeToString())


def remove_source_paths(nodes: Iterable[Any]) -> None:
    """Delete stack traces from ONNX nodes and their subgraphs: they hold paths of this machine."""
    for node in nodes:
        del node.metadata_props[:]
        for attribute in node.attribute:
            remove_source_paths(attribute.g.node)


def open_onnx(file: Path) -> Callable[[Tensor], Tensor]:
    from onnxruntime import InferenceSession

    session = InferenceSession(file, providers=["CPUExecutionProvider"])
    return lambda images: torch.from_numpy(session.run(["logits"], {"images": images.numpy()})[0])


FORMATS: dict[str, tuple[Callable[..., None], Callable[[Path], Callable[[Tensor], Tensor]]]] = {
    "safetensors": (write_safetensors, lambda file: Calibrated(load_pretrained(file))),
    "onnx": (write_onnx, open_onnx),
    "torch.export": (write_program, open_program),
}
