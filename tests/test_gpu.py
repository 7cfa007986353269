"""Training, testing and the packaged model on a CUDA device (`make test-gpu`).

Other GPU tests are next to their CPU counterparts: augmentation, loaders, resume.
"""

import csv
import json

import pytest
import torch
from torch.nn import functional as F

from lightning_cifar import CIFAR10DataModule, FiveBlockNet, ImageClassifier, load_pretrained, main
from lightning_cifar.sources.digits import load_digits

pytestmark = pytest.mark.gpu
SMALL = ["--data.dataset", "digits", "--data.batch_size", "100", "--model.widths", "[8,8,16,16,16]"]
SMALL += ["--trainer.max_epochs", "2", "--trainer.log_every_n_steps", "5", "--trainer.accelerator", "gpu"]
FAST = {"order": ["pool", "norm", "activation", "sum"], "activation": "gelu", "hidden": 0, "global_pool": "max"}
VARIANTS = {
    "report": {},
    "fast": FAST | {"kernel_sizes": [3, 3, 1], "stem_kernel": 2, "depths": [0, 1, 1, 1, 1]},
    "mirrored pairs": FAST | {"stem_kernel": 2, "stem_bias": False, "flip_equivariant": True},
    "channel gate": {"gate": "channel"},
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_loss_and_gradients_equal_those_of_the_cpu(variant):
    network = FiveBlockNet(widths=[8, 8, 16, 16, 16], dropout=0, **VARIANTS[variant]).double()
    images, labels = torch.rand(6, 3, 32, 32, dtype=torch.float64), torch.arange(6)
    found = []
    for device in ("cpu", "cuda"):
        network.zero_grad()
        network.to(device)
        loss = F.cross_entropy(network(images.to(device)), labels.to(device))
        loss.backward()
        gradients = [parameter.grad.cpu() for parameter in network.parameters() if parameter.grad is not None]
        found.append([loss.detach().cpu(), *gradients])
    torch.testing.assert_close(found[1], found[0])


@pytest.mark.parametrize("recipe", ["report", "fast", "fast94", "accurate"])
def test_recipe_trains_and_its_logits_equal_those_of_the_cpu(recipe, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)  # with TF32, convolutions keep three digits
    run_dir, tested = tmp_path / "run", tmp_path / "tested"
    assert main(["fit", "--recipe", recipe, *SMALL, "--run_dir", str(run_dir)]) == 0
    record = json.loads((run_dir / "run.json").read_text())
    assert record["device"]["type"] == "cuda"
    if recipe != "report":
        assert record["precision"] == "bf16-mixed"
    checkpoint = run_dir / "checkpoints/last.ckpt"
    assert main(["test", "--ckpt_path", str(checkpoint), "--run_dir", str(tested)]) == 0
    assert json.loads((tested / "test.json").read_text())["accuracy"] > 0.1
    model = ImageClassifier.load_from_checkpoint(checkpoint, map_location="cpu").eval()
    images = load_digits().test.images[:20]
    with torch.no_grad():
        expected = model(images)
        torch.testing.assert_close(model.cuda()(images.cuda()).cpu(), expected, rtol=1e-3, atol=1e-3)


def test_dataset_is_kept_on_the_device(tmp_path, monkeypatch):
    devices = []
    augment = CIFAR10DataModule.augment_batch

    def augment_and_record(data, images, *rest):
        devices.append(images.device.type)
        return augment(data, images, *rest)

    monkeypatch.setattr(CIFAR10DataModule, "augment_batch", augment_and_record)
    transfer = CIFAR10DataModule.transfer_batch_to_device
    monkeypatch.setattr(
        CIFAR10DataModule,
        "transfer_batch_to_device",
        lambda data, batch, *rest: devices.append(batch[0].device.type) or transfer(data, batch, *rest),
    )
    assert main(["fit", "--recipe", "fast", *SMALL, "--run_dir", str(tmp_path / "run")]) == 0
    assert set(devices) == {"cuda"}


@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated")  # raised within torch 2.11
def test_compiled_model_has_the_same_losses(tmp_path):
    losses = []
    for compiled in ("false", "true"):
        run_dir = tmp_path / compiled
        options = ["--model.compile", compiled, "--trainer.precision", "32-true", "--trainer.log_every_n_steps", "1"]
        assert main(["fit", "--recipe", "fast94", *SMALL, *options, "--run_dir", str(run_dir)]) == 0
        losses.append(read_losses(run_dir))
    assert losses[1][:5] == pytest.approx(losses[0][:5], rel=1e-2)


@pytest.mark.filterwarnings("default:the training step cannot be recorded")
def test_a_step_that_cannot_be_recorded_runs_eagerly(tmp_path, monkeypatch, capsys):
    """With dropout, whose random numbers the recording had begun to count."""
    step = ImageClassifier.training_step
    monkeypatch.setattr(ImageClassifier, "training_step", lambda *a: {**(out := step(*a)), "x": out["loss"].item()})
    assert main(["fit", "--recipe", "report", *SMALL, "--run_dir", str(tmp_path / "run")]) == 0
    assert "the training step cannot be recorded, it runs eagerly: " in capsys.readouterr().err
    assert len(read_losses(tmp_path / "run")) > 4


def read_losses(run_dir):
    with (run_dir / "metrics.csv").open(newline="") as opened:
        return [float(row["train/loss_step"]) for row in csv.DictReader(opened) if row["train/loss_step"]]


def test_repeat_trains_two_seeds(tmp_path):
    run_dir = tmp_path / "seeds"
    assert main(["repeat", "--recipe", "fast", "--n", "2", *SMALL, "--run_dir", str(run_dir)]) == 0
    assert json.loads((run_dir / "repeat.json").read_text())["n"] == 2


def test_packaged_model_has_the_logits_of_the_cpu(monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    images = torch.randint(256, (20, 3, 32, 32), dtype=torch.uint8)
    with torch.no_grad():
        found = [load_pretrained().to(device)(images.to(device)).cpu() for device in ("cpu", "cuda")]
    torch.testing.assert_close(found[1], found[0], rtol=1e-3, atol=1e-3)


def test_doctor_names_the_gpu(capsys):
    main(["doctor"])
    assert torch.cuda.get_device_name(0) in capsys.readouterr().out
