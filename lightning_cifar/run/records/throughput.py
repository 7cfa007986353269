"""Training throughput as logged metrics."""

import time
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.data import extract_batch_size
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from lightning_cifar.errors import InputError


class Throughput(Callback):
    """Log images per second: ``time/images_per_second`` at logged steps, ``time/epoch_images_per_second`` per epoch.

    The time includes loading, augmentation, training steps and callbacks, but not validation. The device is
    synchronised only at the end of an epoch, because more would slow training. ``seconds`` is the sum over epochs.
    """

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self.epoch_started = self.window_started = self.validation_started = self.seconds = 0.0
        self.resumed_seconds = 0.0  # of the current epoch, before the run was stopped; ``seconds`` has them already
        self.epoch_over = True
        self.epoch_images = self.window_images = 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.window_started = time.perf_counter()
        self.epoch_started = self.window_started - self.resumed_seconds
        self.epoch_over = False

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.resumed_seconds, self.epoch_over = 0.0, False
        self.epoch_started = self.window_started = time.perf_counter()
        self.epoch_images = self.window_images = 0

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.validation_started = time.perf_counter()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        seconds = time.perf_counter() - self.validation_started
        self.epoch_started += seconds
        self.window_started += seconds

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        try:
            images = extract_batch_size(batch) * trainer.world_size
        except MisconfigurationException as error:  # whose advice is about `log`
            kind = type(batch).__name__
            raise InputError(f"Throughput counts images, and finds none in a {kind}: leave it out") from error
        self.epoch_images += images
        self.window_images += images
        every = trainer.log_every_n_steps  # type: ignore[attr-defined]  # set from outside
        if every and trainer.global_step % every == 0:
            now = time.perf_counter()
            pl_module.log("time/images_per_second", self.window_images / (now - self.window_started))
            self.window_started, self.window_images = now, 0

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if pl_module.device.type == "cuda":
            torch.cuda.synchronize(pl_module.device)
        seconds = time.perf_counter() - self.epoch_started
        self.seconds += seconds - self.resumed_seconds
        self.resumed_seconds, self.epoch_over = 0.0, True
        pl_module.log("time/epoch_seconds", seconds)
        pl_module.log("time/epoch_images_per_second", self.epoch_images / seconds)

    def state_dict(self) -> dict[str, Any]:
        epoch = 0.0 if self.epoch_over else time.perf_counter() - self.epoch_started
        finished = self.seconds - self.resumed_seconds
        return {"seconds": finished, "epoch_seconds": epoch, "epoch_images": self.epoch_images}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.epoch_images, self.resumed_seconds = int(state_dict["epoch_images"]), float(state_dict["epoch_seconds"])
        self.seconds = float(state_dict["seconds"]) + self.resumed_seconds
