"""SeedRun: one seed of ``repeat``, by the very command ``fit``, and its evaluation by that of ``test``."""

from pathlib import Path
from typing import Any, Self

import yaml
from lightning import Trainer
from lightning.pytorch.callbacks import Callback

from lightning_cifar.arguments import differences
from lightning_cifar.command_line import CommandLine
from lightning_cifar.errors import InputError
from lightning_cifar.results.evaluation import tested
from lightning_cifar.results.report import write_predictions
from lightning_cifar.train.progress import Progress, Throughput
from lightning_cifar.train.record import RunRecord, new_run_dir

RECORDED = ("recipe", "precision", "git_commit", "versions", "device", "data")  # of run.json


class SeedRun(CommandLine):
    """Trains and tests one seed, or goes on with it where it was stopped; `result` says what came of it.

    Args:
        args: what `CommandLine` takes for ``fit``, less the seed and the run directory.
        seed: at least 0.
        repeat_dir: of all seeds; this one makes its run directory in it.
        earlier: another seed of the same settings, whose data and compiled network are used again.
    """

    def __init__(self, args: list[str], seed: int, repeat_dir: Path, earlier: Self | None = None) -> None:
        self.seed, self.repeat_dir, self.earlier = seed, repeat_dir, earlier
        self.directory = repeat_dir / f"seed{seed}"
        stopped = (self.directory / "config.yaml").exists()
        resume = ["--resume", str(self.directory)] if stopped else []
        super().__init__([*args, "--seed_everything", str(seed), *resume])

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        if self.config_init["fit"]["trainer"]["barebones"]:
            raise InputError("--trainer.barebones true: nothing would be recorded; repeat needs it off")
        if (devices := self.config_init["fit"]["trainer"]["devices"]) not in (1, "1"):
            raise InputError(
                f"--trainer.devices {devices}: a seed is trained by one; share out the seeds: --first_seed"
            )
        if self.earlier is not None:
            self.datamodule.source = self.earlier.datamodule.source
            network = self.earlier.model.network
            network.load_state_dict(self.model.network.state_dict())
            self.model.network, self.earlier = network, None
        return super().instantiate_trainer(**kwargs)

    def choose_precision(self) -> None:
        """As the first seed chose: timing could find otherwise now."""
        if stored := next(self.stored_settings(), None):
            self.set_precision(stored["trainer"]["precision"])
        else:
            super().choose_precision()

    def make_run_dir(self) -> Path:
        self.refuse_others()
        return new_run_dir(str(self.directory), "")

    def resume(self, run_dir: Path, configured: dict[str, Any]) -> Trainer:
        self.refuse_others()
        return super().resume(run_dir, configured)

    def refuse_others(self) -> None:
        """Refuses settings that differ from those of an earlier seed; where the data lies does not matter."""
        settings = yaml.safe_load(self.resolved_config())
        for stored in self.stored_settings():
            for name, value, other in differences(settings, stored):
                if name != "data.root":
                    raise InputError(f"--{name} {value}: the seeds in {self.repeat_dir} are trained with {other}")

    def stored_settings(self) -> Any:
        return (yaml.safe_load(file.read_text()) for file in sorted(self.repeat_dir.glob("seed*/config.yaml")))

    def callbacks(self, trainer: dict[str, Any]) -> list[Callback]:
        found = super().callbacks(trainer)
        return [Progress(epoch_rows=False) if type(one) is Progress else one for one in found]

    def fit(self, **kwargs: Any) -> None:
        self.train(**kwargs)
        found = {type(one): one for one in self.trainer.callbacks}  # type: ignore[attr-defined]  # set from outside
        record = found[RunRecord].record
        parts = [record, *record["resumed"]]
        record["data"].pop("root")  # results are shown around
        self.quiet_trainer().test(self.model, self.datamodule, verbose=False)
        evaluation = tested(self.model, self.datamodule, self.quiet_trainer())
        self.keep_evaluation(self.saved("last"), evaluation)
        logits, _, labels = self.model.test_outputs.compute()
        names = self.datamodule.dataset.class_names
        write_predictions(self.run_dir / "predictions.csv", logits.softmax(1), labels, names)
        self.result = {
            "seed": self.seed,
            "directory": self.run_dir.name,
            **{name: evaluation[name] for name in ("accuracy", "accuracy_without_tta", "loss", "calibration_error")},
            "train_seconds": found[Throughput].seconds,
            "fit_seconds": sum(part.get("timings", {}).get("total_seconds", 0) for part in parts),
            "steps": record["timings"]["steps"],
            "run": {name: record[name] for name in RECORDED},
        }
