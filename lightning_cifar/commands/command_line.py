"""CommandLine: ``fit``, ``test``, ``predict``: what each does with its `Run`, and what it tells."""

import signal
from typing import Any

import torch
from lightning import Trainer
from lightning.fabric.connector import _PRECISION_INPUT

from lightning_cifar.data.dataset import ImageSet
from lightning_cifar.errors import InputError
from lightning_cifar.evaluate.charts import draw_evaluation, draw_mistakes
from lightning_cifar.evaluate.corruptions import evaluate_corruptions
from lightning_cifar.evaluate.evaluation import evaluate_test
from lightning_cifar.evaluate.tables import format_table, write_predictions
from lightning_cifar.evaluate.test_results import identify_checkpoint
from lightning_cifar.run.figure import CURVES
from lightning_cifar.run.record import write_json
from lightning_cifar.run.resume import LastCheckpoint
from lightning_cifar.run.trainer import Run
from lightning_cifar.run.wandb import show_curves, show_test
from lightning_cifar.train.hardware import keep_freed_memory


class CommandLine(Run):
    """Each command of LightningCLI, with its results told and written to the run's directory."""

    def fit(self, **kwargs: Any) -> None:
        """Trains, and says where things are, after Ctrl-C too."""
        print(f"run directory: {self.run_dir}", flush=True)
        try:
            self.train(**kwargs)
            if self.resumed and self.trainer.global_step == self.steps_before:
                print("nothing was left to train: this run had ended; a higher --trainer.max_epochs trains on")
        finally:
            self.say_where()

    def train(self, **kwargs: Any) -> None:
        keep_freed_memory()
        try:
            self.trainer.fit(**kwargs)
        except SystemExit as stop:  # how Lightning ends after a signal
            signals = (one.stop_signal for one in self.trainer.checkpoint_callbacks if isinstance(one, LastCheckpoint))
            early = signal.SIGTERM if stop.code == 128 + signal.SIGTERM else signal.SIGINT  # before training began
            raise SystemExit(128 + (next(signals, None) or early)) from stop

    def say_where(self) -> None:
        for what, name in (("curves", CURVES), ("numbers", "metrics.csv")):
            if (self.run_dir / name).exists():
                print(f"{what}: {self.run_dir / name}")
        best, last = self.saved("best"), self.saved("last")
        # What the training loss liked best is no better than the last.
        if checkpoint := (best if self.datamodule.hparams["held_out"] == "val" else last) or best or last:
            print(f"checkpoint: {checkpoint}")
            print(f"test it: python -m lightning_cifar test --ckpt_path {checkpoint}")
        if self.wandb is not None:
            if (self.run_dir / CURVES).exists():
                show_curves(self.wandb, self.run_dir / CURVES)
            if checkpoint and self.config["fit"]["wandb_checkpoints"]:
                self.wandb.send_checkpoint(checkpoint)

    def saved(self, which: str) -> str:
        """Path of the ``best`` or the ``last`` checkpoint; empty where there is none."""
        paths = (getattr(one, f"{which}_model_path", "") for one in self.trainer.checkpoint_callbacks)
        found = next(filter(None, paths), "")
        # A run that had ended wrote nothing when it was gone on with.
        return found or (str(self.resumed or "") if which == "last" else "")

    def test(self, **kwargs: Any) -> None:
        """Tests, prints one table and writes it as ``test.json``."""
        if self.config["test"]["corruptions"] and not isinstance(self.datamodule.test, ImageSet):
            raise InputError("--corruptions needs the images in memory: --data.in_memory true")
        limit = self.trainer.limit_test_batches  # 1 is a batch, 1.0 all of them
        if self.trainer.world_size > 1 and (isinstance(limit, int) or limit < 1):
            raise InputError("--trainer.limit_test_batches works in one process: --trainer.devices 1")
        # Now: training may go on meanwhile.
        checkpoint = identify_checkpoint(self.config["test"]["ckpt_path"], self.run_dir)
        self.trainer.test(**kwargs, verbose=False)
        if "test/loss" not in self.trainer.callback_metrics:
            raise InputError("no image was tested: --trainer.limit_test_batches must be above 0")
        if not self.trainer.is_global_zero:
            return
        quiet = self.quiet_trainer(self.config["test"]["trainer"]["precision"])
        result = evaluate_test(self.model, self.datamodule, quiet)
        print(format_table(result), flush=True)
        if self.config["test"]["corruptions"]:
            print("accuracy without TTA under corruptions of severity 1 to 5:", flush=True)
            result["corruptions"] = evaluate_corruptions(self.model, self.datamodule, quiet)
        self.keep_evaluation({**checkpoint, **result})
        print(f"table: {self.run_dir / 'test.json'}\npicture: {self.run_dir / 'test.png'}")

    def keep_evaluation(self, result: dict[str, Any]) -> None:
        """Writes ``test.json`` and its pictures."""
        write_json(self.run_dir / "test.json", result)
        draw_evaluation(self.run_dir / "test.png", result)
        images = None
        if places := [mistake["index"] for mistake in result["mistakes"]]:
            chosen = self.datamodule.test[torch.tensor(places)].sample(len(places)).images
            images = chosen.permute(0, 2, 3, 1).cpu().numpy()
            draw_mistakes(self.run_dir / "mistakes.png", images)
        if self.wandb is not None:
            show_test(self.wandb, result, images, self.run_dir / "test.png")

    def quiet_trainer(self, precision: _PRECISION_INPUT | None = None) -> Trainer:
        """One that evaluates, in float32 where nothing else is said, and leaves no trace."""
        device = self.trainer.strategy.root_device
        return Trainer(
            accelerator=self.config[self.subcommand]["trainer"]["accelerator"],
            devices=1 if device.index is None else [device.index],
            precision=precision,
            logger=False,
            enable_checkpointing=False,
            enable_model_summary=False,
            enable_progress_bar=False,
        )

    def predict(self, **kwargs: Any) -> None:
        """Predicts the test images and writes ``predictions.csv``."""
        if self.trainer.world_size > 1:
            raise InputError("predict works in one process: --trainer.devices 1")
        batches: Any = self.trainer.predict(**kwargs)
        if not batches:
            raise InputError("no image was predicted: --trainer.limit_predict_batches must be above 0")
        probabilities = torch.cat(batches)
        labels = self.datamodule.test.labels[: len(probabilities)]
        file = self.run_dir / "predictions.csv"
        write_predictions(file, probabilities, labels, self.datamodule.dataset.class_names)
        print(f"predictions: {file}")
