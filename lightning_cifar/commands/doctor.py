"""``doctor``: what is installed, what computes, what data is found, whether W&B is logged in; a line each."""

import os
import platform
import shutil
from collections import defaultdict
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

from packaging.requirements import Requirement

from lightning_cifar.errors import reason
from lightning_cifar.options import Arguments

Finding = tuple[bool, str]


def parser() -> Arguments:
    return Arguments("doctor", description="Prints what this installation has and finds: 0 if it can train, else 1.")


def main(args: list[str]) -> int:
    """Prints the findings and returns the exit status: 1 where something that training needs is missing."""
    parser().parse_args(args)
    rooms = {"needed": packages, "extras": extras, "machine": machine, "data": data, "dashboards": dashboards}
    works = True
    for room, look in rooms.items():
        print(f"{room}:", flush=True)
        for good, what in look():
            vital = room in ("needed", "machine")
            print(f"  {'ok' if good else 'no' if vital else '-':<4}{what}", flush=True)
            works &= good or not vital
    print("this can train" if works else "this cannot train: see what has a `no` under needed and machine")
    return int(not works)


def packages() -> Iterator[Finding]:
    yield True, f"lightning-cifar {version('lightning-cifar')}, Python {platform.python_version()}"
    for requirement in asked_for()[""]:
        yield installed(requirement)


def extras() -> Iterator[Finding]:
    for extra, requirements in asked_for().items():
        if extra not in ("", "test"):
            found = [*map(installed, requirements)]
            good = all(good for good, _ in found)
            remedy = "" if good else f"; pip install 'lightning-cifar[{extra}]'"
            yield good, f"{extra}: {', '.join(what for _, what in found)}{remedy}"


def asked_for() -> dict[str, list[Requirement]]:
    """What the package asks for, under an empty name, and what each extra does."""
    found: dict[str, list[Requirement]] = defaultdict(list)
    for line in requires("lightning-cifar") or []:
        requirement = Requirement(line)
        extra = str(requirement.marker).partition('extra == "')[2].rstrip('"') if requirement.marker else ""
        requirement.marker = None
        found[extra].append(requirement)
    return found


def installed(requirement: Requirement) -> Finding:
    try:
        found = version(requirement.name)
    except PackageNotFoundError:
        return False, f"{requirement.name} is not installed"
    good = requirement.specifier.contains(found, prereleases=True)
    return good, f"{requirement.name} {found}" + ("" if good else f", where {requirement.specifier} is needed")


def machine() -> Iterator[Finding]:
    import torch

    from lightning_cifar.model.network import FiveBlockNet
    from lightning_cifar.run.record import cpu_name
    from lightning_cifar.train.hardware import find_fastest_precision
    from lightning_cifar.train.weights import load_pretrained

    yield True, f"CPU: {cpu_name()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads"
    for index in range(torch.cuda.device_count()):
        gpu = torch.cuda.get_device_properties(index)
        yield True, f"GPU {index}: {gpu.name}, {gpu.total_memory / 2**30:.0f} GiB, CUDA {torch.version.cuda}"
    if not torch.cuda.is_available():
        yield True, "GPU: none that torch can use; training runs on the CPU"
    device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        load_pretrained().to(device)(torch.zeros(2, 3, 32, 32, dtype=torch.uint8, device=device))
        precision = find_fastest_precision(FiveBlockNet(), torch.rand(64, 3, 32, 32, device=device))
        yield True, f"the model in the package answers, a new one trains; the faster precision: {precision}"
    except Exception as error:
        yield False, f"networks do not work here: {reason(error)}"
    free = shutil.disk_usage(".").free / 2**30
    yield os.access(".", os.W_OK), f"{Path.cwd()}, where runs/ and data/ go: {free:.0f} GiB free"


def data() -> Iterator[Finding]:
    root = Path(os.environ.get("LIGHTNING_CIFAR_DATA") or "data")
    named = f"{root}, by LIGHTNING_CIFAR_DATA" if "LIGHTNING_CIFAR_DATA" in os.environ else f"{root}, by default"
    for name, folder in (("CIFAR-10", "cifar-10-batches-py"), ("CIFAR-100", "cifar-100-python")):
        there = (root / folder).is_dir()
        yield there, f"{name} in {named}" if there else f"{name} is not in {named}; fit downloads it, 170 MB"
    if (root / "train").is_dir():
        yield True, f"an image folder in {named}: --data.dataset folder"


def dashboards() -> Iterator[Finding]:
    try:
        import wandb

        logged_in = wandb.login(prompt=False, verify=False)
    except Exception as error:
        yield False, f"W&B cannot be used: {reason(error)}"
        return
    mode = os.environ.get("WANDB_MODE")
    words = "an API key is known, so fit --wandb is online" if logged_in else "no API key, so fit --wandb is offline"
    yield bool(logged_in), "W&B: " + (f"WANDB_MODE={mode} decides" if mode else words)
