"""Time of a training step compared with its convolutions only, and where the rest goes.

    python benchmarks/step.py

A step is augmentation, forward, loss, backward and optimiser of a recipe on random images, in the precision that
``auto`` selects. Compared with it: forward and backward of the same convolutions only (shapes, dtype, layout,
gradients); the compiled step; and the report's blocks with the plain formula. Medians of 9 interleaved runs, on a GPU
if there is one; prints tables and writes ``benchmarks/results/step.json``.
"""

import argparse
import statistics
from collections.abc import Callable
from typing import Any

import torch
from formatting import format_milliseconds, format_table, keep_median, load_result, print_tables, write_result
from plain import WIDTHS, PlainBlock
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode
from training_step import DEVICE, Step, interleaved, seconds

from lightning_cifar import GatedBlock
from lightning_cifar.run.process.hardware import keep_freed_memory
from lightning_cifar.run.records.run_json import describe_device
from lightning_cifar.train.compilation import CompiledNetworks


def convolutions_of(step: Step) -> Callable[[], None]:
    """Return a function that runs forward and backward of a step's convolutions only."""
    seen: list[tuple[nn.Conv2d, Tensor, Tensor]] = []
    modules = [module for module in step.model.modules() if isinstance(module, nn.Conv2d)]
    hooks = [module.register_forward_hook(lambda m, x, y: seen.append((m, x[0], y))) for module in modules]
    step.loss(step.pixels())
    for hook in hooks:
        hook.remove()
    work = []
    for module, x, y in seen:
        inputs = torch.randn_like(x, dtype=y.dtype).requires_grad_(x.requires_grad)
        weight = module.weight.detach().to(y.dtype).requires_grad_(module.weight.requires_grad)
        wanted = [tensor for tensor in (inputs, weight) if tensor.requires_grad]
        work.append((module, inputs, weight, wanted, torch.randn_like(y)))

    def run() -> None:
        for module, inputs, weight, wanted, gradient in work:
            y = F.conv2d(inputs, weight, None, module.stride, module.padding)
            if wanted:
                torch.autograd.grad(y, wanted, gradient)

    return run


def measure_step(recipe: str) -> dict[str, Any]:
    step = Step(recipe)
    with FlopCounterMode(display=False) as counter:
        step()
    flop, batch = counter.get_total_flops(), len(step.labels)
    whole, alone = interleaved(step, convolutions_of(step))
    return {
        "batch_size": batch,
        "precision": "bf16-mixed" if step.mixed else "32-true",
        "megaflop_per_image": flop / batch / 1e6,
        "step_seconds": keep_median(whole),
        "convolutions_seconds": keep_median(alone),
        "ratio": statistics.median(a / b for a, b in zip(whole, alone, strict=True)),
        "images_per_second": batch / statistics.median(whole),
        "gigaflop_per_second": flop / statistics.median(whole) / 1e9,
        "convolutions_gigaflop_per_second": flop / statistics.median(alone) / 1e9,
        "parts": step.parts(),
    }


def measure_compilation(recipe: str) -> dict[str, Any]:
    """Measure the first step of ``--model.compile true``, its gain per step, and after how many it breaks even."""
    eager, compiled = Step(recipe), Step(recipe)
    compiled.model.compiled = CompiledNetworks(compiled.model.networks)
    with torch.compiler.config.patch(force_disable_caches=True):  # as where it was never compiled before
        first = seconds(compiled)
    plain, faster = interleaved(eager, compiled)
    gain = statistics.median(plain) - statistics.median(faster)
    return {
        "first_step_seconds": first,
        "step_seconds": keep_median(faster),
        "eager_step_seconds": keep_median(plain),
        "ratio": statistics.median(a / b for a, b in zip(plain, faster, strict=True)),
        "pays_after_steps": first / gain if gain > 0 else None,
    }


def training(block: nn.Module, x: Tensor, mixed: bool) -> Callable[[], None]:
    def run() -> None:
        with torch.autocast(DEVICE.type, torch.bfloat16, enabled=mixed):
            y = block(x)
        y.backward(torch.ones_like(y))

    return run


