"""Launcher: which processes and devices a command means, and those that would each train alone."""

import os
from typing import Any

import torch

from lightning_cifar.errors import InputError
from lightning_cifar.run.process.rank_zero import is_rank_zero

# Launchers: a variable of each of its processes, and the variable with their number.
LAUNCHERS = {
    "torchrun": ("TORCHELASTIC_RUN_ID", "WORLD_SIZE"),
    "srun": ("SLURM_STEP_ID", "SLURM_STEP_NUM_TASKS"),
    "mpirun": ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
}
FEW_PROCESSES = 8  # that any CPU may run: each takes some 0.5 GB
# Variables by which a process finds the other machines; without one of them, it waits half an hour for them.
CLUSTER = {"MASTER_ADDR", "SLURM_JOB_ID", "LSB_JOBID", *(mark for mark, _ in LAUNCHERS.values())}


def check_launcher(trainer: dict[str, Any]) -> None:
    """Raise `InputError` if a launcher's processes would each train alone, or several machines have no launcher."""
    if trainer["num_nodes"] > 1 and not CLUSTER & os.environ.keys():
        raise InputError(
            f"--trainer.num_nodes {trainer['num_nodes']}: no launcher started this process; start it on each machine "
            "by torchrun or srun, or set MASTER_ADDR, MASTER_PORT and NODE_RANK"
        )
    if trainer["devices"] not in (1, "1") or trainer["num_nodes"] != 1:
        return  # Lightning compares the numbers
    for launcher, (mark, number) in LAUNCHERS.items():
        count = os.environ.get(number, "1")
        if mark in os.environ and count not in ("0", "1"):
            if not is_rank_zero():
                raise SystemExit(2)  # rank 0 says why
            raise InputError(
                f"{launcher} started {count} processes for --trainer.devices 1: add --trainer.devices {count}"
            )


def list_indices(devices: Any) -> list[Any]:
    """Return the indices in ``[0]`` or ``0,``; none for a number of devices."""
    if isinstance(devices, str) and "," in devices:
        return devices.strip(",").split(",")
    return devices if isinstance(devices, list) else []


def choose_devices(trainer: dict[str, Any]) -> Any:
    """Return ``devices``; on a CPU, 1 for an index, and only as many processes as it can run."""
    devices = trainer["devices"]
    if devices == "auto" or (trainer["accelerator"] != "cpu" and torch.accelerator.is_available()):
        return devices
    if len(indices := list_indices(devices)) > 1:
        raise InputError(
            f"--trainer.devices {devices}: there is no GPU; --trainer.devices {len(indices)} starts as many processes"
        )
    if indices:
        return 1
    most = max(FEW_PROCESSES, os.cpu_count() or 1)
    number = int(devices) if isinstance(devices, str) and devices.isdecimal() else devices
    if not isinstance(number, int) or not 1 <= number <= most:
        raise InputError(f"--trainer.devices {devices}: there is no GPU; set 1 to {most} processes")
    return devices
