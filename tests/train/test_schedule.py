"""Schedules: torch's curves, over a training's steps."""

import math

import pytest
import torch
from lightning import Callback

from lightning_cifar import CIFAR10DataModule, ImageClassifier, InputError
from lightning_cifar.train.schedule import build_schedule
from tests.trainer import make_quiet_trainer

STEPS = 20
TINY = {"widths": (4, 4, 4, 4, 4)}


def list_rates(**options):
    """Return the rates of two groups, highest 1 and 0.1, at each step."""
    optimizer = torch.optim.SGD([{"params": [torch.zeros(1, requires_grad=True)], "lr": rate} for rate in (1.0, 0.1)])
    schedule = build_schedule(optimizer, {"warmup": None, **options}, STEPS)
    rates = []
    for _ in range(STEPS):
        rates.append([group["lr"] for group in optimizer.param_groups])
        optimizer.step()
        schedule.step()
    return rates


def test_every_group_follows_the_schedule():
    for name in ("triangular", "cosine", "one_cycle"):
        for first, second in list_rates(schedule=name, warmup=0.25):
            assert second == pytest.approx(0.1 * first, abs=1e-3)


def test_cosine_falls_in_half_a_wave():
    expected = [(1 + math.cos(math.pi * step / STEPS)) / 2 for step in range(STEPS)]
    assert [first for first, _ in list_rates(schedule="cosine")] == pytest.approx(expected)


def test_cosine_rises_first():
    rates = [first for first, _ in list_rates(schedule="cosine", warmup=0.2)]
    assert rates[:5] == pytest.approx([0.25, 0.5, 0.75, 1, 1])
    assert rates[4:] == sorted(rates[4:], reverse=True)
    assert rates[-1] < 0.02


@pytest.mark.parametrize("warmup", [None, 0.5, 0.0, 0.9])
def test_one_cycle_is_torchs(warmup):
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    share = 0.3 if warmup is None else warmup
    twin = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1.0, STEPS, pct_start=share, cycle_momentum=False)
    expected = []
    for _ in range(STEPS):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        twin.step()
    assert [first for first, _ in list_rates(schedule="one_cycle", warmup=warmup)] == pytest.approx(expected)


@pytest.mark.parametrize("name", ["triangular", "cosine", "one_cycle"])
def test_a_resumed_run_follows_its_new_length(name):
    """As if it had this length from the start."""
    parameter = torch.zeros(1, requires_grad=True)
    rates = []
    for lengths in ((4, 8), (8, 8)):
        optimizer = torch.optim.SGD([parameter], lr=1.0)
        options = {"warmup": None, "schedule": name}
        schedule = build_schedule(optimizer, options, lengths[0])
        for _ in range(3):
            optimizer.step()
            schedule.step()
        resumed = build_schedule(optimizer, options, lengths[1])
        resumed.load_state_dict(schedule.state_dict())
        optimizer.step()
        resumed.step()
        rates.append(optimizer.param_groups[0]["lr"])
    assert rates[0] == pytest.approx(rates[1])


class Rates(Callback):
    """Record the rate of every step."""

    def __init__(self):
        self.seen = []

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        self.seen.append(optimizer.param_groups[0]["lr"])


@pytest.mark.slow
@pytest.mark.parametrize(("name", "last"), [("cosine", 1 / 4), ("one_cycle", 1 / 25 / 1e4)])
def test_training_ends_near_the_lowest_rate(name, last):
    data, rates = CIFAR10DataModule(dataset="digits", batch_size=50, val_size=1300), Rates()  # three batches
    model = ImageClassifier(optimizer="adamw", learning_rate=1e-3, schedule=name, warmup=0.5, **TINY)
    make_quiet_trainer(max_epochs=2, limit_val_batches=0, callbacks=[rates]).fit(model, data)
    assert len(rates.seen) == 6
    assert max(rates.seen) == pytest.approx(1e-3)
    assert rates.seen[-1] == pytest.approx(1e-3 * last)


@pytest.mark.filterwarnings("ignore:.*data module", "ignore:.*num_workers", "ignore:.*val_dataloader")
@pytest.mark.parametrize("name", ["triangular", "cosine"])
def test_without_a_length_there_is_no_schedule(name):
    data = CIFAR10DataModule(dataset="digits", batch_size=500)
    loader = torch.utils.data.DataLoader([(torch.zeros(3, 32, 32, dtype=torch.uint8), 0)])
    words = "this schedule needs the training's length: set the Trainer's max_epochs or max_steps"
    for source in (data, loader):
        with pytest.raises(InputError, match=words):
            make_quiet_trainer(max_epochs=-1).fit(ImageClassifier(schedule=name, **TINY), source)
