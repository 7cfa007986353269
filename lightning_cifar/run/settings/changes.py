"""Settings that differ from those of an earlier run, and which of them may. Imports no torch."""

from collections.abc import Iterator
from typing import Any

from lightning_cifar.errors import InputError
from lightning_cifar.run.settings.options import SIGNATURES

# Options that may change when a run is resumed, with everything that begins with ``trainer.``.
MAY_CHANGE = {"data.root", "data.url", "data.archive", "data.labels"}
MAY_CHANGE |= {"data.num_workers", "data.in_memory", "data.eval_batch_size"}

# Options that change nothing that is learnt: where data lies, how it is read, which device trains, how often is logged.
WITHOUT_EFFECT = {"data.root", "data.num_workers", "data.eval_batch_size"}
WITHOUT_EFFECT |= {"trainer.devices", "trainer.log_every_n_steps", "trainer.default_root_dir"}


def find_differences(settings: dict[str, Any], stored: dict[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    """Yield each option that differs: its name, such as ``data.root``, its value and the stored value."""
    for group in SIGNATURES:
        for name, value in settings[group].items():
            if value != (other := (stored.get(group) or {}).get(name)):
                yield f"{group}.{name}", value, other


def list_changes(settings: dict[str, Any], stored: dict[str, Any]) -> list[str]:
    """Return a line for each option that differs from the ``stored`` settings of the run.

    `InputError` if an option differs that would make it another run.
    """
    changes = []
    for name, value, before in find_differences(settings, stored):
        if not name.startswith("trainer.") and name not in MAY_CHANGE:
            raise InputError(f"--{name} {value}: the run to resume was started with {before}")
        changes.append(f"--{name} {value}, before {before}")
    if settings["seed_everything"] != stored["seed_everything"]:
        raise InputError(f"--seed_everything: the run to resume has the seed {stored['seed_everything']}")
    return changes
