"""``doctor``: check packages, hardware, data and W&B, a line each."""

import os
import platform
import shutil
from collections import defaultdict
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

from packaging.requirements import Requirement

from lightning_cifar.errors import format_count, reason
from lightning_cifar.run.settings.options import Arguments

Finding = tuple[bool, str]


def parser() -> Arguments:
    return Arguments(
        "doctor", description="Check packages, hardware, data and W&B. Exit status 0 if training is possible, else 1."
    )


def main(args: list[str]) -> int:
    """Print the findings and return the exit status: 1 if something that training needs is missing."""
    parser().parse_args(args)
    checks = {
        "required packages": check_packages,
        "extras": check_extras,
        "machine": check_machine,
        "data": check_data,
        "dashboards": check_dashboards,
    }
    works = True
    for title, check in checks.items():
        print(f"{title}:", flush=True)
        required = check in (check_packages, check_machine)
        for good, line in check():
            print(f"  {'ok' if good else 'no' if required else '-':<4}{line}", flush=True)
            works &= good or not required
    print("training is possible" if works else "training is not possible: see the lines marked `no`")
    return int(not works)


def check_packages() -> Iterator[Finding]:
    yield True, f"lightning-cifar {version('lightning-cifar')}, Python {platform.python_version()}"
    for requirement in read_requirements()[""]:
        yield check_requirement(requirement)


def check_extras() -> Iterator[Finding]:
    for extra, requirements in read_requirements().items():
        if extra not in ("", "test"):
            found = [*map(check_requirement, requirements)]
            good = all(good for good, _ in found)
            remedy = "" if good else f"; pip install 'lightning-cifar[{extra}]'"
            yield good, f"{extra}: {', '.join(what for _, what in found)}{remedy}"


def read_requirements() -> dict[str, list[Requirement]]:
    """Return the requirements of the package, under an empty name, and of each extra."""
    requirements: dict[str, list[Requirement]] = defaultdict(list)
    for line in requires("lightning-cifar") or []:
        requirement = Requirement(line)
        extra = str(requirement.marker).partition('extra == "')[2].rstrip('"') if requirement.marker else ""
        requirement.marker = None
        requirements[extra].append(requirement)
    return requirements


def check_requirement(requirement: Requirement) -> Finding:
    try:
        found = version(requirement.name)
    except PackageNotFoundError:
        return False, f"{requirement.name} is not installed"
    good = requirement.specifier.contains(found, prereleases=True)
    return good, f"{requirement.name} {found}" + ("" if good else f": {requirement.specifier} is required")


def check_machine() -> Iterator[Finding]:
    try:
        yield from check_torch()
    except Exception as error:
        yield False, f"the network does not run: {reason(error)}"
    free = shutil.disk_usage(".").free / 2**30
    yield os.access(".", os.W_OK), f"working directory {Path.cwd()}: {free:.0f} GiB free"


def check_torch() -> Iterator[Finding]:
    import torch

    from lightning_cifar.run.process.hardware import find_fastest_precision
    from lightning_cifar.run.records.run_json import find_cpu_name
    from lightning_cifar.run.weights import load_pretrained

    cores = format_count(os.cpu_count() or 1, "core")
    yield True, f"CPU: {find_cpu_name()}, {cores}; threads of torch: {torch.get_num_threads()}"
    for index in range(torch.cuda.device_count()):
        gpu = torch.cuda.get_device_properties(index)
        yield True, f"GPU {index}: {gpu.name}, {gpu.total_memory / 2**30:.0f} GiB, CUDA {torch.version.cuda}"
    if not torch.cuda.is_available():
        yield True, "GPU: none that torch can use; training uses the CPU"
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = load_pretrained().to(device)
    model(torch.zeros(2, 3, 32, 32, dtype=torch.uint8, device=device)).sum().backward()  # a step of training, nearly
    faster = find_fastest_precision(model.network, device, side=32)
    yield True, f"the pretrained model predicts; faster precision for training: {faster}"


def check_data() -> Iterator[Finding]:
    given = os.environ.get("LIGHTNING_CIFAR_DATA")
    root = Path(os.path.expanduser(given or "data"))
    named = f"the directory {root} ({'LIGHTNING_CIFAR_DATA' if given else 'default'})"
    for name, folder in (("CIFAR-10", "cifar-10-batches-py"), ("CIFAR-100", "cifar-100-python")):
        found = (root / folder).is_dir()
        yield found, f"{name} in {named}" if found else f"{name} is not in {named}: fit downloads it, 170 MB"
    if (root / "train").is_dir():
        yield True, f"image folder in {named}: use --data.dataset folder"


def check_dashboards() -> Iterator[Finding]:
    try:
        import wandb

        logged_in = wandb.login(prompt=False, verify=False)
    except Exception as error:
        yield False, f"W&B cannot be used: {reason(error)}"
        return
    mode = os.environ.get("WANDB_MODE")
    words = "logged in: fit --wandb is online" if logged_in else "not logged in: fit --wandb is offline"
    yield bool(logged_in), "W&B: " + (f"WANDB_MODE={mode} sets the mode of fit --wandb" if mode else words)
