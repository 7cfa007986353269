"""Groups of runs: those that differ in nothing but their seeds."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning_cifar.commands.report.runs import LeftRun

PLACES = ("data.root", "data.num_workers", "trainer.default_root_dir")  # change nothing of what is learnt
LABEL = 40  # characters that tell one group from another


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
    for group in groups:
        alike = [other.runs[0] for other in groups if other.runs[0].name == group.runs[0].name]
        group.label = group.runs[0].name if len(alike) == 1 else f"{group.runs[0].name} ({what_differs(group, alike)})"
    labels = [group.label for group in groups]
    for group in groups:
        if labels.count(group.label) > 1:
            group.label = f"{group.runs[0].name} ({group.directory})"
    return groups


def what_differs(group: Group, alike: Sequence[LeftRun]) -> str:
    """``gate softmax``: the values that set it apart from these runs; where they are long, its directory's name."""
    own, others = what_is_learnt(group.runs[0]), [what_is_learnt(run) for run in alike]
    differing = [name for name, value in own.items() if any(other.get(name) != value for other in others)]
    words = ", ".join(f"{name.split('.')[-1]} {own[name]}" for name in differing)
    return words if 0 < len(words) <= LABEL else group.directory.name


def what_is_learnt(run: LeftRun) -> dict[str, Any]:
    return {name: value for name, value in run.settings.items() if name not in PLACES}
