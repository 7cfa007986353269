"""Settings that differ from those of an earlier run, and which of them may. Imports no torch."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from lightning_cifar.errors import InputError
from lightning_cifar.run.settings.options import SIGNATURES
from lightning_cifar.values import to_plain

# Options that may change when a run is resumed, with everything that begins with ``trainer.``.
MAY_CHANGE = {"data.root", "data.url", "data.archive", "data.labels"}
MAY_CHANGE |= {"data.num_workers", "data.in_memory", "data.eval_batch_size"}

# Options that change nothing that is learnt: where data lies, how it is read, which device trains (of several, how many
# does matter), how often is logged.
WITHOUT_EFFECT = {"data.root", "data.num_workers", "data.eval_batch_size"}
WITHOUT_EFFECT |= {"trainer.devices", "trainer.log_every_n_steps", "trainer.default_root_dir"}


def differ(first: Any, second: Any) -> bool:
    """Return whether two options have different values; a tuple equals the same list."""
    plain = (list(one) if isinstance(one, tuple) else one for one in map(to_plain, (first, second)))
    return bool(next(plain) != next(plain))


def find_differences(settings: dict[str, Any], stored: dict[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    """Yield each option that differs: its name, such as ``data.root``, its value and the stored value."""
    for group in SIGNATURES:
        for name, value in settings[group].items():
            if value != (other := (stored.get(group) or {}).get(name)):
                yield f"{group}.{name}", value, other


def refuse_edits(file: Path, settings: Any, checkpoint: Mapping[str, Any]) -> None:
    """Raise `InputError` if model or data have other settings in a run's config.yaml than in its checkpoint.

    Options that may change are not compared, nor class names and weights that the data decides.
    """
    for group, key in (("model", "hyper_parameters"), ("data", "datamodule_hyper_parameters")):
        for name, value in settings[group].items():
            trained = (checkpoint.get(key) or {}).get(name, value)
            decided = (name == "class_names" and value is None) or (value == "balanced" and isinstance(trained, list))
            if differ(value, trained) and not decided and f"{group}.{name}" not in MAY_CHANGE:
                raise InputError(
                    f"{file} has {group}.{name} {value}, but the run was trained with {trained}: restore it"
                )


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
