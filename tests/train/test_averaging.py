"""EMA and Lookahead under the Trainer, each against its plain form."""

import copy

import pytest
import torch
from lightning import Trainer

from lightning_cifar import EMA, CIFAR10DataModule, ImageClassifier, InputError, Lookahead

FAST = {"widths": (4, 8, 8, 8, 8), "order": ("pool", "norm", "activation", "sum"), "hidden": 0}


class Recorder(ImageClassifier):
    """Notes the weights before the callbacks see them."""

    def optimizer_step(self, *args, **kwargs):
        super().optimizer_step(*args, **kwargs)
        self.seen = [*getattr(self, "seen", []), copy.deepcopy(self.network.state_dict())]


def fitted(tmp_path, callback, ckpt_path=None, **length):
    torch.manual_seed(0)
    model = Recorder(optimizer="sgd", learning_rate=0.05, **FAST)
    data = CIFAR10DataModule("digits", batch_size=100, flip=False, crop_padding=0)  # nothing is drawn
    quiet = dict.fromkeys(("logger", "enable_progress_bar", "enable_model_summary"), False)
    trainer = Trainer(
        accelerator="cpu",
        **length,
        limit_train_batches=4,
        limit_val_batches=0,
        callbacks=[callback],
        enable_checkpointing=False,
        default_root_dir=tmp_path,
        **quiet,
    )
    start = copy.deepcopy(model.network.state_dict())
    trainer.fit(model, data, ckpt_path=ckpt_path, weights_only=True)
    return start, model, trainer


def test_ema_ends_with_the_average_of_weights_and_statistics(tmp_path):
    _, model, _ = fitted(tmp_path, EMA(decay=0.6), max_steps=7)
    first, *others = model.seen
    for name, value in model.network.state_dict().items():
        if not value.is_floating_point():
            continue
        average = first[name]
        for later in others:
            average = 0.6 * average + 0.4 * later[name]
        torch.testing.assert_close(value, average)


def slow_by_hand(start, model, every, rate):
    """What Lookahead leaves of each parameter, from what the optimiser made of it before."""
    steps = model.seen
    for name, _ in model.network.named_parameters():
        slow, before = start[name], start[name]
        for number, after in enumerate(steps, 1):
            if number % every == 0:
                slow = slow + rate * (after[name] - slow)
                yield name, number, slow
            before = after[name]
        yield name, len(steps), slow if len(steps) % every == 0 else before


def test_lookahead_moves_slow_weights_every_few_steps(tmp_path):
    start, model, _ = fitted(tmp_path, Lookahead(every=3, rate=0.4), max_steps=7)
    final = dict(model.network.named_parameters())
    for name, number, expected in slow_by_hand(start, model, 3, 0.4):
        if number == 7:
            torch.testing.assert_close(final[name].data, expected)
    # The optimiser goes on from the slow weights: a step further is near to them, and not to where it had been.
    slow = {(name, number): value for name, number, value in slow_by_hand(start, model, 3, 0.4)}
    name = "classifier.2.weight"
    jump = (model.seen[2][name] - slow[name, 3]).norm()
    assert (model.seen[3][name] - slow[name, 3]).norm() < jump


def test_lookahead_waits_for_accumulated_gradients(tmp_path):
    callback = Lookahead(every=1, rate=0.5)
    torch.manual_seed(0)
    model, data = ImageClassifier(**FAST), CIFAR10DataModule("digits", batch_size=200)
    Trainer(
        accelerator="cpu",
        max_steps=2,
        accumulate_grad_batches=3,
        limit_val_batches=0,
        callbacks=[callback],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    ).fit(model, data)
    assert callback.moved_at == 2
    for slow, weight in zip(callback.slow, model.parameters(), strict=True):
        assert torch.equal(slow, weight)


def test_lookahead_is_resumed_with_its_slow_weights(tmp_path):
    _, whole, _ = fitted(tmp_path, Lookahead(every=3), max_epochs=2)
    _, _, trainer = fitted(tmp_path, Lookahead(every=3), max_epochs=1)
    trainer.save_checkpoint(tmp_path / "part.ckpt")
    _, model, _ = fitted(tmp_path, Lookahead(every=3), tmp_path / "part.ckpt", max_epochs=2)
    assert len(model.seen) == 4
    for weight, expected in zip(model.parameters(), whole.parameters(), strict=True):
        torch.testing.assert_close(weight, expected)


def test_lookahead_begins_anew_with_every_fit(tmp_path):
    used = Lookahead(every=3)
    fitted(tmp_path, used, max_epochs=2)
    used.slow = [10 * slow for slow in used.slow]  # of another model
    models = [fitted(tmp_path, callback, max_epochs=2)[1] for callback in (used, Lookahead(every=3))]
    assert all(torch.equal(*pair) for pair in zip(*(model.parameters() for model in models), strict=True))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: EMA(decay=1), r"decay must be in \[0, 1\), got 1"),
        (lambda: Lookahead(every=0), "every must be at least 1, got 0"),
        (lambda: Lookahead(rate=0), r"rate must be in \(0, 1\], got 0"),
    ],
)
def test_refuses(make, message):
    with pytest.raises(InputError, match=message):
        make()
