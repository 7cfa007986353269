"""Replay: training steps as one recording, which a GPU repeats at a single call from the host.

A step launches several hundred kernels. Launching them one by one takes longer than the kernels themselves.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, NamedTuple, Protocol, cast

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import BaseFinetuning, GradientAccumulationScheduler, ModelPruning
from lightning.pytorch.profilers import PassThroughProfiler
from lightning.pytorch.utilities import rank_zero_warn
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch import Tensor

EAGER_STEPS = 3  # before the recorded one: cuDNN chooses algorithms, the optimiser creates its state
# A replay runs no Python: hooks within a step, methods that make up a step, and callbacks that change later steps.
HOOKS = ("on_before_zero_grad", "on_before_backward", "on_after_backward", "on_before_optimizer_step")
RECORDED = ("training_step", "backward", "optimizer_step", "optimizer_zero_grad", "configure_optimizers")
CHANGING = (BaseFinetuning, GradientAccumulationScheduler, ModelPruning)


class Recorder(Protocol):
    """Records what a device does."""

    def apart(self) -> AbstractContextManager[None]:
        """Return a context for the eager steps that precede a recording."""

    def record(self, step: Callable[[], Any]) -> tuple[Any, Callable[[], None]]:
        """Run ``step``, and return its result with a function that repeats it on the same memory."""


class CUDARecorder:
    """Records by `torch.cuda.CUDAGraph`."""

    def __init__(self) -> None:
        self.stream = torch.cuda.Stream()
        self.pool: Any = None  # of memory, shared by all recordings: they never run at the same time

    @contextmanager
    def apart(self) -> Iterator[None]:
        # Autograd's nodes remember the stream they were created on; the default stream would break a recording.
        self.stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self.stream):
            yield
        torch.cuda.current_stream().wait_stream(self.stream)

    def record(self, step: Callable[[], Any]) -> tuple[Any, Callable[[], None]]:
        graph = torch.cuda.CUDAGraph()
        # thread_local: a thread that pins memory must not break the recording.
        with torch.cuda.graph(graph, pool=self.pool, stream=self.stream, capture_error_mode="thread_local"):
            result = step()
        self.pool = graph.pool()
        graph.replay()  # recording has run nothing
        return result, graph.replay


class Recording(NamedTuple):
    inputs: Sequence[Tensor]
    result: Any
    replay: Callable[[], None]


class Replay:
    """Run steps: the first three of a key eagerly, the fourth recorded, all others by replaying the recording.

    What depends on the inputs or on time must happen on the device: a replay does not run Python. Results lie in the
    same memory after every replay. A step that cannot be recorded is run eagerly from then on, with a warning.
    """

    def __init__(self, recorder: Recorder) -> None:
        self.recorder: Recorder | None = recorder
        self.eager: Counter[Any] = Counter()
        self.recordings: dict[Any, Recording] = {}

    def __call__(self, step: Callable[[], Any], inputs: Sequence[Tensor], key: Any = None) -> Any:
        """Return the result of ``step``, which reads ``inputs``; steps of one key and equal shapes do the same."""
        key = (key, *((tensor.shape, tensor.dtype) for tensor in inputs))
        if (recording := self.recordings.get(key)) is not None:
            for old, new in zip(recording.inputs, inputs, strict=True):
                if old is not new:
                    old.copy_(new, non_blocking=True)
            recording.replay()
            return recording.result
        if self.recorder is None:
            return step()
        self.eager[key] += 1
        if self.eager[key] <= EAGER_STEPS:
            with self.recorder.apart():
                return step()
        try:
            result, replay = self.recorder.record(step)
        except RuntimeError as error:
            self.recorder = None
            rank_zero_warn(f"the training step cannot be recorded, it runs eagerly: {str(error).splitlines()[0]}")
            return step()
        self.recordings[key] = Recording(inputs, result, replay)
        return result


class DeviceRates:
    """Copies of an optimiser's learning rates on the device. A recorded step reads these, not Python's numbers."""

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self.groups = optimizer.param_groups
        devices = [group["params"][0].device for group in self.groups]
        # CUDA's fused optimisers read float32; float64 keeps the bits of Python's numbers.
        dtypes = [torch.float32 if device.type == "cuda" else torch.float64 for device in devices]
        self.rates = [
            torch.zeros((), dtype=dtype, device=device) for device, dtype in zip(devices, dtypes, strict=True)
        ]
        self.values = [0.0] * len(self.groups)

    def update(self) -> None:
        """Copy rates that have changed to the device."""
        for number, (rate, group) in enumerate(zip(self.rates, self.groups, strict=True)):
            if self.values[number] != group["lr"]:
                self.values[number] = group["lr"]
                rate.fill_(group["lr"])

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Let the optimiser read these copies; its own are the Trainer's, for schedules, logs and checkpoints."""
        for rate, group in zip(self.rates, self.groups, strict=True):
            group["lr"] = rate
        try:
            yield
        finally:
            for value, group in zip(self.values, self.groups, strict=True):
                group["lr"] = value


