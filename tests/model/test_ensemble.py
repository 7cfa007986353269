"""Ensemble: each member trains like a single model, and the outputs are means over members."""

import pytest
import torch
from torch.nn import functional as F

from lightning_cifar import CIFAR10DataModule, ImageClassifier, main
from lightning_cifar.evaluate.explain import grad_cam, measure_gates, weigh_maps
from lightning_cifar.model.ensemble import Ensemble
from lightning_cifar.run.guards import GateStatistics
from lightning_cifar.run.weights import load_pretrained, save_weights
from lightning_cifar.train.optim import group_parameters
from tests.trainer import make_quiet_trainer

SMALL = {"widths": (4, 8, 8, 8, 8), "hidden": 0, "stem_kernel": 2, "gate_rate": 0.01}
RATES = {"filters": 0.2, "gate": 0.01, "norm": 0.1, "head": 0.05}


@pytest.fixture(scope="module")
def images():
    data = CIFAR10DataModule("digits")
    data.setup()
    return data.test.sample(6).images


def train(model):
    """Train for three steps and return the logged metrics."""
    trainer = make_quiet_trainer(max_steps=3, limit_val_batches=0, log_every_n_steps=1, callbacks=GateStatistics())
    torch.manual_seed(0)  # for order and augmentation
    trainer.fit(model, CIFAR10DataModule("digits", batch_size=50))
    return trainer.callback_metrics


@pytest.fixture(scope="module")
def ensemble_and_members():
    """Trained ensemble, single models trained from the initial weights of its members, and the metrics of all."""
    torch.manual_seed(0)
    ensemble = ImageClassifier(members=2, **SMALL)
    singles = [ImageClassifier(**SMALL) for _ in range(2)]
    for model, member in zip(singles, ensemble.networks, strict=True):
        model.network.load_state_dict(member.state_dict())
    logged = [train(model) for model in (ensemble, *singles)]
    return ensemble.eval(), [model.eval() for model in singles], logged


def test_members_start_from_different_weights():
    one, other = ImageClassifier(members=2, **SMALL).networks
    assert not torch.equal(one.blocks[0].branches[0].weight, other.blocks[0].branches[0].weight)


@pytest.mark.slow
def test_each_member_is_trained_like_a_single_model(ensemble_and_members):
    ensemble, singles, (together, *apart) = ensemble_and_members
    for member, model in zip(ensemble.networks, singles, strict=True):
        expected = model.network.state_dict()
        for name, weight in member.state_dict().items():
            assert torch.equal(weight, expected[name]), name
    for name in ("train/loss_epoch", "gates/block2_branch1", "gates/block5_dead"):
        torch.testing.assert_close(together[name], sum(logged[name] for logged in apart) / 2)


def test_logits_are_the_mean_over_members(ensemble_and_members, images):
    ensemble, singles, _ = ensemble_and_members
    expected = sum(model(images) for model in singles) / 2
    assert isinstance(ensemble.network, Ensemble)
    torch.testing.assert_close(ensemble(images), expected)
    labels = expected.argmax(1)
    output = ensemble.training_step((images, labels), 0)
    torch.testing.assert_close(output["loss"], sum(F.cross_entropy(model(images), labels) for model in singles))
    assert output["correct"] == len(labels)  # the labels are the classes of the mean logits


def test_every_parameter_keeps_its_role(ensemble_and_members):
    ensemble, (single, _), _ = ensemble_and_members
    ours, one = (
        {group["role"]: len(group["params"]) for group in group_parameters(model.network, RATES)}
        for model in (ensemble, single)
    )
    assert ours == {role: 2 * count for role, count in one.items()}


def test_heat_and_gates_are_means_over_members(ensemble_and_members, images):
    ensemble, singles, _ = ensemble_and_members
    classes = torch.arange(6)
    heat = grad_cam(ensemble, images, classes)
    maps = [weigh_maps(one.network, one.normalise(images), classes) for one in singles]
    expected = (sum(maps) / 2).relu()
    torch.testing.assert_close(heat * expected.amax((1, 2), keepdim=True), expected)
    torch.testing.assert_close(measure_gates(ensemble, images), sum(measure_gates(one, images) for one in singles) / 2)


def test_weights_files_contain_all_members(ensemble_and_members, images, tmp_path):
    ensemble, *_ = ensemble_and_members
    save_weights(ensemble, tmp_path / "two.safetensors", held_out="val")
    assert torch.equal(load_pretrained(tmp_path / "two.safetensors")(images), ensemble(images))


@pytest.mark.slow
def test_command_line_trains_and_tests_an_ensemble(tmp_path, capsys):
    typed = "--data.dataset digits --model.widths [4,4,4,4,4] --trainer.max_steps 3 --trainer.log_every_n_steps 1"
    run_dir = tmp_path / "run"
    assert main(["fit", *typed.split(), "--model.members", "2", "--run_dir", str(run_dir)]) == 0
    test = ["test", "--ckpt_path", str(run_dir / "checkpoints/last.ckpt"), "--run_dir"]
    assert main([*test, str(tmp_path / "test")]) == 0
    capsys.readouterr()
    assert main([*test, str(tmp_path / "other"), "--model.members", "3"]) == 2
    assert capsys.readouterr().err == "error: --model.members 3: the checkpoint was trained with 2\n"
