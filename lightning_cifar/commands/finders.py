"""Finders: Lightning's learning-rate and batch-size finder, on what ``fit`` would train."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from lightning import Trainer
from lightning.pytorch.cli import LightningCLI
from lightning.pytorch.tuner import Tuner, lr_finder
from tqdm import tqdm

from lightning_cifar.command_line import CommandLine
from lightning_cifar.errors import InputError
from lightning_cifar.results.rates import draw_rates, steepest, unbiased
from lightning_cifar.train.memory import keep_freed_memory
from lightning_cifar.train.record import new_run_dir, write_json

FIRST = 16  # batch size
STEPS = 100  # of the learning-rate finder
DECADES = 3  # to both sides of the recipe's learning rate
NEVER = 10**9
RATES = ("learning_rate", "gate_rate", "norm_rate", "head_rate")  # of `ImageClassifier`


class Finders(CommandLine):
    """Runs the finders that are asked for; `found` has the options that follow, as they are typed.

    Args:
        args: what `CommandLine` takes for ``fit``.
        rate: find a learning rate, at the batch size found if one is.
        limit: find a batch size up to this; 0: up to what memory allows; None: do not.
    """

    def __init__(self, args: list[str], rate: bool, limit: int | None) -> None:
        self.rate, self.limit = rate, limit
        self.found: dict[str, str] = {}
        super().__init__(args)

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        trainer = self.config_init["fit"]["trainer"]
        for name, wanted in (("barebones", (False,)), ("fast_dev_run", (False, 0)), ("devices", (1, "1"))):
            if trainer[name] not in wanted:
                raise InputError(f"--trainer.{name} {trainer[name]}: tune works without, in one process")
        return super().instantiate_trainer(**kwargs)

    def make_run_dir(self) -> Path:
        return new_run_dir(self.config["fit"]["run_dir"], f"tune/{self.group}")

    def equipped_trainer(self, configured: dict[str, Any], lines: int = 0) -> Trainer:
        """One that trains as long as a finder wants, evaluates nothing and leaves no trace."""
        trainer: Trainer = LightningCLI.instantiate_trainer(
            self,
            logger=False,
            callbacks=[],
            enable_checkpointing=False,
            enable_progress_bar=False,
            check_val_every_n_epoch=NEVER,
            max_epochs=NEVER,
            max_steps=-1,
            max_time=None,
            default_root_dir=str(self.run_dir),
        )
        if self.limit == 0 and trainer.strategy.root_device.type == "cpu":
            raise InputError(
                "--batch_size: on a CPU too large a batch is no error but the end of the process, so the search needs "
                "a limit: --batch_size 2048, say"
            )
        return trainer

    def fit(self, **kwargs: Any) -> None:
        print(f"run directory: {self.run_dir}", flush=True)
        keep_freed_memory()
        if self.limit is not None:
            self.find_batch_size(self.limit)
        if self.rate:
            self.find_rate()

    def find_batch_size(self, limit: int) -> None:
        """Doubles it until memory does not suffice, or the limit is reached."""
        images = len(self.datamodule.train)
        limit = min(limit or images, images)
        doublings = (limit // FIRST).bit_length() - 1
        size = Tuner(self.trainer).scale_batch_size(
            self.model,
            datamodule=self.datamodule,
            init_val=FIRST,
            max_trials=doublings + 1,
            max_val=NEVER,
        )
        assert size is not None
        why = "memory allows no more" if size < FIRST * 2**doublings else "the last that was tried"
        print(f"batch size: {size} fits, {why}; the largest is seldom the most accurate: `sweep` compares", flush=True)
        self.found["data.batch_size"] = str(size)

    def find_rate(self) -> None:
        """Raises the rate step by step, from a thousandth of the recipe's to a thousand times it."""
        rates = {name: self.model.hparams[name] for name in RATES if self.model.hparams[name] is not None}
        own = rates["learning_rate"]
        self.model.configure_optimizers = in_proportion(self.model.configure_optimizers)  # type: ignore[method-assign]
        lr_finder.tqdm = partial(tqdm, disable=None)  # its bar is for terminals alone
        finder = Tuner(self.trainer).lr_find(
            self.model,
            datamodule=self.datamodule,
            min_lr=own / 10**DECADES,
            max_lr=own * 10**DECADES,
            num_training=STEPS,
            update_attr=False,
        )
        assert finder is not None
        tried, losses = finder.results["lr"], unbiased(finder.results["loss"])
        suggested = steepest(tried, losses)
        draw_rates(self.run_dir / "rates.png", tried, losses, own, suggested)
        write_json(self.run_dir / "rates.json", {"own": own, "suggested": suggested, "rates": tried, "losses": losses})
        print(f"loss by learning rate: {self.run_dir / 'rates.png'}")
        if suggested is None:
            print("learning rate: none suggested, for the loss fell nowhere, or was no number too soon")
            return
        print(f"learning rate: {suggested:.3g}, where the loss falls steepest; the recipe has {own:.3g}")
        if len(rates) > 1:
            print(f"the recipe's other rates kept their ratio to it: {', '.join([*rates][1:])}")
        self.found |= {f"model.{name}": f"{rate * suggested / own:.3g}" for name, rate in rates.items()}


def in_proportion(configure: Callable[[], Any]) -> Callable[[], Any]:
    """Lightning's finder sets one rate for all parameters; here those that had others keep their ratio to the first."""

    def configured() -> Any:
        made = configure()
        optimizer = made["optimizer"] if isinstance(made, dict) else made
        rates = [group["lr"] for group in optimizer.param_groups]

        def spread(optimizer: Any, *_: Any) -> None:
            first = optimizer.param_groups[0]["lr"]  # as the finder has set all, before each step
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = first * rate / rates[0]

        optimizer.register_step_pre_hook(spread)
        return made

    return configured
