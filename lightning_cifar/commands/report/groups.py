"""Groups of runs that differ only in their seeds."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning_cifar.commands.report.runs import SavedRun
from lightning_cifar.run.settings.changes import WITHOUT_EFFECT

LABEL = 40  # characters, at most, of the settings in a label


@dataclass
class Group:
    """Runs that differ only in their seeds."""

    runs: list[SavedRun]
    label: str = ""

    @property
    def directory(self) -> Path:
        """Directory of the only run, or the one that holds all runs; else that of the first."""
        parents = {run.directory.parent for run in self.runs}
        return self.runs[0].directory if len(self.runs) == 1 or len(parents) > 1 else parents.pop()


def group_runs(runs: Sequence[SavedRun]) -> list[Group]:
    """Group runs that differ only in the seed, in the order given, and give each group a distinct label."""
    groups: list[Group] = []
    for run in runs:
        for group in groups:
            same = run.settings and select_settings(run) == select_settings(group.runs[0])
            if same and run.seed not in [one.seed for one in group.runs]:  # the same seed twice is not two seeds
                group.runs.append(run)
                break
        else:
            groups.append(Group([run]))
    for group in groups:
        alike = [other.runs[0] for other in groups if other.runs[0].name == group.runs[0].name]
        group.label = group.runs[0].name + (f" ({describe_difference(group, alike)})" if len(alike) > 1 else "")
    labels = [group.label for group in groups]
    for group in groups:
        if labels.count(group.label) > 1:
            group.label = f"{group.runs[0].name} ({group.directory})"
    return groups


def describe_difference(group: Group, alike: Sequence[SavedRun]) -> str:
    """Return the settings that set the group apart, as ``gate softmax``; if too long, its directory's name."""
    settings, others = select_settings(group.runs[0]), [select_settings(run) for run in alike]
    differing = [name for name, value in settings.items() if any(other.get(name) != value for other in others)]
    words = ", ".join(f"{name.split('.')[-1]} {settings[name]}" for name in differing)
    return words if 0 < len(words) <= LABEL else group.directory.resolve().name  # of "." too


def select_settings(run: SavedRun) -> dict[str, Any]:
    """Return the settings that influence training; of the devices, their number."""
    devices = run.settings.get("trainer.devices", 1)
    count = len(devices) if isinstance(devices, list) else devices
    kept = {name: value for name, value in run.settings.items() if name not in WITHOUT_EFFECT}
    return kept | {"trainer.devices": count}
