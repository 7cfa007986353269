"""Groups of runs: those that differ in nothing but their seeds."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning_cifar.results.runs import LeftRun

PLACES = ("data.root", "data.num_workers", "trainer.default_root_dir")  # change nothing of what is learnt


@dataclass
class Group:
    """Runs that differ in nothing but their seeds."""

    runs: list[LeftRun]
    label: str = ""

    @property
    def directory(self) -> Path:
        """Of its one run, or of all its seeds."""
        above = {run.directory.parent for run in self.runs}
        return self.runs[0].directory if len(self.runs) == 1 or len(above) > 1 else above.pop()


def grouped(runs: Sequence[LeftRun]) -> list[Group]:
    """Puts together what differs in the seed alone, in the order given, each with a label of its own."""
    groups: list[Group] = []
    for run in runs:
        for group in groups:
            same = run.settings and what_is_learnt(run) == what_is_learnt(group.runs[0])
            if same and run.seed not in [one.seed for one in group.runs]:  # once more is no other seed
                group.runs.append(run)
                break
        else:
            groups.append(Group([run]))
    names = [group.runs[0].name for group in groups]
    for group, name in zip(groups, names, strict=True):
        group.label = name if names.count(name) == 1 else f"{name} ({group.directory.name})"
    labels = [group.label for group in groups]
    for group in groups:
        if labels.count(group.label) > 1:
            group.label = f"{group.runs[0].name} ({group.directory})"
    return groups


def what_is_learnt(run: LeftRun) -> dict[str, Any]:
    return {name: value for name, value in run.settings.items() if name not in PLACES}
