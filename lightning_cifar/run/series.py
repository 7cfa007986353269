"""PartRun: one of several runs of a command, each by the very command ``fit``, in a directory beside the others'."""

from pathlib import Path
from typing import Any, TypeVar

import yaml
from lightning import Trainer
from lightning.pytorch.callbacks import Callback

from lightning_cifar.commands.command_line import CommandLine
from lightning_cifar.data.dataset import Dataset
from lightning_cifar.errors import InputError
from lightning_cifar.files import one_at_a_time, write_whole
from lightning_cifar.run.progress import Progress
from lightning_cifar.run.record import new_run_dir
from lightning_cifar.run.resume import LastCheckpoint
from lightning_cifar.run.settings import differences

Kind = TypeVar("Kind", bound=Callback)
# What data or timing decide where nothing is said.
UNDECIDED = (("trainer", "precision", "auto"), *(("model", name, None) for name in ("class_names", "mean", "std")))


class PartRun(CommandLine):
    """A run, begun or gone on with where it was stopped, by the settings of the others.

    Args:
        args: what `CommandLine` takes for ``fit``, less the run directory and what is this run's own.
        typed: as the user has typed that, for the record.
        options: what is this run's own.
        directory: of this run; a word and a number.
        source: what another run has read, to train on the same images.
        own: names of the options that may differ between the runs.
    """

    word: str  # what such a run is called
    advice: str  # to who asks for several devices

    def __init__(
        self,
        args: list[str],
        typed: list[str],
        options: list[str],
        directory: Path,
        source: Dataset | None = None,
        own: frozenset[str] = frozenset(),
    ) -> None:
        self.directory, self.source, self.own = directory, source, own | {"data.root"}  # where it lies does not matter
        stopped = (directory / "config.yaml").exists()
        args = [*args, *options, *(["--resume", str(directory)] if stopped else [])]
        super().__init__(args, typed=["fit", *typed, *options])

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        trainer = self.config_init["fit"]["trainer"]
        if trainer["barebones"]:
            raise InputError(f"--trainer.barebones true: nothing would be recorded; a {self.word} needs it off")
        if (devices := trainer["devices"]) not in (1, "1"):
            raise InputError(f"--trainer.devices {devices}: a {self.word} is trained by one; {self.advice}")
        self.datamodule.source = self.source
        return super().instantiate_trainer(**kwargs)

    def train(self, **kwargs: Any) -> None:
        """Ends the command too where it was asked to while the last epoch was validated: what follows takes time."""
        super().train(**kwargs)
        for callback in self.trainer.checkpoint_callbacks:
            if isinstance(callback, LastCheckpoint) and callback.stop_signal is not None:
                callback.answer_slurm()
                raise SystemExit(128 + callback.stop_signal)

    def callback(self, kind: type[Kind]) -> Kind:
        """The one of this kind that the run was equipped with."""
        callbacks = self.trainer.callbacks  # type: ignore[attr-defined]  # set from outside
        return next(one for one in callbacks if type(one) is kind)

    def choose_precision(self) -> None:
        """As the first one chose: timing could find otherwise now, or in another process that starts at this moment."""
        parent = self.directory.parent
        chosen = parent / ".precision"
        with one_at_a_time(parent / ".precision.lock", "measures the precision"):
            if stored := next(self.stored_settings(), None):
                self.set_precision(stored["trainer"]["precision"])
            elif chosen.exists():
                self.set_precision(chosen.read_text())
            else:
                super().choose_precision()
                write_whole(chosen, self.config["fit"]["trainer"]["precision"].encode())

    def make_run_dir(self) -> Path:
        self.refuse_others(yaml.safe_load(self.resolved_config()))
        return new_run_dir(str(self.directory), "")

    def resume(self, run_dir: Path, configured: dict[str, Any]) -> Trainer:
        self.refuse_others(yaml.safe_load(self.resolved_config()))
        return super().resume(run_dir, configured)

    def refuse_others(self, settings: dict[str, Any]) -> None:
        """Refuses settings that differ from those of an earlier run."""
        for stored in self.stored_settings():
            for name, value, other in differences(settings, stored):
                if name not in self.own:
                    where = self.directory.parent
                    raise InputError(f"--{name} {value}: the {self.word}s in {where} are trained with {other}")

    def stored_settings(self) -> Any:
        files = sorted(self.directory.parent.glob(f"{self.word}*/config.yaml"))
        return (yaml.safe_load(file.read_text()) for file in files)

    def callbacks(self, trainer: dict[str, Any]) -> list[Callback]:
        found = super().callbacks(trainer)
        return [Progress(epoch_rows=False) if type(one) is Progress else one for one in found]


class SameSettings(PartRun):
    """Refuses settings that differ from those of the earlier runs, and trains nothing: where none is left to train.

    Args:
        args: as of `PartRun`.
        parent: where the runs are.
        word: what they are called.
    """

    def __init__(self, args: list[str], parent: Path, word: str) -> None:
        self.word = word
        super().__init__(args, [], [], parent / word)

    def instantiate_classes(self) -> None:
        settings = yaml.safe_load(self._parser("fit").dump(self.config["fit"], skip_none=False))
        for group, name, undecided in UNDECIDED:
            if settings[group][name] == undecided:
                del settings[group][name]
        self.refuse_others(settings)

    def _run_subcommand(self, subcommand: str) -> None:
        pass
