"""Replay: a training step is recorded as one CUDA graph, which the host then launches by a single call.

A step launches several hundred kernels. Launching them one by one takes longer than the kernels themselves.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any, cast

import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import BaseFinetuning, GradientAccumulationScheduler, ModelPruning
from lightning.pytorch.callbacks.stochastic_weight_avg import StochasticWeightAveraging
from lightning.pytorch.profilers import PassThroughProfiler
from lightning.pytorch.strategies import SingleDeviceStrategy
from lightning.pytorch.utilities import rank_zero_warn
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch import Tensor
from torch.optim import SGD, Adam

from lightning_cifar.callbacks import find_callbacks
from lightning_cifar.data.module import CIFAR10DataModule
from lightning_cifar.train.muon import Muon

EAGER_STEPS = 3  # before the recorded one: cuDNN chooses algorithms, the optimiser creates its state
# A replay runs no Python: these hooks, overrides of these methods, and these callbacks would have no effect.
STEP_HOOKS = ("on_before_zero_grad", "on_before_backward", "on_after_backward", "on_before_optimizer_step")
STEP_METHODS = (
    "on_train_batch_start",  # gives a replay its batch
    *("training_step", "backward", "configure_gradient_clipping"),
    *("configure_optimizers", "optimizer_step", "optimizer_zero_grad"),
)
STEP_CHANGERS = (BaseFinetuning, GradientAccumulationScheduler, ModelPruning, StochasticWeightAveraging)


class CUDARecorder:
    """Records what a GPU does, by `torch.cuda.CUDAGraph`."""

    def __init__(self) -> None:
        self.stream = torch.cuda.Stream()
        self.pool: Any = None  # the memory of all recordings, which never run at the same time

    @contextmanager
    def run_apart(self) -> Iterator[None]:
        """Return a context for the eager steps that precede a recording."""
        # Autograd's nodes remember the stream they were created on; the default stream would break a recording.
        self.stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self.stream):
            yield
        torch.cuda.current_stream().wait_stream(self.stream)

    def record(self, step: Callable[[], Any]) -> tuple[Any, Callable[[], None]]:
        """Run ``step``; return its result, and a function that repeats the step on the same memory."""
        graph, mode = torch.cuda.CUDAGraph(), "thread_local"  # a thread that pins memory must not break the recording
        try:
            with torch.cuda.graph(graph, pool=self.pool, stream=self.stream, capture_error_mode=mode):
                result = step()
        except RuntimeError:
            # Before torch 2.12, the random generator stays in recording mode until another recording is complete.
            with suppress(RuntimeError), torch.cuda.graph(torch.cuda.CUDAGraph(), None, self.stream, mode):
                torch.zeros(1, device="cuda")
            raise
        self.pool = graph.pool()
        graph.replay()  # recording has run nothing
        return result, graph.replay


class Replay:
    """Run the first three steps of a key eagerly, record the fourth, and replay the recording for all later ones.

    A replay does not run Python: whatever depends on the inputs or the time must happen on the device. Each replay
    writes its results to the same memory. If a step cannot be recorded, steps run eagerly from then on, with a warning.
    """

    def __init__(self, recorder: CUDARecorder) -> None:
        self.recorder: CUDARecorder | None = recorder
        self.eager: Counter[Any] = Counter()
        self.recordings: dict[Any, tuple[Sequence[Tensor], Any, Callable[[], None]]] = {}

    def __call__(self, step: Callable[[], Any], inputs: Sequence[Tensor], key: Any = None) -> Any:
        """Return the result of ``step``, which reads ``inputs``. Key and input shapes must determine its operations."""
        key = (key, *((tensor.shape, tensor.dtype) for tensor in inputs))
        if key in self.recordings:
            recorded, result, replay = self.recordings[key]
            for old, new in zip(recorded, inputs, strict=True):
                if old is not new:
                    old.copy_(new, non_blocking=True)
            replay()
            return result
        if self.recorder is None:
            return step()
        self.eager[key] += 1
        if self.eager[key] <= EAGER_STEPS:
            with self.recorder.run_apart():
                return step()
        try:
            result, replay = self.recorder.record(step)
        except RuntimeError as error:
            self.recorder = None
            rank_zero_warn(f"the training step cannot be recorded, it runs eagerly: {str(error).splitlines()[0]}")
            return step()
        self.recordings[key] = inputs, result, replay
        return result


class DeviceRates:
    """Copies of an optimiser's learning rates on the device. A recorded step reads these, not Python's numbers."""

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self.groups = optimizer.param_groups
        device = self.groups[0]["params"][0].device
        # CUDA's fused optimisers read float32; float64 keeps the bits of Python's numbers.
        dtype = torch.float32 if device.type == "cuda" else torch.float64
        self.rates = [torch.zeros((), dtype=dtype, device=device) for _ in self.groups]
        self.values = [0.0] * len(self.groups)

    def update(self) -> None:
        """Copy rates that have changed to the device."""
        for number, (rate, group) in enumerate(zip(self.rates, self.groups, strict=True)):
            if self.values[number] != group["lr"]:
                self.values[number] = group["lr"]
                rate.fill_(group["lr"])

    @contextmanager
    def apply(self) -> Iterator[None]:
        """Let the optimiser read these copies here; elsewhere, schedules, logs and checkpoints read the numbers."""
        for rate, group in zip(self.rates, self.groups, strict=True):
            group["lr"] = rate
        try:
            yield
        finally:
            for value, group in zip(self.values, self.groups, strict=True):
                group["lr"] = value


class ReplayedOptimization:
    """Lightning's ``optimizer_step`` as a replay of forward pass, loss, backward pass, clipping and optimiser."""

    def __init__(self, recorder: CUDARecorder, module: LightningModule) -> None:
        (optimizer,) = module.trainer.optimizers
        self.module, self.replay = module, Replay(recorder)
        self.__wrapped__ = module.optimizer_step  # Lightning looks here for overrides
        self.rates = DeviceRates(optimizer)
        self.parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]

    def __call__(self, epoch: int, batch_idx: int, optimizer: Any, closure: Any) -> None:
        def step() -> Any:
            with self.rates.apply():
                self.__wrapped__(epoch, batch_idx, optimizer, closure)
            result = closure.consume_result()
            result.closure_loss = None  # frees autograd's nodes
            return result, [parameter.grad for parameter in self.parameters]

        self.rates.update()
        closure._result, gradients = self.replay(step, cast(Sequence[Tensor], self.module.batch))
        for parameter, gradient in zip(self.parameters, gradients, strict=True):
            parameter.grad = gradient  # each recording has its own; the guard of the gates reads them


