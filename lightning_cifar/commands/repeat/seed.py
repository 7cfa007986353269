"""SeedRun: one seed of ``repeat``, by the very command ``fit``, and its evaluation by that of ``test``."""

from pathlib import Path
from typing import Any, Self

from lightning import Trainer

from lightning_cifar.evaluate.evaluation import evaluate_test
from lightning_cifar.evaluate.tables import write_predictions
from lightning_cifar.evaluate.test_results import identify_checkpoint
from lightning_cifar.run.record import RunRecord
from lightning_cifar.run.series import PartRun
from lightning_cifar.run.throughput import Throughput

RECORDED = ("recipe", "precision", "git_commit", "versions", "device", "data")  # of run.json


class SeedRun(PartRun):
    """Trains and tests one seed, or goes on with it where it was stopped; `result` says what came of it.

    Args:
        args: what `CommandLine` takes for ``fit``, less the seed and the run directory.
        typed: as the user has typed that, for the record.
        seed: at least 0.
        repeat_dir: of all seeds; this one makes its run directory in it.
        earlier: another seed of the same settings, whose data and compiled network are used again.
    """

    word, advice = "seed", "share out the seeds: --first_seed"

    def __init__(
        self, args: list[str], typed: list[str], seed: int, repeat_dir: Path, earlier: Self | None = None
    ) -> None:
        self.seed, self.earlier = seed, earlier
        source = earlier.datamodule.source if earlier else None
        super().__init__(args, typed, ["--seed_everything", str(seed)], repeat_dir / f"seed{seed}", source)

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        if self.earlier is not None:
            network = self.earlier.model.network
            network.load_state_dict(self.model.network.state_dict())
            self.model.network, self.earlier = network, None
        return super().instantiate_trainer(**kwargs)

    def fit(self, **kwargs: Any) -> None:
        self.train(**kwargs)
        record = self.callback(RunRecord).record
        parts = [record, *record["resumed"]]
        record["data"].pop("root")  # results are shown around
        self.quiet_trainer().test(self.model, self.datamodule, verbose=False)
        evaluation = evaluate_test(self.model, self.datamodule, self.quiet_trainer())
        checkpoint = self.saved("last")
        self.keep_evaluation({**(identify_checkpoint(checkpoint, self.run_dir) if checkpoint else {}), **evaluation})
        logits, _, labels = self.model.test_outputs.compute()
        names = self.datamodule.dataset.class_names
        write_predictions(self.run_dir / "predictions.csv", logits.softmax(1), labels, names)
        self.result = {
            "seed": self.seed,
            "directory": self.run_dir.name,
            **{name: evaluation[name] for name in ("accuracy", "accuracy_without_tta", "loss", "calibration_error")},
            "train_seconds": self.callback(Throughput).seconds,
            "fit_seconds": sum(part.get("timings", {}).get("total_seconds", 0) for part in parts),
            "steps": record["timings"]["steps"],
            "run": {name: record[name] for name in RECORDED},
        }
