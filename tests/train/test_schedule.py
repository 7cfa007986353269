"""Schedules: torch's curves, over a training's steps."""

import math

import pytest
import torch
from lightning import Callback, Trainer

from lightning_cifar import CIFAR10DataModule, ImageClassifier, InputError
from lightning_cifar.train.schedule import build_schedule

STEPS = 20
QUIET = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
QUIET["accelerator"] = "cpu"
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
    assert rates[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1])
    assert rates[4:] == sorted(rates[4:], reverse=True)
    assert rates[-1] < 0.02


@pytest.mark.parametrize(("warmup", "highest"), [(None, 5), (0.5, 9), (0.0, 0)])
def test_one_cycle_is_torchs(warmup, highest):
    rates = [first for first, _ in list_rates(schedule="one_cycle", warmup=warmup)]
    assert rates.index(max(rates)) == highest
    assert max(rates) == pytest.approx(1, abs=0.01)
    assert rates[-1] == pytest.approx(1 / 25 / 1e4, rel=1e-3)


class Rates(Callback):
    """Record the rate of every step."""

    def __init__(self):
        self.seen = []

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        self.seen.append(optimizer.param_groups[0]["lr"])


@pytest.mark.parametrize(("name", "last"), [("cosine", 1 / 4), ("one_cycle", 1 / 25 / 1e4)])
def test_training_ends_near_the_lowest_rate(name, last):
    data, rates = CIFAR10DataModule(dataset="digits", batch_size=500), Rates()
    model = ImageClassifier(optimizer="adamw", learning_rate=1e-3, schedule=name, warmup=0.5, **TINY)
    Trainer(max_epochs=2, limit_val_batches=0, callbacks=[rates], **QUIET).fit(model, data)
    assert len(rates.seen) == 6
    assert max(rates.seen) == pytest.approx(1e-3)
    assert rates.seen[-1] == pytest.approx(1e-3 * last)


def test_without_a_length_there_is_no_schedule():
    data = CIFAR10DataModule(dataset="digits", batch_size=500)
    with pytest.raises(InputError, match="set the Trainer's max_epochs or max_steps"):
        Trainer(max_epochs=-1, **QUIET).fit(ImageClassifier(schedule="cosine", **TINY), data)
