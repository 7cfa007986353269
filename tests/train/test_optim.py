"""Parameter groups, torch's optimisers and the triangular schedule, compared with plain implementations."""

import copy

import pytest
import torch
from lightning.pytorch.callbacks import GradientAccumulationScheduler
from torch import nn

from lightning_cifar import CIFAR10DataModule, FiveBlockNet, GatedBlock, ImageClassifier, InputError
from lightning_cifar.train.muon import Muon
from lightning_cifar.train.optim import build_optimizer, fuse, group_parameters
from lightning_cifar.train.schedule import build_triangle
from tests.spectral import Spectral
from tests.trainer import make_quiet_trainer

RATES = {"filters": 0.2, "gate": 0.01, "norm": 0.1, "head": 0.05}
FAST = {"widths": (4, 8, 8, 8, 8), "order": ("pool", "norm", "activation", "sum"), "stem_kernel": 2, "hidden": 0}


def test_every_trainable_parameter_has_one_role():
    network = FiveBlockNet(**FAST, norm_scale=False)
    groups = {group["role"]: group for group in group_parameters(network, RATES)}
    assert {role: group["lr"] for role, group in groups.items()} == RATES
    trainable = [parameter for parameter in network.parameters() if parameter.requires_grad]
    assert sorted(map(id, trainable)) == sorted(id(p) for group in groups.values() for p in group["params"])
    assert {tuple(p.shape[1:]) for p in groups["gate"]["params"]} == {(24,), (4,), (8,), ()}
    assert all(p.ndim == 4 for p in groups["filters"]["params"])
    assert all(p.ndim == 1 for p in groups["norm"]["params"])
    assert any(p is network.stem.conv.bias for p in groups["norm"]["params"])
    assert groups["head"]["params"] == [network.classifier[2].weight]


def test_only_gates_of_gated_blocks_have_the_role():
    """A module of the user may be called so."""
    network = nn.Sequential(GatedBlock(3, 8), nn.ModuleDict({"gate": nn.Linear(8, 8)}), nn.Linear(8, 10))
    groups = {group["role"]: group["params"] for group in group_parameters(network, RATES | {"matrix": 0.3})}
    assert [*map(id, groups["gate"])] == [*map(id, network[0].gate.parameters())] != []
    assert [*map(id, groups["matrix"])] == [id(network[1]["gate"].weight)]


def test_only_optimizers_with_fused_steps_are_switched():
    """A subclass may have an optimiser without them, or one that counts its steps by integers."""
    optimizer = torch.optim.Adagrad([nn.Parameter(torch.ones(2))])
    optimizer.state[optimizer.param_groups[0]["params"][0]]["step"] = 3
    fuse(optimizer)
    assert not optimizer.param_groups[0]["fused"]


class WithOptimizer(ImageClassifier):
    """With an optimiser of its own, whose first group has nothing to train."""

    def configure_optimizers(self):
        return torch.optim.Adam([{"params": []}, {"params": self.network.parameters()}], fused=False)


def test_an_optimizer_of_a_subclass_stays_as_it_is():
    model = WithOptimizer(widths=(4, 8, 8, 8, 8))
    trainer = make_quiet_trainer(limit_val_batches=0, max_steps=2)
    trainer.fit(model, CIFAR10DataModule("digits", batch_size=32))
    assert [group["fused"] for group in trainer.optimizers[0].param_groups] == [False, False]
    assert trainer.global_step == 2


@pytest.mark.parametrize("momentum", [0, 0.9])
def test_sgd_may_have_no_momentum(momentum):
    model = ImageClassifier(widths=(4, 4, 4, 4, 4), optimizer="sgd", momentum=momentum)
    group, *_ = build_optimizer(model.networks[0], model.hparams).param_groups
    assert (group["momentum"], group["nesterov"]) == (momentum, momentum > 0)


@pytest.mark.filterwarnings("ignore:You defined a `validation_step`")
@pytest.mark.filterwarnings("ignore:The 'train_dataloader' does not have many workers")
@pytest.mark.parametrize("name", ["adam", "adamw", "sgd"])
def test_complex_parameters_are_trained_as_in_torch(name):
    torch.manual_seed(0)
    model = ImageClassifier(network=Spectral, optimizer=name, momentum=0.9, weight_decay=0, learning_rate=0.01)
    plain = copy.deepcopy(model.network)
    kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW, "sgd": torch.optim.SGD}[name]
    options = {"momentum": 0.9, "nesterov": True} if name == "sgd" else {"weight_decay": 0}
    optimizer = kind(plain.parameters(), lr=0.01, **options)
    images, labels = torch.rand(12, 3, 32, 32), torch.arange(12) % 10
    loader = torch.utils.data.DataLoader([*zip(images, labels, strict=True)], batch_size=4)
    make_quiet_trainer(max_epochs=1, log_every_n_steps=1, limit_val_batches=0).fit(model, loader)
    for start in (0, 4, 8):
        optimizer.zero_grad()
        pixels = model.normalise(images[start : start + 4])
        nn.functional.cross_entropy(plain(pixels), labels[start : start + 4]).backward()
        optimizer.step()
    torch.testing.assert_close(model.network.filters, plain.filters)
    torch.testing.assert_close(model.network.head.weight, plain.head.weight)


