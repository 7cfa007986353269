"""How near is a training step to its convolutions alone, and where does the rest of its time go?

    python benchmarks/step.py

A step is augmentation, forward, loss, backward and optimiser of a recipe, in a bare loop and the precision that
``auto`` finds. Beside it, in turn: forward and backward of the very same convolutions (shapes, dtype, layout, the
gradients asked for) and nothing else. Then each step compiled, and the report's blocks against the formula written
plainly, in the same precision and layout. Prints what it finds and writes ``benchmarks/results/step.json``; medians
count.
"""

import argparse
import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import yaml
from plain import WIDTHS, PlainBlock
from torch import Tensor, nn
from torch.nn import functional as F
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from lightning_cifar import CIFAR10DataModule, GatedBlock, ImageClassifier
from lightning_cifar.data.dataset import ImageSet
from lightning_cifar.options import RECIPES
from lightning_cifar.run.record import describe_device, write_json
from lightning_cifar.train.hardware import find_fastest_precision, keep_freed_memory

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
REPEATS = 9
KINDS = {  # of operations, by what is in their names
    "convolution": "convolutions",
    "pool": "pooling",
    "batch_norm": "batch norm",
    "gelu": "activation",
    "relu": "activation",
    "threshold": "activation",
    "GatedSum": "gated sum",
}


def build(
    recipe: str, data: dict[str, Any] | None = None, model: dict[str, Any] | None = None
) -> tuple[CIFAR10DataModule, ImageClassifier]:
    """Data module and model of a recipe, with ``data`` and ``model`` in place of its values; without the schedule.

    That one needs a Trainer, and costs nothing.
    """
    settings = yaml.safe_load(RECIPES[recipe].read_text())
    torch.manual_seed(0)
    arguments = {**settings.get("model", {}), **(model or {}), "schedule": "constant"}
    return CIFAR10DataModule(**{**settings["data"], **(data or {})}), ImageClassifier(**arguments)


class Step:
    """One training step of a recipe, on random images."""

    def __init__(self, recipe: str) -> None:
        self.data, model = build(recipe)
        batch = self.data.hparams["batch_size"]
        self.data.train = ImageSet(torch.randint(256, (batch, 3, 32, 32), dtype=torch.uint8), torch.arange(batch) % 10)
        self.data.mean = [0.5] * 3
        self.epoch = self.data.hparams["small_epochs"]  # the first of whole images
        self.model = model.to(DEVICE).train()
        self.optimizer = self.model.configure_optimizers()
        ((images, labels, *self.positions),) = self.data.train_dataloader()
        self.images, self.labels = images.to(DEVICE), labels.to(DEVICE)
        pixels = self.model.normalise(self.images)
        self.mixed = find_fastest_precision(self.model.network, pixels) == "bf16-mixed"

    def pixels(self) -> Tensor:
        return self.model.normalise(self.data.augmented(self.images, self.epoch, *self.positions))

    def loss(self, pixels: Tensor) -> Tensor:
        with torch.autocast(DEVICE.type, torch.bfloat16, enabled=self.mixed):
            return self.model.sum_losses(self.model.forward_members(pixels), self.labels)

    def staged(self) -> Iterator[str]:
        """Takes the step, and names each stage when it is done."""
        pixels = self.pixels()
        yield "augmentation"
        loss = self.loss(pixels)
        yield "forward"
        loss.backward()
        yield "backward"
        self.optimizer.step()
        self.optimizer.zero_grad()
        yield "optimiser"

    def __call__(self) -> None:
        for _ in self.staged():
            pass

    def stages(self) -> dict[str, float]:
        """Seconds of each stage, with a wait for the device after it; the medians of 20 steps."""
        taken: dict[str, list[float]] = {}
        for _ in range(30):
            start = time.perf_counter()
            for stage in self.staged():
                wait()
                now = time.perf_counter()
                taken.setdefault(stage, []).append(now - start)
                start = now
        return {stage: statistics.median(times[10:]) for stage, times in taken.items()}

    def parts(self) -> dict[str, float]:
        """Share of the step's time by kind of operation; the optimiser, as a whole, is one."""
        with profile(activities=[ProfilerActivity.CPU]) as profiled:
            for _ in range(3):
                self()
        spent: Counter[str] = Counter()

        def add(event: Any, inherited: str | None) -> None:
            kind = inherited or next((kind for word, kind in KINDS.items() if word in event.name), None)
            if event.name.startswith("Optimizer.step"):
                kind = "optimiser"
            spent[kind or "other"] += event.self_cpu_time_total
            for child in event.cpu_children:
                add(child, kind)

        for event in profiled.events():
            if event.cpu_parent is None:
                add(event, None)
        return {kind: time / spent.total() for kind, time in spent.most_common()}


