"""Models to take away: a trained classifier as one file, of three formats, and its check against the original.

Each takes what `ImageClassifier` takes, uint8 RGB images (B, 3, 32, 32) of any B, with the normalisation inside, and
gives the same logits (B, K), before softmax and without test-time augmentation. What is exported is the classifier
itself; no second form of the network is kept for it.
"""

import copy
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor

from lightning_cifar.commands.export.quantise import quantise
from lightning_cifar.train.classifier import ImageClassifier
from lightning_cifar.train.weights import load_pretrained, save_weights

BATCH = 250  # images that are checked at once, after a few smaller batches
TOLERANCE = 1e-4  # of float32, relative to the largest logit; 3e-6 has been seen
LEAST_AGREEMENT = 0.9  # of int8; 0.97 has been seen
FACTS = "facts.json"  # their name in torch.export's archive


@dataclass(frozen=True)
class Check:
    """How far an exported file agrees with the model, over ``images`` images."""

    images: int
    difference: float  # the largest of any logit
    largest: float  # absolute value of any logit
    agreement: float  # share of images with the same likeliest class
    int8: bool

    @property
    def passed(self) -> bool:
        if self.int8:
            return self.agreement >= LEAST_AGREEMENT
        return self.agreement == 1 and self.difference <= TOLERANCE * self.largest

    def told(self, which: str) -> str:
        """In one line; ``which`` says what images they were."""
        same = "all" if self.agreement == 1 else f"{self.agreement:.2%}"
        return (
            f"{'int8, ' if self.int8 else ''}same class on {same} of {self.images:,} {which}, "
            f"largest difference of a logit {self.difference:.1e} (largest logit {self.largest:.1f})"
        )


def exported(
    model: ImageClassifier,
    form: str,
    name: str,
    facts: dict[str, Any],
    images: Tensor,
    calibration: Tensor | None = None,
) -> tuple[bytes, Check]:
    """The content of a file of that format, and how far it agrees with the model.

    Args:
        model: on the CPU, in evaluation mode.
        form: ``safetensors``, ``onnx`` or ``torch.export``.
        name: of the file; of ``torch.export`` it must end in ``.pt2``.
        facts: plain values that the file tells whoever opens it; ``held_out`` among them.
        images: uint8 (N, 3, 32, 32) to check it on.
        calibration: such images, real ones, by which ONNX is quantised to int8; None: it stays float32.
    """
    write, opened = FORMATS[form]
    with TemporaryDirectory() as folder:
        file = Path(folder) / name
        write(model, file, facts)
        if calibration is not None:
            quantise(file, calibration)
        return file.read_bytes(), check(model, opened(file), images, calibration is not None)


@torch.inference_mode()
def check(model: ImageClassifier, answer: Callable[[Tensor], Tensor], images: Tensor, int8: bool) -> Check:
    batches = [images[:1], images[1:3], images[3:10], *images[10:].split(BATCH)]
    pairs = [(model(batch), answer(batch)) for batch in batches if len(batch)]
    ours, theirs = (torch.cat(logits) for logits in zip(*pairs, strict=True))
    return Check(
        len(images),
        float((ours - theirs).abs().max()),
        float(ours.abs().max()),
        float((ours.argmax(1) == theirs.argmax(1)).double().mean()),
        int8,
    )


def portable(model: ImageClassifier) -> tuple[ImageClassifier, tuple[Tensor], tuple[dict[int, Any]]]:
    """What torch's exporters take: the model, an example of its arguments, which of their dimensions are free."""
    # Contiguous weights, for torch.export warns of others when it writes them.
    model = copy.deepcopy(model).requires_grad_(False).to(memory_format=torch.contiguous_format)
    return model, (torch.zeros(2, 3, 32, 32, dtype=torch.uint8),), ({0: torch.export.Dim("batch")},)


def write_safetensors(model: ImageClassifier, file: Path, facts: dict[str, Any]) -> None:
    save_weights(model, file, **facts)


def write_program(model: ImageClassifier, file: Path, facts: dict[str, Any]) -> None:
    model, example, free = portable(model)
    program = torch.export.export(model, example, dynamic_shapes=free)
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # paths of this machine
    torch.export.save(program, file, extra_files={FACTS: json.dumps(facts)})


def open_program(file: Path) -> Callable[[Tensor], Tensor]:
    answer: Callable[[Tensor], Tensor] = torch.export.load(file).module()
    return answer


def write_onnx(model: ImageClassifier, file: Path, facts: dict[str, Any]) -> None:
    import onnx

    model, example, free = portable(model)
    program = torch.onnx.export(
        model,
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
        forget_sources(part.node)
    onnx.helper.set_model_props(proto, {name: json.dumps(value) for name, value in facts.items()})
    file.write_bytes(proto.SerializeToString())


def forget_sources(nodes: Iterable[Any]) -> None:
    """Deletes what ONNX nodes, and those of loops and branches in them, tell of sources: paths of this machine."""
    for node in nodes:
        del node.metadata_props[:]
        for attribute in node.attribute:
            forget_sources(attribute.g.node)


def open_onnx(file: Path) -> Callable[[Tensor], Tensor]:
    from onnxruntime import InferenceSession

    session = InferenceSession(file, providers=["CPUExecutionProvider"])
    return lambda images: torch.from_numpy(session.run(["logits"], {"images": images.numpy()})[0])


FORMATS: dict[str, tuple[Callable[..., None], Callable[[Path], Callable[[Tensor], Tensor]]]] = {
    "safetensors": (write_safetensors, load_pretrained),
    "onnx": (write_onnx, open_onnx),
    "torch.export": (write_program, open_program),
}
