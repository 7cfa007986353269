"""Ceilings of a GPU, and time and kernels of training steps without the Trainer; stages of `gpu.py`.

    python benchmarks/gpu_steps.py --out FILE RECIPE BATCH [--compile] [--dry]

This command profiles one recipe's step, eager and replayed, in a process of its own: the profiler slows down what
follows in its process.
"""

import argparse
import itertools
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from formatting import keep_median
from measurement import KEPT_CHARACTERS, Measurement
from torch import Tensor
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile
from training_step import DEVICE, BareStep, build, wait

from lightning_cifar.files import write_json

CUDA = DEVICE.type == "cuda"
STEPS = (("fast94", 1000), ("report", 256), ("fast94", 250), ("fast94", 2000), ("fast", 250))
PROFILED = (("fast94", 1000), ("report", 256))
WARMUP = 8  # steps, of which a replay records the fourth
PROFILE_SECONDS = 90
TINY = {"widths": [8, 8, 16, 16, 16]}


def measure_card(measurement: Measurement) -> None:
    """Measure what the card and its host can do at best."""
    dry = measurement.options.dry
    versions: dict[str, Any] = {"python": platform.python_version(), "lightning": version("lightning")}
    versions |= {"cpus": os.cpu_count(), "cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version()}
    measurement.keep("versions", versions)
    measurement.attempt("ceilings", lambda: measure_ceilings(1 << 20 if dry else 1 << 30, 64 if dry else 8192))


def measure_ceilings(size: int, side: int) -> dict[str, float]:
    """Measure copies of ``size`` bytes, products of matrices of ``side`` rows, and launches."""
    source = torch.randint(256, (size,), dtype=torch.uint8, device=DEVICE)
    target = torch.empty_like(source)
    copy = time_calls(lambda: target.copy_(source), 10, repeats=5, warmup=3)["wall_ms"]["median"]
    matrix = torch.randn(side, side, device=DEVICE, dtype=torch.bfloat16)
    product = time_calls(lambda: matrix @ matrix, 10, repeats=5, warmup=3)["wall_ms"]["median"]
    small = torch.zeros(64, device=DEVICE)
    for _ in range(100):
        small.add_(1)
    wait()
    started = time.perf_counter()
    for _ in range(500):  # fewer than the queue of launches holds
        small.add_(1)
    launches = time.perf_counter() - started
    wait()
    return {
        "copy_terabytes_per_second": 2 * size / copy / 1e9,  # read and written
        "matmul_teraflops": 2 * side**3 / product / 1e9,
        "host_microseconds_per_op": 1e6 * launches / 500,
    }


def measure_steps(measurement: Measurement) -> None:
    """Measure steps, eager and replayed, then profile some."""
    dry = measurement.options.dry
    for recipe, batch in STEPS[:2] if dry else STEPS:
        for replay in (True, False):
            measure = partial(measure_step, recipe, batch, replay, dry=dry)
            measurement.attempt(name_step(recipe, batch, replay), measure)
    for recipe, batch in PROFILED[:1] if dry else PROFILED:
        keep_profile(measurement, recipe, batch)


def measure_compiled(measurement: Measurement) -> None:
    """Measure a step whose network is compiled, eager and replayed, then profile it if time is left."""
    recipe, batch = STEPS[0]
    dry = measurement.options.dry
    with torch.compiler.set_stance("force_eager" if dry else "default"):
        for replay in (True, False):
            measure = partial(measure_step, recipe, batch, replay, compiled=True, dry=dry)
            measurement.attempt(name_step(recipe, batch, replay, compiled=True), measure)
    if not dry and measurement.left() > PROFILE_SECONDS:
        keep_profile(measurement, recipe, batch, compiled=True)


def name_step(recipe: str, batch: int, replay: bool, compiled: bool = False) -> str:
    kinds = [kind for kind, on in (("compiled", compiled), ("replayed", replay)) if on]
    return f"{recipe} {batch}, {' and '.join(kinds) or 'eager'}"


def prepare_step(recipe: str, batch: int, replay: bool, compiled: bool, dry: bool) -> Callable[[], Tensor]:
    """Return a function that takes a training step on a copy of one of two random batches, in turn."""
    torch.backends.cudnn.benchmark = True
    step = BareStep(recipe, build(recipe, model=TINY if dry else {})[1], replay, compiled)
    batches = itertools.cycle([*draw_batches(8 if dry else batch)])
    return lambda: step(*(tensor.clone() for tensor in next(batches)))


def draw_batches(size: int) -> Iterator[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    for _ in range(2):
        images = torch.randint(256, (size, 32, 32, 3), dtype=torch.uint8, generator=generator)
        yield images.to(DEVICE).permute(0, 3, 1, 2), torch.randint(10, (size,), generator=generator).to(DEVICE)


def measure_step(recipe: str, batch: int, replay: bool, compiled: bool = False, dry: bool = False) -> dict[str, Any]:
    """Return the time of the first step, the losses of the first few, and the times of later ones."""
    started = time.perf_counter()
    step = prepare_step(recipe, batch, replay, compiled, dry)
    losses = [float(step())]
    first = time.perf_counter() - started
    losses += [float(step()) for _ in range(WARMUP - 1)]
    calls = 2 if dry else 20 if replay else 10
    times = time_calls(step, calls, repeats=2 if dry else 5, warmup=2)
    return {"recipe": recipe, "batch": batch, "first_step_seconds": first, **times, "losses": losses}


def time_calls(run: Callable[[], Any], calls: int, repeats: int, warmup: int) -> dict[str, dict[str, Any]]:
    """Return milliseconds of a call: ``wall`` of calls in a row, and ``host``, until a single call returns."""
    for _ in range(warmup):
        run()
    wall, host = [], []
    for _ in range(repeats):
        wait()
        started = time.perf_counter()
        for _ in range(calls):
            run()
        wait()
        wall.append(1e3 * (time.perf_counter() - started) / calls)
    for _ in range(2 * repeats):
        started = time.perf_counter()
        run()
        host.append(1e3 * (time.perf_counter() - started))
        wait()
    return {f"{name}_ms": keep_median(times) for name, times in (("wall", wall), ("host", host))}


def keep_profile(measurement: Measurement, recipe: str, batch: int, compiled: bool = False) -> None:
    """Keep rows of the kernels of a step, eager and replayed."""

    def measure() -> dict[str, Any]:
        with tempfile.TemporaryDirectory() as directory:
            file = Path(directory) / "profile.json"
            flags = [flag for flag, on in (("--compile", compiled), ("--dry", measurement.options.dry)) if on]
            words = [sys.executable, __file__, recipe, str(batch), "--out", str(file), *flags]
            done = subprocess.run(
                words, capture_output=True, text=True, timeout=min(PROFILE_SECONDS, measurement.left())
            )
            if done.returncode:
                raise RuntimeError(f"exit status {done.returncode}: {done.stderr[-KEPT_CHARACTERS:]}")
            return json.loads(file.read_text())

    kind = "compiled, " if compiled else ""
    measurement.attempt(f"{recipe} {batch}, {kind}kernels", measure)


def profile_steps(recipe: str, batch: int, compiled: bool, dry: bool) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for replay in (True, False):
        step = prepare_step(recipe, batch, replay, compiled, dry)
        for _ in range(WARMUP):
            step()
        found["replayed" if replay else "eager"] = list_kernels(step, 3)
    return found


def list_kernels(step: Callable[[], Any], steps: int) -> dict[str, Any]:
    """Return milliseconds and launches of the kernels of a step, and the longest: name, launches, microseconds."""
    wait()
    with profile(activities=[ProfilerActivity.CPU, *[ProfilerActivity.CUDA][: int(CUDA)]]) as profiled:
        for _ in range(steps):
            step()
        wait()
    spent: dict[str, list[float]] = {}
    for event in profiled.events():
        if CUDA and (event.device_type != DeviceType.CUDA or getattr(event, "is_user_annotation", False)):
            continue
        row = spent.setdefault(event.name[:120], [0, 0.0])
        row[0] += 1
        row[1] += event.time_range.elapsed_us() if CUDA else event.self_cpu_time_total
    longest = sorted(spent.items(), key=lambda item: -item[1][1])[:15]
    return {
        "kernels_ms": sum(duration for _, duration in spent.values()) / steps / 1e3,
        "launches": sum(count for count, _ in spent.values()) / steps,
        "longest": [[name, count / steps, round(duration / steps, 1)] for name, (count, duration) in longest],
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe")
    parser.add_argument("batch", type=int)
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--dry", action="store_true")
    parser.add_argument("--out", type=Path, required=True)
    known = parser.parse_args()
    write_json(known.out, profile_steps(known.recipe, known.batch, known.compile, known.dry))
