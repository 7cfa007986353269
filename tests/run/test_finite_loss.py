"""FiniteLoss: a NaN or infinite loss ends training with status 3, and no checkpoint with such weights is saved."""

import sys

import pytest
import torch
from torch import nn

from lightning_cifar import ImageClassifier, main
from lightning_cifar.errors import DivergenceError
from lightning_cifar.run.checkpoints import last_checkpoint
from lightning_cifar.run.guards import FiniteLoss
from lightning_cifar.train.checkpoint import load_checkpoint
from tests.trainer import make_quiet_trainer

SMALL = ["fit", "--recipe", "report", "--data.dataset", "digits", "--data.batch_size", "20"]
SMALL += ["--model.widths", "[4,4,8,8,8]", "--trainer.max_epochs", "3", "--trainer.precision", "32-true"]
SMALL += ["--trainer.log_every_n_steps", "10", "--trainer.limit_train_batches", "15"]


def spoil(monkeypatch: pytest.MonkeyPatch, at: int, change) -> None:
    """Replace the loss of training step ``at``, counted from 0, with ``change(loss, model)``."""
    step, count = ImageClassifier.training_step, iter(range(1000))

    def spoiled(model, *args):
        output = step(model, *args)
        return {**output, "loss": change(output["loss"], model)} if next(count) == at else output

    monkeypatch.setattr(ImageClassifier, "training_step", spoiled)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("factor", "at", "lines"), [("nan", 7, 5), ("inf", 7, 15), pytest.param("nan", 20, 15, marks=pytest.mark.slow)]
)  # 15 steps: more than an epoch
def test_error_gives_step_and_learning_rate(tmp_path, capsys, monkeypatch, factor, at, lines):
    spoil(monkeypatch, at, lambda loss, _: loss * float(factor))
    monkeypatch.setattr(last_checkpoint, "EPOCH_SECONDS", 0)
    run_dir = tmp_path / "run"
    assert main([*SMALL, "--trainer.log_every_n_steps", str(lines), "--run_dir", str(run_dir)]) == 3
    error = capsys.readouterr().err.splitlines()[-1]
    assert error == (
        f"error: the loss is NaN or infinite since step {at}, at learning rate 0.001: try a lower --model.learning_rate"
    )
    last = run_dir / "checkpoints/last.ckpt"
    assert last.exists() == (at > 15)
    if last.exists():
        assert all(value.isfinite().all() for value in load_checkpoint(last)["state_dict"].values())


@pytest.mark.slow
@pytest.mark.parametrize("validation", ["0", "1.0"])
def test_infinite_weights_are_not_saved(tmp_path, capsys, monkeypatch, validation):
    def overflow(loss, model):
        model.network.classifier[2].weight.data[0, 0] = float("inf")
        return loss  # computed with the finite weights

    spoil(monkeypatch, 14, overflow)  # the last step of the epoch
    options = ["--data.held_out", "val", "--trainer.limit_val_batches", validation, "--run_dir", str(tmp_path / "run")]
    assert main([*SMALL, *options]) == 3
    assert "the weights are NaN or infinite since step" in capsys.readouterr().err
    assert not [*tmp_path.rglob("*.ckpt")]


@pytest.mark.slow
def test_too_high_learning_rate_stops_training(tmp_path, capsys):
    options = ["--model.learning_rate", "1e30", "--model.optimizer", "sgd", "--run_dir", str(tmp_path / "run")]
    assert main([*SMALL, *options]) == 3
    assert "at learning rate 1e+30: try a lower --model.learning_rate" in capsys.readouterr().err


MASKED = """\
import torch
from torch import nn


class Masked(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.register_buffer("mask", torch.full((32, 32), -torch.inf).triu(1))
        self.attention = nn.MultiheadAttention(96, 2, batch_first=True)
        self.head = nn.Linear(96, num_classes)

    def forward(self, pixels):
        rows = pixels.permute(0, 2, 3, 1).flatten(2)
        return self.head(self.attention(rows, rows, rows, attn_mask=self.mask)[0][:, -1])
"""


@pytest.mark.slow
def test_an_infinite_mask_is_no_divergence(tmp_path, capsys, monkeypatch):
    """Masks of attentions are buffers, infinite from the start; NaN in the weights beside them is found."""
    (tmp_path / "masked.py").write_text(MASKED)
    monkeypatch.delitem(sys.modules, "masked", raising=False)
    trust = ["--trust_config", "masked"]
    options = ["--model.network", "masked:Masked", *trust, "--trainer.max_epochs", "1"]
    options += ["--trainer.limit_train_batches", "5", "--trainer.log_every_n_steps", "5", "--run_dir", "run"]
    assert main([*SMALL, *options]) == 0, capsys.readouterr().err
    assert main(["test", "--ckpt_path", "run", *trust]) == 0, capsys.readouterr().err
    assert main(["export", "--ckpt_path", "run", "--output", "masked.safetensors", *trust]) == 0
    assert main(["test", "--ckpt_path", "masked.safetensors", *trust]) == 0, capsys.readouterr().err
    checkpoint = load_checkpoint(tmp_path / "run/checkpoints/last.ckpt")
    checkpoint["state_dict"]["network.head.bias"][0] = float("nan")
    torch.save(checkpoint, "nan.ckpt")
    assert main(["test", "--ckpt_path", "nan.ckpt", *trust]) == 2
    assert "NaN or infinite" in capsys.readouterr().err
    spoil(monkeypatch, 3, lambda loss, model: loss * float("nan"))
    assert main([*SMALL, *options[:-1], "other"]) == 3


@pytest.mark.slow
@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_every_floating_or_complex_tensor_is_checked(device):
    """Weights and buffers, at any position; large finite values, whose squares overflow, are accepted."""
    model = ImageClassifier(widths=(4,) * 5, stem_kernel=2).to(device)
    model.network.register_parameter("phases", nn.Parameter(torch.ones(2, 3, dtype=torch.complex64, device=device)))
    trainer = make_quiet_trainer(accelerator={"cuda": "gpu"}.get(device, device))
    callback = FiniteLoss()
    callback.on_train_start(trainer, model)
    callback.rates = {3: 0.5}
    tensors = {
        name: value for name, value in model.state_dict().items() if value.is_floating_point() or value.is_complex()
    }
    assert any("running_var" in name for name in tensors)
    assert any(value.is_complex() for value in tensors.values())
    for value in tensors.values():
        value.data.fill_(3e38)
    callback.check_weights(trainer, model)
    for value in tensors.values():
        for bad in (float("nan"), float("inf"), -float("inf"), *([1j * float("inf")] if value.is_complex() else [])):
            place = tuple(int(torch.randint(size, ())) for size in value.shape)
            value[place] = bad
            with pytest.raises(DivergenceError, match="weights are NaN or infinite since step 3"):
                callback.check_weights(trainer, model)
            value[place] = 1.0
    callback.check_weights(trainer, model)
