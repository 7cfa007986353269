"""Run cifar10-airbench's airbench94_muon.py once on a CPU, from its own file.

    python benchmarks/peer_on_cpu.py SCRIPT --seed 0 --epochs 8

The working directory holds its images, as `peer_script.write_images` writes them. The script is read and run as it is,
except where a CPU needs something else: CUDA calls act on the CPU, half precision becomes bfloat16 autocast of float32
weights (float32 on a CPU without instructions for bfloat16, which would be emulated), CUDA's clocks become wall clocks,
nothing is compiled, and there is no first run that compiles. ``--epochs`` shortens its training. Prints what the script
prints; its seconds are of training, without evaluation.
"""

import argparse
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lightning_cifar.run.process.hardware import find_processor_precision

EPOCHS = "ceil(8 * len(train_loader))"
CHANGES = {'main("warmup", model)': "pass", "range(200)": "range(1)"}


class Clock:
    """Stands in for `torch.cuda.Event`."""

    def __init__(self, **_: Any) -> None:
        self.seconds = 0.0

    def record(self) -> None:
        self.seconds = time.perf_counter()

    def elapsed_time(self, later: "Clock") -> float:
        return 1000 * (later.seconds - self.seconds)


def move_to_cpu() -> None:
    """Let CUDA calls act on the CPU, and the outermost call of a module run in the CPU's faster precision."""
    call, load, depth = nn.Module.__call__, torch.load, 0
    mixed = find_processor_precision() == "bf16-mixed"

    def call_mixed(module: nn.Module, *args: Any, **options: Any) -> Any:
        nonlocal depth
        depth += 1
        try:
            with torch.autocast("cpu", torch.bfloat16, enabled=mixed):
                result = call(module, *args, **options)
        finally:
            depth -= 1
        return result.float() if depth == 0 and isinstance(result, Tensor) else result

    stands: dict[tuple[Any, str], Any] = {
        (nn.Module, "__call__"): call_mixed,
        (nn.Module, "cuda"): lambda module: module,
        (nn.Module, "half"): nn.Module.float,
        (nn.Module, "compile"): lambda module, **_: None,
        (Tensor, "cuda"): Tensor.contiguous,
        (Tensor, "half"): Tensor.float,
        (torch, "compile"): lambda function, **_: function,
        (torch, "load"): lambda file, **_: load(file, weights_only=True),
        (torch.cuda, "Event"): Clock,
        (torch.cuda, "synchronize"): lambda: None,
    }
    if not mixed:
        stands[Tensor, "bfloat16"] = Tensor.float  # of Newton-Schulz
    for (owner, name), stand in stands.items():
        setattr(owner, name, stand)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("script", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=float, default=8)
    options = parser.parse_args()
    source = options.script.read_text()
    for old, new in {**CHANGES, EPOCHS: EPOCHS.replace("8", str(options.epochs))}.items():
        if old not in source:
            parser.error(f"{options.script} has no {old}: is it another version?")
        source = source.replace(old, new)
    move_to_cpu()
    torch.manual_seed(options.seed)
    sys.argv = [str(options.script.resolve())]  # it reads itself
    exec(compile(source, str(options.script), "exec"), {"__name__": "__main__"})


if __name__ == "__main__":
    main()
