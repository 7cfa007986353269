"""Trust: functions that options and checkpoints name are imported from packages that the user trusts, and no others."""

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from difflib import get_close_matches
from importlib import import_module
from pathlib import Path
from typing import Any

from lightning_cifar.errors import InputError, reason

trusted: ContextVar[tuple[str, ...]] = ContextVar("trusted", default=())


@contextmanager
def trust(*packages: str) -> Iterator[None]:
    """Let `import_function` import from these packages, also from files in the working directory.

    Importing a package runs its code, and a checkpoint chooses what is called: trust no more than you need.

    Args:
        packages: names of packages or modules; the option ``--trust_config`` separates them by commas.
    """
    here, token = os.getcwd(), trusted.set((*trusted.get(), *packages))
    added = bool(packages) and not {here, ""} & {*sys.path}  # as `python -m` does; an installed script does not
    if added:
        sys.path.append(here)
    try:
        yield
    finally:
        trusted.reset(token)
        if added:
            sys.path.remove(here)


def is_trusted(module: str, further: Sequence[str] = ()) -> bool:
    """Return whether a module is one that the user trusts, or one of ``further``, or lies below one."""
    return any(f"{module}.".startswith(f"{one}.") for one in (*trusted.get(), *further))


def import_function(name: str, option: str) -> Callable[..., Any]:
    """Import the function or class ``PACKAGE.MODULE:NAME`` that ``option`` names, from a package that is trusted."""
    module, _, attribute = name.partition(":")
    package = module.partition(".")[0]
    if module.endswith(".py") or "/" in module or not (package and attribute):
        such = f"{Path(module).name.removesuffix('.py') or 'mine'}:{attribute or 'build'}"
        raise InputError(f"{option} {name}: write PACKAGE.MODULE:FUNCTION, such as {such} for a file in this directory")
    if "<" in attribute:
        kind = "a lambda or defined within a function"
        raise InputError(f"{option} {name} cannot be imported, as it is {kind}: in Python, pass it again as {option}")
    if not is_trusted(module):
        allow = f"add --trust_config {package} (in Python: with lightning_cifar.trust({package!r}))"
        raise InputError(f"{option} {name} is not trusted. Importing it runs its code; to allow that, {allow}")
    try:
        found = import_module(module)
    except Exception as error:
        where = f": install it, or run where {package}.py is" if getattr(error, "name", None) == package else ""
        raise InputError(f"{option} {name}: {module} cannot be imported ({reason(error)}){where}") from error
    function: Callable[..., Any] | None = getattr(found, attribute, None)
    if not callable(function):
        near = get_close_matches(attribute, [one for one, value in vars(found).items() if callable(value)], 1)
        meant = f": did you mean {near[0]}?" if near else ""
        raise InputError(f"{option} {name}: {module} has no function {attribute!r}{meant}")
    return function
