"""Distributed training (DDP): the results of one process, every image evaluated once, and one run directory."""

import json
import multiprocessing
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from PIL import Image
from torch import Tensor, nn
from torch.testing import assert_close

from lightning_cifar.distributed import Shard
from lightning_cifar.errors import InputError
from lightning_cifar.model.parallel import BatchNorm, Dropout
from lightning_cifar.train.checkpoint import load_checkpoint

SMALL = ["--data.dataset", "digits", "--data.batch_size", "120", "--trainer.precision", "32-true"]
SMALL += ["--trainer.accelerator", "cpu", "--trainer.log_every_n_steps", "5", "--data.drop_last", "true"]
TWO = ["--trainer.devices", "2", "--trainer.strategy", "ddp"]
OFTEN = ["--trainer.callbacks", "lightning_cifar.LastCheckpoint", "--trainer.callbacks.minutes", "0"]


def run(*args: object, status: int = 0, launcher: tuple[str, ...] = ("-m",), **environment: str) -> str:
    """Run the command line as a process and return its standard output."""
    command = [sys.executable, *launcher, "lightning_cifar", *map(str, args)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout


def load_weights(run_dir: Path) -> dict[str, torch.Tensor]:
    return load_checkpoint(run_dir / "checkpoints/last.ckpt")["state_dict"]


def measure_difference(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> float:
    """Return the relative distance |a - b| / |a|, of the weights or of batch norm's statistics, whichever is larger."""
    distances = []
    for statistics in (False, True):
        names = [
            name for name, value in first.items() if value.is_floating_point() and ("running" in name) == statistics
        ]
        a, b = (torch.cat([state[name].double().flatten() for name in names]) for state in (first, second))
        distances.append(float((a - b).norm() / a.norm()))
    return max(distances)


# ------------------------------------------------------------------------------------------------------------- shards


def test_no_shard_of_a_set_is_empty():
    for size, words in ((1, "1 image"), (2, "2 images")):
        with pytest.raises(InputError, match=f"{words} to evaluate cannot be divided among 3 processes"):
            Shard(0, 3).of_set(size)


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_shards_of_a_set_cover_it(count):
    for size in (0, 4, 7, 100):
        shards = [list(range(size))[Shard(rank, count).of_set(size)] for rank in range(count)]
        assert [*chain(*shards)] == [*range(size)]
        assert max(map(len, shards)) - min(map(len, shards)) <= 1


@pytest.mark.parametrize(("size", "batch_size"), [(24, 6), (26, 6), (6, 12)])
def test_shards_of_batches_form_the_global_batches(size, batch_size):
    order = torch.randperm(size)
    shards = [Shard(rank, 2).of_batches(order, batch_size).split(batch_size // 2) for rank in range(2)]
    for batch, *halves in zip(order.split(batch_size), *shards, strict=True):
        assert torch.equal(torch.cat(halves), batch)


@pytest.mark.parametrize(
    ("batch_size", "size", "drop_last", "rest"),
    [
        (7, 70, False, ""),
        (7, 70, True, ""),
        (6, 69, False, ", and so must the last batch of 3, unless drop_last leaves it out"),
    ],
)
def test_indivisible_batch_size_is_refused(batch_size, size, drop_last, rest):
    with pytest.raises(InputError, match=f"^batch_size {batch_size} must divide evenly among 2 processes{rest}$"):
        Shard(0, 2).check(batch_size, size, drop_last)
    Shard(0, 2).check(6, 69, drop_last=True)


# ------------------------------------------------------------------------------------------------------------- layers

CONTEXT = multiprocessing.get_context("forkserver")


def compute_loss(layer: nn.Module, x: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Return a loss and its gradient with respect to ``x``."""
    x = x.clone().requires_grad_()
    loss = (layer(x) * weights).square().mean()
    loss.backward()
    return loss.detach(), x.grad


def make_batch() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(6, 5, 4, 4, generator=generator) + 3, torch.randn(6, 5, 4, 4, generator=generator)


def make_layers() -> list[nn.Module]:
    torch.manual_seed(0)
    norm = BatchNorm(5, momentum=0.3)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    return [norm, Dropout(0.4)]


def run_layers(rank: int, meeting: Path, result: Path) -> None:
    """In a child: apply each layer to half of the batch and save loss, gradients, buffers and a random number."""
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=2)
    found = []
    for layer in make_layers():
        torch.manual_seed(1)
        half = [tensor[3 * rank : 3 * rank + 3] for tensor in make_batch()]
        loss, gradient = compute_loss(layer, *half)
        gradients = [parameter.grad for parameter in layer.parameters()]
        found.append((loss, gradient, gradients, list(layer.buffers()), torch.rand(1)))
    torch.save(found, result)
    dist.destroy_process_group()


@pytest.mark.slow
def test_layers_in_two_processes_equal_one_process_on_the_whole_batch(tmp_path):
    results = [tmp_path / f"{rank}" for rank in range(2)]
    children = [CONTEXT.Process(target=run_layers, args=(rank, tmp_path / "meeting", results[rank])) for rank in (0, 1)]
    for child in children:
        child.start()
    for child in children:
        child.join(60)
    halves = [torch.load(result) for result in results]
    for layer, pair in zip(make_layers(), zip(*halves, strict=True), strict=True):
        torch.manual_seed(1)
        loss, gradient = compute_loss(layer, *make_batch())
        assert_close(sum(result[0] for result in pair) / 2, loss)
        assert_close(torch.cat([result[1] for result in pair]) / 2, gradient)  # gradients of the sum of both losses
        for parameter, *gradients in zip(layer.parameters(), *(result[2] for result in pair), strict=True):
            assert_close(sum(gradients) / 2, parameter.grad)  # DDP averages gradients
        for buffer, *buffers in zip(layer.buffers(), *(result[3] for result in pair), strict=True):
            for other in buffers:
                assert_close(other, buffer)
        assert {float(result[4]) for result in pair} == {float(torch.rand(1))}  # equal random states


# -------------------------------------------------------------------------------------------------- two processes


@pytest.fixture(scope="module")
def noise(tmp_path_factory) -> Path:
    """Return an image folder of noise; in the constant borders of digits, rounding would choose among equal maxima."""
    root, rng = tmp_path_factory.mktemp("noise"), np.random.default_rng(0)
    for split, size in (("train", 240), ("test", 180)):
        for name in ("a", "b"):
            (root / split / name).mkdir(parents=True)
            for index, pixels in enumerate(rng.integers(256, size=(size, 32, 32, 3), dtype=np.uint8)):
                Image.fromarray(pixels).save(root / split / name / f"{index:03}.bmp")
    return root


@pytest.fixture(scope="module")
def runs(tmp_path_factory, noise) -> dict[str, Path]:
    """Train the same 20 steps in one process and in two, with batch norm, dropout and augmentation."""
    folder = tmp_path_factory.mktemp("distributed")
    args = ["fit", "--recipe", "fast", *SMALL, "--data.dataset", "folder", "--data.root", noise]
    args += ["--model.hidden", "32", "--model.optimizer", "sgd", "--trainer.max_epochs", "9"]
    args += ["--model.learning_rate", "1e-3", "--model.norm_rate", "1e-3", "--model.gate_rate", "1e-3"]
    args += ["--data.cutout", "4", "--trainer.max_steps"]
    args += ["20", "--model.widths", "[8,8,16,16,16]", "--run_dir"]
    run(*args, folder / "one")
    out = run(*args, folder / "two", *TWO)
    assert out.count("run directory:") == 1
    return {name: folder / name for name in ("one", "two")}


@pytest.mark.long
def test_two_processes_train_the_weights_of_one(runs):
    assert measure_difference(load_weights(runs["one"]), load_weights(runs["two"])) < 1e-5
    losses = {}
    for name, run_dir in runs.items():
        rows = [line.split(",") for line in (run_dir / "metrics.csv").read_text().splitlines()]
        column = rows[0].index("train/loss_step")
        losses[name] = [float(row[column]) for row in rows[1:] if row[column]]
    assert len(losses["one"]) == 4
    assert losses["one"] == pytest.approx(losses["two"], rel=1e-5)


@pytest.mark.long
def test_two_processes_write_the_files_of_one(runs):
    files = {name: sorted(file.name for file in run_dir.iterdir()) for name, run_dir in runs.items()}
    assert files["one"] == files["two"]


@pytest.mark.long
@pytest.mark.parametrize("other", ["fewer", "pixels", "files"])
def test_processes_with_other_data_end_before_training(image_folder, tmp_path, start_python, other):
    """As two machines whose folders differ; each process is started as ``torchrun`` starts it."""
    theirs = Path(shutil.copytree(image_folder, tmp_path / "theirs"))
    if other in ("fewer", "files"):
        (theirs / "train/cat/image-00.bmp").unlink()
    else:
        (theirs / "train/cat/image-00.bmp").write_bytes((theirs / "train/cat/image-01.bmp").read_bytes())
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        common = {"WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 1, "LOCAL_RANK": 0, "MASTER_ADDR": "127.0.0.1"}
        common |= {"MASTER_PORT": free.getsockname()[1], "TORCHELASTIC_RUN_ID": "run", "OMP_NUM_THREADS": "1"}
    args = ["fit", *SMALL, "--data.dataset", "folder", "--data.batch_size", 2, "--run_dir", tmp_path / "run"]
    args += ["--trainer.num_nodes", 2, "--trainer.strategy", "ddp", "--data.in_memory", str(other != "files").lower()]
    jobs = []
    for rank, root in enumerate((image_folder, theirs)):
        environment = {**os.environ, **{name: str(value) for name, value in (common | {"RANK": rank}).items()}}
        environment |= {"GROUP_RANK": str(rank), "NODE_RANK": str(rank)}
        options = {"env": environment, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        jobs.append(start_python("-m", "lightning_cifar", *args, "--data.root", root, **options))
    for job in jobs:
        _, err = job.communicate(timeout=600)
        lines = [line for line in err.splitlines() if line.startswith("error: rank 1 holds other data than rank 0 (")]
        assert (job.returncode, len(lines)) == (2, 1), err
    assert not (tmp_path / "run").exists()


@pytest.mark.long
@pytest.mark.parametrize("count", [2, 3])
def test_every_image_is_tested_once(runs, noise, tmp_path, count):
    checkpoint = runs["one"] / "checkpoints/last.ckpt"
    common = ["test", "--ckpt_path", checkpoint, "--data.root", noise, "--trainer.accelerator", "cpu", "--run_dir"]
    run(*common, tmp_path / "one")
    run(*common, tmp_path / "many", "--trainer.devices", count, "--trainer.strategy", "ddp")
    one, many = (json.loads((tmp_path / name / "test.json").read_text()) for name in ("one", "many"))
    assert one["images"] == many["images"] == 360
    assert (one["accuracy"], one["confusion"]) == (many["accuracy"], many["confusion"])


@pytest.mark.long
def test_every_image_is_validated_once(runs, noise, tmp_path):
    losses = []
    for count in (1, 2):
        args = ["validate", "--ckpt_path", runs["one"] / "checkpoints/last.ckpt", "--trainer.accelerator", "cpu"]
        args += ["--data.root", noise, "--data.held_out", "val", "--data.val_size", 7, "--trainer.devices", count]
        run(*args, *(["--trainer.strategy", "ddp"] if count > 1 else []), "--run_dir", tmp_path / f"{count}")
        losses.append(json.loads((tmp_path / f"{count}/run.json").read_text())["metrics"]["val/loss"])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


@pytest.mark.long
def test_limited_test_batches_need_one_process(runs, noise, tmp_path):
    args = ["test", "--ckpt_path", runs["one"] / "checkpoints/last.ckpt", "--trainer.accelerator", "cpu"]
    args += ["--data.root", noise, "--data.batch_size", 60, "--trainer.limit_test_batches", 1, "--run_dir"]
    run(*args, tmp_path / "one")
    run(*args, tmp_path / "two", *TWO, status=2)


@pytest.mark.long
@pytest.mark.fault
def test_killed_process_ends_the_job_which_resumes(tmp_path, start_python, eventually):
    run_dir = tmp_path / "run"
    args = ["fit", "--recipe", "fast", *SMALL, *TWO, "--trainer.max_epochs", "200", "--trainer.max_steps", "-1"]
    args += ["--model.widths", "[8,8,16,16,16]", *OFTEN, "--run_dir", str(run_dir)]
    job = start_python("-m", "lightning_cifar", *args, stderr=subprocess.DEVNULL)
    eventually((run_dir / "checkpoints/last.ckpt").exists, job)
    (child,) = Path(f"/proc/{job.pid}/task/{job.pid}/children").read_text().split()[:1]
    os.kill(int(child), signal.SIGKILL)
    killed = time.monotonic()
    assert job.wait(30) != 0
    assert time.monotonic() - killed < 120
    out = run("fit", "--resume", run_dir, "--trainer.max_epochs", "3")
    assert "resuming from" in out or "nothing left to train" in out


@pytest.mark.long
@pytest.mark.fault
@pytest.mark.parametrize("target", ["rank 0", "all, as a terminal does"])
def test_stopped_job_resumes_exactly(tmp_path, target, start_python, eventually):
    args = ["fit", "--recipe", "report", *SMALL, *TWO, "--trainer.max_epochs", "6"]
    args += ["--model.widths", "[8,8,16,16,16]", *OFTEN, "--run_dir"]
    run(*args, tmp_path / "whole")
    job = start_python("-m", "lightning_cifar", *args, tmp_path / "run")
    eventually((tmp_path / "run/checkpoints/last.ckpt").exists, job)
    if target == "rank 0":
        job.send_signal(signal.SIGTERM)
    else:
        os.killpg(job.pid, signal.SIGINT)
    assert job.wait(30) == (143 if target == "rank 0" else 130)
    assert "resuming from" in run("fit", "--resume", tmp_path / "run")
    whole, stopped = load_weights(tmp_path / "whole"), load_weights(tmp_path / "run")
    assert all(torch.equal(value, stopped[name]) for name, value in whole.items())


@pytest.mark.long
@pytest.mark.fault
@pytest.mark.parametrize("machines", [1, 2])
def test_torchrun_restarts_a_killed_process(tmp_path, machines, start_python, eventually, monkeypatch):
    """Two processes, started by one ``torchrun`` or by one each, as on two machines."""
    run_dir, output = tmp_path / "run", tmp_path / "output"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        endpoint = f"127.0.0.1:{free.getsockname()[1]}"
    launcher = ["--nnodes", machines, "--nproc-per-node", 2 // machines, "--rdzv-backend", "c10d", "--rdzv-endpoint"]
    launcher += [endpoint, "--max-restarts", 1, "--monitor-interval", 1, "-m", "lightning_cifar"]
    args = ["fit", "--recipe", "fast", *SMALL, *TWO, "--trainer.max_epochs", 30, "--trainer.max_steps", -1]
    args += ["--trainer.devices", 2 // machines, "--trainer.num_nodes", machines]
    args += ["--model.widths", "[8,8,16,16,16]", *OFTEN, "--run_dir", run_dir]
    command = ["-m", "torch.distributed.run", *launcher, *args]
    monkeypatch.setenv("TORCH_DISABLE_SHARE_RDZV_TCP_STORE", "1")
    with output.open("w") as opened:
        jobs = [start_python(*command, stdout=opened, stderr=subprocess.STDOUT) for _ in range(machines)]
    eventually((run_dir / "checkpoints/last.ckpt").exists, *jobs)
    last = jobs[-1].pid
    children = Path(f"/proc/{last}/task/{last}/children").read_text().split()
    os.kill(int(children[-1]), signal.SIGKILL)
    assert [job.wait(150) for job in jobs] == [0] * machines, output.read_text()
    assert "resuming from" in output.read_text()
    assert int(load_checkpoint(run_dir / "checkpoints/last.ckpt")["epoch"]) >= 29