def measure_blocks(mixed: bool, batch: int = 512) -> dict[str, Any]:
    """Time the report's five blocks, forward and backward: the plain formula and `GatedBlock`."""
    order, size = ("activation", "sum", "norm", "pool"), 32
    plain, ours = [], []
    for inputs, outputs in zip((3, *WIDTHS), WIDTHS, strict=False):
        x = torch.randn(batch, inputs, size, size, device=DEVICE).contiguous(memory_format=torch.channels_last)
        x.requires_grad_(inputs > 3)
        for block, runs in ((PlainBlock(inputs, outputs), plain), (GatedBlock(inputs, outputs, order=order), ours)):
            runs.append(training(block.to(DEVICE, memory_format=torch.channels_last), x, mixed))
        size //= 2
    reference, fused = interleaved(lambda: [run() for run in plain], lambda: [run() for run in ours])
    return {
        "reference_seconds": keep_median(reference),
        "fused_seconds": keep_median(fused),
        "ratio": statistics.median(a / b for a, b in zip(reference, fused, strict=True)),
    }


def main(recipes: list[str]) -> None:
    keep_freed_memory()
    steps = {recipe: measure_step(recipe) for recipe in recipes}
    precisions = sorted({"32-true", *(found["precision"] for found in steps.values())})
    result = {
        "question": "How near is a training step to its convolutions alone, and where does the rest of its time go?",
        "command": "python benchmarks/step.py",
        "steps": steps,
        "compilations": {recipe: measure_compilation(recipe) for recipe in recipes},
        "blocks": {precision: measure_blocks(precision == "bf16-mixed") for precision in precisions},
        "device": describe_device(DEVICE),
        "torch": torch.__version__,
    }
    write_result("step", result)
    print_tables(TABLES)


def tabulate_steps() -> str:
    result, rows = load_result("step"), []
    for recipe, found in result["steps"].items():
        rest = [f"{kind} {100 * share:.0f} %" for kind, share in found["parts"].items() if kind != "convolutions"]
        rows.append(
            [
                f"`{recipe}`, batch {found['batch_size']}",
                f"{found['megaflop_per_image']:.0f} MFLOP",
                format_milliseconds(found["step_seconds"]),
                format_milliseconds(found["convolutions_seconds"]),
                f"{found['ratio']:.2f}",
                f"{found['gigaflop_per_second']:.0f}",
                f"{found['convolutions_gigaflop_per_second']:.0f}",
                f"{found['images_per_second']:,.0f}",
                ", ".join(rest),
            ]
        )
    head = [
        "recipe",
        "an image",
        "step",
        "convolutions only",
        "ratio",
        "GFLOP/s: step",
        "convolutions",
        "images/s",
        "the rest",
    ]
    return format_table(head, rows, result["command"])


def tabulate_compilations() -> str:
    rows = []
    for recipe, found in load_result("step")["compilations"].items():
        after = found["pays_after_steps"]
        rows.append(
            [
                f"`{recipe}`",
                f"{found['first_step_seconds']:.0f} s",
                format_milliseconds(found["eager_step_seconds"]),
                format_milliseconds(found["step_seconds"]),
                f"{found['ratio']:.2f}x",
                f"{after:,.0f} steps" if after else "never",
            ]
        )
    return format_table(
        ["`--model.compile true`", "first step", "eager step", "compiled", "speed-up", "saves time after"], rows
    )


def tabulate_blocks() -> str:
    rows = [
        [
            f"`{precision}`",
            format_milliseconds(found["reference_seconds"]),
            format_milliseconds(found["fused_seconds"]),
            f"{found['ratio']:.2f}x",
        ]
        for precision, found in load_result("step")["blocks"].items()
    ]
    return format_table(
        ["five blocks, forward and backward", "formula written plainly", "`GatedBlock`", "speed-up"], rows
    )


TABLES = {
    "steps": tabulate_steps,
    "compilations": tabulate_compilations,
    "blocks": tabulate_blocks,
}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipes", nargs="+", default=["report", "fast", "fast94"])
    main(parser.parse_args().recipes)