def start_replay(module: LightningModule, data: CIFAR10DataModule | None, reference: type[LightningModule]) -> None:
    """Replay the steps of a training that starts, and the augmentation of its data, or warn why they are not replayed.

    If the module's ``replay`` is ``auto``: on a CUDA device, without a warning elsewhere. Steps can be replayed of the
    class ``reference``, and of subclasses that do not override them.
    """
    stop_replay(module, data)  # of a training that ended by an exception, after which Lightning skips `teardown`
    if not (wanted := module.hparams["replay"]):
        return
    recorder = make_recorder(module.device)
    if wanted == "auto" and recorder is None:
        return
    obstacle = find_obstacle(module.trainer, module, reference)
    if recorder is None or obstacle is not None:
        rank_zero_warn(f"replay is off, each step launches its kernels: {obstacle or 'it needs a CUDA device'}")
        return
    # On the instance: Lightning refuses some callbacks for a class that overrides this method.
    module.optimizer_step = ReplayedOptimization(recorder, module)  # type: ignore[method-assign, assignment]
    if data is not None and data.transform is None:  # which may draw on the host
        data.augment = replay_augmentation(data)


def replay_augmentation(data: CIFAR10DataModule) -> Callable[[Tensor, Tensor], Tensor]:
    """Return a replayed `CIFAR10DataModule.augment_batch`, with one recording for each size of training images."""
    replay = Replay(cast(CUDARecorder, make_recorder(data.device)))

    def augment(images: Tensor, positions: Tensor) -> Tensor:
        step = partial(data.augment_batch, images, positions)
        return cast(Tensor, replay(step, (images, positions), data.find_size()))

    return augment


def stop_replay(module: LightningModule, data: CIFAR10DataModule | None) -> None:
    """Run the module's steps and augmentation eagerly again, and drop the recordings."""
    module.__dict__.pop("optimizer_step", None)
    if data is not None:
        data.augment = data.augment_batch


def make_recorder(device: torch.device) -> CUDARecorder | None:
    return CUDARecorder() if device.type == "cuda" else None


def find_obstacle(trainer: Trainer, module: LightningModule, reference: type[LightningModule]) -> str | None:
    """Return why training steps cannot be replayed; None if they can."""
    overridden = [name for name in (*STEP_METHODS, *STEP_HOOKS) if is_overridden(name, module, reference)]
    acting = [
        type(callback).__name__
        for callback in find_callbacks(trainer, Callback)
        if isinstance(callback, STEP_CHANGERS) or any(is_overridden(name, callback) for name in STEP_HOOKS)
    ]
    counting = [type(one).__name__ for one in trainer.optimizers if not isinstance(one, Muon | Adam | SGD)]
    obstacles = {
        f"the strategy is {type(trainer.strategy).__name__}": not isinstance(trainer.strategy, SingleDeviceStrategy),
        "float16 needs loss scaling": str(trainer.precision).startswith("16"),
        "gradients are accumulated": trainer.accumulate_grad_batches > 1,
        "a profiler is on": not isinstance(trainer.profiler, PassThroughProfiler),  # type: ignore[attr-defined]
        "detect_anomaly is on": torch.is_anomaly_enabled(),
        f"the optimiser {', '.join(counting)} counts its steps on the host": counting,
        "mixup and cutmix draw on the host": module.hparams["mixup"] or module.hparams["cutmix"],
        f"{type(module).__name__} overrides {', '.join(overridden)}": overridden,
        f"a callback acts within steps: {', '.join(acting)}": acting,
    }
    return next((text for text, found in obstacles.items() if found), None)