class ReplayedOptimization:
    """Lightning's ``optimizer_step`` by replayed steps: forward, loss, backward, clipping and optimiser.

    Args:
        recorder: of the module's device.
        module: in training, with its current ``batch``.
    """

    def __init__(self, recorder: Recorder, module: LightningModule) -> None:
        (optimizer,) = module.trainer.optimizers
        self.module, self.optimizer_step = module, module.optimizer_step
        self.replay = Replay(recorder)
        self.rates = DeviceRates(optimizer)
        self.parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]

    def __call__(self, epoch: int, batch_idx: int, optimizer: Any, closure: Any) -> None:
        def step() -> Any:
            with self.rates.applied():
                self.optimizer_step(epoch, batch_idx, optimizer, closure)
            result = closure.consume_result()
            result.closure_loss = None  # frees autograd's nodes
            return result, [parameter.grad for parameter in self.parameters]

        self.rates.update()
        closure._result, gradients = self.replay(step, cast(Sequence[Tensor], self.module.batch))
        for parameter, gradient in zip(self.parameters, gradients, strict=True):
            parameter.grad = gradient  # each recording has its own; the guard of the gates reads them


def start_replay(module: LightningModule, reference: type[LightningModule]) -> None:
    """Replay the steps of a training that starts, or warn that something prevents it.

    Args:
        module: with the hyper-parameter ``replay``: ``auto`` means on a CUDA device, without a warning elsewhere.
        reference: the class whose steps can be replayed; those of a subclass only if it does not override them.
    """
    wanted, recorder = module.hparams["replay"], make_recorder(module.device)
    if not wanted or (wanted == "auto" and recorder is None):
        return
    obstacle = find_obstacle(module.trainer, module, reference)
    if recorder is None or obstacle is not None:
        rank_zero_warn(f"replay is off, each step launches its kernels: {obstacle or 'it needs a CUDA device'}")
        return
    # Of the instance: of a class that overrides it, Lightning warns when gradients are accumulated.
    module.optimizer_step = ReplayedOptimization(recorder, module)  # type: ignore[method-assign, assignment]


def stop_replay(module: LightningModule) -> None:
    """Free the recordings and their memory."""
    module.__dict__.pop("optimizer_step", None)


def make_recorder(device: torch.device) -> Recorder | None:
    return CUDARecorder() if device.type == "cuda" else None


def find_obstacle(trainer: Trainer, module: LightningModule, reference: type[LightningModule]) -> str | None:
    """Return why training steps cannot be replayed; None if they can."""
    callbacks = trainer.callbacks  # type: ignore[attr-defined]  # set from outside
    overridden = [name for name in (*RECORDED, *HOOKS) if is_overridden(name, module, reference)]
    in_step = [one for one in callbacks if any(is_overridden(name, one) for name in HOOKS)]
    obstacles = {
        "training runs in several processes": trainer.world_size > 1,
        "float16 needs loss scaling": str(trainer.precision).startswith("16"),
        "gradients are accumulated": trainer.accumulate_grad_batches > 1,
        "a profiler is on": not isinstance(trainer.profiler, PassThroughProfiler),  # type: ignore[attr-defined]
        "detect_anomaly is on": torch.is_anomaly_enabled(),
        "mixup and cutmix draw on the host": module.hparams["mixup"] or module.hparams["cutmix"],
        f"{type(module).__name__} overrides {', '.join(overridden)}": overridden,
    }
    for callback in [*in_step, *(one for one in callbacks if isinstance(one, CHANGING))]:
        obstacles[f"{type(callback).__name__} acts within steps"] = True
    return next((text for text, found in obstacles.items() if found), None)