def test_triangular_schedule_has_these_factors():
    factors = [build_triangle(10, 0.4)(step) for step in range(11)]
    assert factors == pytest.approx([0.25, 0.5, 0.75, 1, 1, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6, 0])
    assert [build_triangle(4, 0.0)(step) for step in range(5)] == [1, 0.75, 0.5, 0.25, 0]


class Rates(ImageClassifier):
    """Record the learning rates of every step."""

    def on_before_optimizer_step(self, optimizer):
        self.seen = [*getattr(self, "seen", []), [group["lr"] for group in optimizer.param_groups]]


@pytest.mark.parametrize(
    ("length", "total"),
    [
        ({"max_steps": 5}, 5),
        ({"max_epochs": 2, "max_steps": 9, "limit_train_batches": 0.5}, 4),
        ({"max_epochs": 2, "limit_train_batches": 3, "accumulate_grad_batches": 2}, 4),
        ({"max_epochs": 3, "callbacks": GradientAccumulationScheduler({1: 4})}, 6),
    ],
)
def test_rates_of_every_step_under_the_trainer(length, total):
    model = Rates(optimizer="muon", learning_rate=0.2, head_rate=0.05, schedule="triangular", warmup=0.5, **FAST)
    data = CIFAR10DataModule("digits", batch_size=8, val_size=1405)  # four batches
    make_quiet_trainer(limit_val_batches=0, num_sanity_val_steps=0, **length).fit(model, data)
    factor = build_triangle(total, 0.5)
    expected = [[rate * factor(step) for rate in (0.2, 0.2, 0.2, 0.05)] for step in range(total)]
    assert model.seen == [pytest.approx(rates) for rates in expected]


class WithSmallBatches(CIFAR10DataModule):
    def train_dataloader(self):
        pairs = [*zip(self.train.images[:24], self.train.labels[:24], strict=True)]
        return torch.utils.data.DataLoader(pairs, batch_size=4)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The 'train_dataloader' does not have many workers")
@pytest.mark.filterwarnings("ignore:training without augmentation")
def test_a_schedule_has_the_length_of_the_loader_of_a_subclass():
    model = Rates(optimizer="sgd", learning_rate=0.1, schedule="triangular", **FAST)
    data = WithSmallBatches("digits", batch_size=1000)
    make_quiet_trainer(limit_val_batches=0, max_epochs=2, log_every_n_steps=1).fit(model, data)
    assert [rates[0] for rates in model.seen] == pytest.approx([0.1 * (12 - step) / 12 for step in range(12)])


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["adam", "sgd", "muon"])
def test_every_optimizer_learns(optimizer):
    torch.manual_seed(0)
    rate = {"adam": 0.01, "sgd": 0.01, "muon": 0.1}[optimizer]
    model = ImageClassifier(optimizer=optimizer, learning_rate=rate, norm_rate=0.01, head_rate=0.01, **FAST)
    optimiser = model.configure_optimizers()
    assert type(optimiser) is {"adam": torch.optim.Adam, "sgd": torch.optim.SGD, "muon": Muon}[optimizer]
    images, labels = torch.rand(20, 3, 32, 32), torch.arange(20) % 10
    losses = []
    for _ in range(8):
        loss = nn.functional.cross_entropy(model(images), labels)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 0.05


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"gate_rate": 0.0}, "gate_rate must be above 0, got 0.0"),
        ({"momentum": 1.0}, r"momentum must be in \[0, 1\), got 1.0"),
        ({"label_smoothing": -0.1}, r"label_smoothing must be in \[0, 1\), got -0.1"),
        ({"warmup": 1.5}, r"warmup must be in \[0, 1\], got 1.5"),
    ],
)
def test_refuses_values_out_of_range(arguments, message):
    with pytest.raises(InputError, match=message):
        ImageClassifier(**arguments)


@pytest.mark.parametrize(
    ("optimizer", "argument"), [("adam", "differentiable"), ("sgd", "differentiable"), ("adamw", "lr")]
)
def test_arguments_that_the_model_sets_are_refused(optimizer, argument):
    model = ImageClassifier(optimizer=optimizer, optimizer_args={argument: True})
    with pytest.raises(InputError, match=f"optimizer_args must not have {argument}: the model sets"):
        model.configure_optimizers()


@pytest.mark.parametrize("args", [{"betas": [0.9]}, {"betas": 5}, {"beta": 1}])
def test_arguments_that_torch_refuses_are_named(args):
    with pytest.raises(InputError, match=r"optimizer adamw with .*bet"):
        ImageClassifier(optimizer="adamw", optimizer_args=args).configure_optimizers()
