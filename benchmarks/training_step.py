"""Training steps of a recipe without the Trainer, and clocks for them; used by `step.py`, `trainer.py` and `gpu.py`."""

import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import yaml
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from lightning_cifar import CIFAR10DataModule, ImageClassifier
from lightning_cifar.data.dataset import ImageSet
from lightning_cifar.run.process.hardware import find_fastest_precision
from lightning_cifar.run.settings.options import RECIPES
from lightning_cifar.train.compilation import CompiledNetworks
from lightning_cifar.train.replay import CUDARecorder, DeviceRates, Replay

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
    """Return data module and model of a recipe with overrides ``data`` and ``model``, without the schedule.

    The schedule needs a Trainer and costs nothing.
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
        self.model = model.to(DEVICE).train()
        self.optimizer = self.model.configure_optimizers()
        ((images, labels),) = self.data.train_dataloader()
        self.images, self.labels = images.to(DEVICE), labels.to(DEVICE)
        self.positions = torch.arange(batch, device=DEVICE)
        self.data.draws, self.data.fill = self.data.draws.to(DEVICE), self.data.fill.to(DEVICE)
        self.mixed = find_fastest_precision(self.model.network, DEVICE, 32) == "bf16-mixed"

    def pixels(self) -> Tensor:
        return self.model.normalise(self.data.augment_batch(self.images, self.positions))

    def loss(self, pixels: Tensor) -> Tensor:
        with torch.autocast(DEVICE.type, torch.bfloat16, enabled=self.mixed):
            return self.model.objective.sum_losses(self.model.forward_members(pixels), self.labels)

    def staged(self) -> Iterator[str]:
        """Run the step; yield the name of each stage after it has run."""
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

    def parts(self) -> dict[str, float]:
        """Return the share of each kind of operation in the step's time; the optimiser counts as one kind."""
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


class RepeatingRecorder:
    """Stands in for `CUDARecorder` on a CPU: each replay runs the step again."""

    def run_apart(self) -> AbstractContextManager[None]:
        return nullcontext()

    def record(self, step: Callable[[], Any]) -> tuple[Any, Callable[[], None]]:
        return step(), step


class BareStep:
    """Training steps of a recipe on given batches, eager or replayed: the same operations as under the Trainer."""

    def __init__(self, recipe: str, model: ImageClassifier, replay: bool, compiled: bool = False) -> None:
        self.model = model.to(DEVICE).train()
        if compiled:
            model.compiled = CompiledNetworks(model.networks)
        self.optimizer = model.configure_optimizers()
        precision = yaml.safe_load(RECIPES[recipe].read_text())["trainer"].get("precision")
        self.mixed = precision == "auto" and DEVICE.type == "cuda"
        self.mixed &= find_fastest_precision(model.network, DEVICE, 32) == "bf16-mixed"
        self.rates, self.replay = DeviceRates(self.optimizer), None
        if replay:
            self.replay = Replay(CUDARecorder() if DEVICE.type == "cuda" else RepeatingRecorder())

    def __call__(self, images: Tensor, labels: Tensor) -> Tensor:
        """Return the loss of a step on a batch of uint8 images; a later replay overwrites it."""
        if self.replay is None:
            return self.run((images, labels), nullcontext())
        self.rates.update()
        batch = images, labels
        if self.replay.recordings:
            return self.replay(lambda: self.run(batch, self.rates.apply()), batch)
        with warnings.catch_warnings():
            warnings.filterwarnings("error", "the training step cannot be recorded")
            return self.replay(lambda: self.run(batch, self.rates.apply()), batch)

    def run(self, batch: tuple[Tensor, Tensor], rates: AbstractContextManager[None]) -> Tensor:
        self.optimizer.zero_grad()
        with torch.autocast(DEVICE.type, torch.bfloat16, enabled=self.mixed, cache_enabled=False):
            loss = self.model.training_step(batch, 0)["loss"]
        loss.backward()
        with rates:
            self.optimizer.step()
        return loss.detach()


def wait() -> None:
    """Wait until the device has finished."""
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()


def seconds(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    wait()
    return time.perf_counter() - start


def interleaved(*runs: Callable[[], object]) -> list[list[float]]:
    """Return seconds of each function, interleaved, after two uncounted warm-up rounds."""
    times: list[list[float]] = [[] for _ in runs]
    for turn in range(2 + REPEATS):
        for run, all_ in zip(runs, times, strict=True):
            taken = seconds(run)
            if turn >= 2:
                all_.append(taken)
    return times