def convolutions_of(step: Step) -> Callable[[], None]:
    """Forward and backward of each convolution of one step, alone."""
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


def wait() -> None:
    """Until the device has done what it was given."""
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()


def seconds(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    wait()
    return time.perf_counter() - start


def interleaved(*runs: Callable[[], object]) -> list[list[float]]:
    """Seconds of each, taken in turn, after two turns that are not counted."""
    times: list[list[float]] = [[] for _ in runs]
    for turn in range(2 + REPEATS):
        for run, all_ in zip(runs, times, strict=True):
            taken = seconds(run)
            if turn >= 2:
                all_.append(taken)
    return times


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
        "step_seconds": {"median": statistics.median(whole), "all": whole},
        "convolutions_seconds": {"median": statistics.median(alone), "all": alone},
        "ratio": statistics.median(a / b for a, b in zip(whole, alone, strict=True)),
        "images_per_second": batch / statistics.median(whole),
        "gigaflop_per_second": flop / statistics.median(whole) / 1e9,
        "convolutions_gigaflop_per_second": flop / statistics.median(alone) / 1e9,
        "parts": step.parts(),
    }


def measure_compilation(recipe: str) -> dict[str, Any]:
    """What ``--model.compile true`` costs at first, gains in each step, and after how many it has paid."""
    eager, compiled = Step(recipe), Step(recipe)
    compiled.model.compile_network()
    with torch.compiler.config.patch(force_disable_caches=True):  # as where it was never compiled before
        first = seconds(compiled)
    plain, faster = interleaved(eager, compiled)
    gain = statistics.median(plain) - statistics.median(faster)
    return {
        "first_step_seconds": first,
        "step_seconds": {"median": statistics.median(faster), "all": faster},
        "eager_step_seconds": {"median": statistics.median(plain), "all": plain},
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
    """The report's five blocks, forward and backward: the plain formula against `GatedBlock`."""
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
        "reference_seconds": {"median": statistics.median(reference), "all": reference},
        "fused_seconds": {"median": statistics.median(fused), "all": fused},
        "ratio": statistics.median(a / b for a, b in zip(reference, fused, strict=True)),
    }


def main(recipes: list[str]) -> None:
    keep_freed_memory()
    steps = {recipe: measure_step(recipe) for recipe in recipes}
    print(f"{'':<10}{'step':>10}{'convolutions':>14}{'ratio':>7}{'GFLOP/s':>9}{'alone':>7}{'images/s':>10}  the rest")
    for recipe, found in steps.items():
        rest = [f"{kind} {share:.0%}" for kind, share in found["parts"].items() if kind != "convolutions"]
        print(
            f"{recipe:<10}{1000 * found['step_seconds']['median']:>7.0f} ms"
            f"{1000 * found['convolutions_seconds']['median']:>11.0f} ms{found['ratio']:>7.2f}"
            f"{found['gigaflop_per_second']:>9.0f}{found['convolutions_gigaflop_per_second']:>7.0f}"
            f"{found['images_per_second']:>10,.0f}  {', '.join(rest)}"
        )
    compilations = {recipe: measure_compilation(recipe) for recipe in recipes}
    for recipe, found in compilations.items():
        steps_, ratio = found["pays_after_steps"], found["ratio"]
        after = f"pays after {steps_:,.0f} steps" if steps_ else "never pays"
        print(f"{recipe}, compiled: {found['first_step_seconds']:.0f} s for the first step, {ratio:.2f}x, {after}")
    blocks = {name: measure_blocks(mixed) for name, mixed in (("32-true", False), ("bf16-mixed", True))}
    for precision, found in blocks.items():
        fused, reference = (1000 * found[f"{name}_seconds"]["median"] for name in ("fused", "reference"))
        print(f"blocks, {precision}: {fused:.0f} ms, plainly {reference:.0f} ms, ratio {found['ratio']:.2f}")
    result = {
        "question": "How near is a training step to its convolutions alone, and where does the rest of its time go?",
        "command": "python benchmarks/step.py",
        "steps": steps,
        "compilations": compilations,
        "blocks": blocks,
        "device": describe_device(DEVICE),
        "torch": torch.__version__,
    }
    write_json(Path(__file__).parent / "results/step.json", result)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipes", nargs="+", default=["report", "fast", "fast94"])
    main(parser.parse_args().recipes)
