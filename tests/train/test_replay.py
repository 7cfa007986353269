"""Replayed training equals eager training bit by bit: on a CPU, by an emulator of a CUDA graph's rules."""

import contextlib

import pytest
import torch
import yaml
from lightning import Trainer
from lightning.pytorch.callbacks import Callback, StochasticWeightAveraging
from lightning.pytorch.loops.optimization.closure import AbstractClosure
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from lightning_cifar import CIFAR10DataModule, ImageClassifier, main
from lightning_cifar.run.settings.options import RECIPES
from lightning_cifar.train import replay
from lightning_cifar.train.checkpoint import load_checkpoint
from lightning_cifar.train.optim import build_optimizer
from tests.run.checkpoints.test_resume import ALIVE, EMA, OFTEN, assert_same, read_rows, resume, train_with_copies
from tests.trainer import make_quiet_trainer

SMALL = ["--data.dataset", "digits", "--data.batch_size", "40", "--model.widths", "[4,4,8,8,8]"]
SMALL += ["--trainer.limit_train_batches", "5", "--trainer.max_epochs", "2", "--trainer.log_every_n_steps", "1"]
SMALL += ["--trainer.precision", "32-true"]
ON = ["--model.replay", "true"]
# A GPU would have to finish its work first.
WAITS = {"_local_scalar_dense", "is_nonzero", "nonzero", "masked_select", "equal", "unique"}
VIEWS = ("aten::detach", "aten::alias", "aten::lift_fresh")


class EmulatedGraph(TorchDispatchMode):
    """Record calls of operations, and repeat them on the same memory without running Python in between.

    As in a CUDA graph, what Python decided while recording stays: a number, a branch, a shape. Inputs are whatever the
    recorded tensors hold at the replay, outputs come in the same tensors. Waiting for the device is an error.
    """

    def __init__(self):
        super().__init__()
        self.calls = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func._schema.name.removeprefix("aten::") in WAITS:
            raise RuntimeError(f"{func}: not permitted when stream is capturing")
        result = func(*args, **(kwargs or {}))
        self.calls.append((func, args, kwargs or {}, result))
        return result

    @torch.no_grad()
    def replay(self):
        for func, args, kwargs, result in self.calls:
            if func.is_view or func._schema.name in VIEWS:
                continue  # the memory is written anew
            returns = func._schema.returns
            several = len(returns) != 1 and isinstance(result, tuple | list)
            again = func(*args, **kwargs)
            pairs = zip(again, result, strict=True) if several else [(again, result)]
            for (new, old), returned in zip(pairs, returns, strict=False):
                if returned.alias_info is not None and returned.alias_info.is_write:
                    continue  # in place
                for source, target in zip(pytree.tree_leaves(new), pytree.tree_leaves(old), strict=True):
                    if isinstance(target, torch.Tensor) and source.data_ptr() != target.data_ptr():
                        target.copy_(source)


class Emulator:
    recordings = 0

    def run_apart(self):
        return contextlib.nullcontext()

    def record(self, step):
        Emulator.recordings += 1
        with EmulatedGraph() as graph:
            result = step()
        return result, graph.replay


@pytest.fixture
def emulated(monkeypatch):
    monkeypatch.setattr(replay, "make_recorder", lambda device: Emulator())
    monkeypatch.setattr(Emulator, "recordings", 0)


CONFIGURATIONS = {
    "report: Adam, dropout, ragged last batch": [
        "--recipe",
        "report",
        "--data.val_size",
        "400",
        "--data.batch_size",
        "250",
    ],
    "validation every epoch": ["--recipe", "report", "--data.held_out", "val"],
    "class weights, balanced classes": [
        "--recipe",
        "report",
        *["--model.class_weights", "balanced", "--model.label_smoothing", "0.1", "--data.balanced", "true"],
    ],
    "clipped gradients": ["--recipe", "report", "--trainer.gradient_clip_val", "0.1"],
    "averaged weights": ["--recipe", "report", "--trainer.callbacks+", EMA],
    "SGD": ["--recipe", "report", "--model.optimizer", "sgd", "--model.schedule", "triangular"],
    "fast": ["--recipe", "fast", *ALIVE],
    "fast94": ["--recipe", "fast94", *ALIVE],
    "accurate, two networks: two image sizes": ["--recipe", "accurate", "--model.members", "2", *ALIVE],
}
QUICK = "fast94"
LONG = ("class weights, balanced classes", "clipped gradients", "SGD", "fast")


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        QUICK,
        *(
            pytest.param(name, marks=pytest.mark.long if name in LONG else pytest.mark.slow)
            for name in CONFIGURATIONS
            if name != QUICK
        ),
    ],
)
def test_replayed_run_equals_eager_run(name, emulated, tmp_path):
    first, second, *others = CONFIGURATIONS[name]
    found = []
    for on in ("false", "true"):
        run_dir = tmp_path / on
        assert main(["fit", first, second, *SMALL, *others, "--model.replay", on, "--run_dir", str(run_dir)]) == 0
        checkpoint = load_checkpoint(run_dir / "checkpoints/last.ckpt")
        found.append([checkpoint["state_dict"], checkpoint["optimizer_states"], read_rows(run_dir)])
    assert_same(found[1], found[0])
    assert Emulator.recordings > 0


@pytest.mark.slow
def test_run_resumed_within_an_epoch_equals_uninterrupted_run(emulated, tmp_path, monkeypatch):
    run_dir = tmp_path / "run"
    copies = train_with_copies(["--recipe", "fast94", *SMALL, *OFTEN, *ALIVE, *ON], run_dir, monkeypatch)
    expected, rows = load_checkpoint(run_dir / "checkpoints/last.ckpt"), read_rows(run_dir)
    for copy in copies[1:-1:4]:
        found = resume(copy, run_dir)
        for name in ("state_dict", "optimizer_states", "callbacks"):
            assert_same(found[name], expected[name], name)
        assert read_rows(run_dir) == rows


SHORT = ["--recipe", "report", *SMALL, "--trainer.max_epochs", "1", "--trainer.limit_train_batches", "2"]


def fit(replayed, *options):
    return main(["fit", *SHORT, "--model.replay", replayed, *options, "--run_dir", "run"])


reported = pytest.mark.filterwarnings("default:replay is off", "default:the training step cannot be recorded")


@pytest.mark.slow
@reported
@pytest.mark.parametrize("spoilt", [pytest.param("number", marks=pytest.mark.slow), "wait"])
def test_what_a_graph_cannot_do_is_noticed(spoilt, emulated, tmp_path, monkeypatch, capsys):
    """The emulator is strict: a rate that Python reads while recording, or a wait for the device, fails these tests."""
    if spoilt == "number":
        monkeypatch.setattr(replay.DeviceRates, "apply", contextlib.nullcontext)
        with pytest.raises(AssertionError):
            test_replayed_run_equals_eager_run("SGD", None, tmp_path)
    else:
        step = ImageClassifier.training_step
        monkeypatch.setattr(ImageClassifier, "training_step", lambda *a: {**(out := step(*a)), "x": out["loss"].item()})
        assert fit("true", "--trainer.limit_train_batches", "4") == 0
        assert "warning: the training step cannot be recorded, it runs eagerly: aten._local_scalar" in (
            capsys.readouterr().err
        )


class Watcher(Callback):
    def on_after_backward(self, trainer, pl_module):
        pass


class Own(ImageClassifier):
    def training_step(self, batch, batch_idx):
        return super().training_step(batch, batch_idx)


class Unbatched(ImageClassifier):
    def on_train_batch_start(self, batch, batch_idx):
        """Do not call super: a replay would not get its batch."""


AVERAGING = StochasticWeightAveraging(0.1, swa_epoch_start=1)  # its last epoch skips backward


@pytest.mark.slow
@reported
@pytest.mark.parametrize(
    ("reason", "options"),
    [
        ("gradients are accumulated", ["--trainer.accumulate_grad_batches", "2"]),
        ("a profiler is on", ["--trainer.profiler", "simple"]),
        pytest.param("detect_anomaly is on", ["--trainer.detect_anomaly", "true"], marks=pytest.mark.slow),
        ("mixup and cutmix draw on the host", ["--model.mixup", "0.2"]),
        ("a callback acts within steps: LastGroup, GradientAccumulationScheduler", [
            "--trainer.callbacks+", "lightning.pytorch.callbacks.GradientAccumulationScheduler",
            "--trainer.callbacks.scheduling", "{4: 2}",
        ]),
    ],
)  # fmt: skip
def test_one_line_says_why_training_is_not_replayed(reason, options, emulated, capsys):
    assert fit("auto", *options) == 0
    assert capsys.readouterr().err == f"warning: replay is off, each step launches its kernels: {reason}\n"
    assert Emulator.recordings == 0


@pytest.mark.parametrize(
    ("reason", "model", "callbacks"),
    [
        ("Own overrides training_step", Own, []),
        ("Unbatched overrides on_train_batch_start", Unbatched, []),
        ("a callback acts within steps: Watcher", ImageClassifier, [Watcher()]),
        ("a callback acts within steps: StochasticWeightAveraging", ImageClassifier, [AVERAGING]),
    ],
)
def test_python_within_a_step_is_not_lost(reason, model, callbacks, emulated):
    with pytest.warns(UserWarning, match=f"replay is off, each step launches its kernels: {reason}"):
        make_trainer(1, *callbacks).fit(model(widths=(4, 4, 4, 4, 4)), CIFAR10DataModule("digits", batch_size=8))


def make_trainer(max_steps, *callbacks):
    short = {"max_steps": max_steps, "limit_val_batches": 0, "num_sanity_val_steps": 0}
    return make_quiet_trainer(callbacks=list(callbacks), **short)


def test_only_steps_on_a_single_device_are_replayed():
    """Not those of one process under a strategy for several either."""
    trainer, model = Trainer(accelerator="cpu", devices=1, strategy="ddp", logger=False), ImageClassifier()
    assert replay.find_obstacle(trainer, model, ImageClassifier) == "the strategy is DDPStrategy"


class Interrupt(Callback):
    def on_train_batch_end(self, trainer, *_):
        if trainer.global_step == 6:
            raise ArithmeticError


@pytest.mark.slow
def test_a_model_trains_again_after_an_exception(emulated):
    """After an exception, Lightning calls no `teardown`: the module still has the recordings."""
    found = []
    for interrupted in (False, True):
        torch.manual_seed(0)
        model = ImageClassifier(widths=(4, 4, 4, 4, 4), dropout=0.0)
        initial = {name: value.clone() for name, value in model.state_dict().items()}
        if interrupted:
            with pytest.raises(ArithmeticError):
                make_trainer(9, Interrupt()).fit(model, CIFAR10DataModule("digits", batch_size=16))
            model.load_state_dict(initial)
        torch.manual_seed(0)
        make_trainer(9).fit(model, CIFAR10DataModule("digits", batch_size=16))
        found.append(model.state_dict())
    assert_same(found[1], found[0])
    assert Emulator.recordings == 6  # of step and augmentation


@pytest.mark.slow
@reported
def test_replay_on_a_cpu_is_refused_in_one_line_only_if_requested(capsys):
    assert fit("true") == 0
    expected = "warning: replay is off, each step launches its kernels: it needs a CUDA device\n"
    assert capsys.readouterr().err == expected
    assert main(["fit", *SHORT, "--run_dir", "other"]) == 0
    assert capsys.readouterr().err == ""


def test_a_value_that_replay_does_not_have_is_refused(capsys):
    assert main(["fit", "--recipe", "report", *SMALL, "--model.replay", "always"]) == 2
    assert "replay" in capsys.readouterr().err


def test_lightning_keeps_a_closures_result_where_replay_puts_it():
    class Constant(AbstractClosure):
        def closure(self):
            return 1

        def __call__(self):
            self._result = self.closure()

    closure = Constant()
    closure._result = 2
    assert closure.consume_result() == 2
    assert closure._result is None


class OneDevice(TorchDispatchMode):
    """Count calls that launch a kernel on a GPU, and refuse tensors of another device, but for numbers."""

    def __init__(self, device):
        super().__init__()
        self.device, self.calls = device, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        self.calls += not func.is_view and func._schema.name not in VIEWS and "empty" not in func._schema.name
        tensors = [leaf for leaf in pytree.tree_leaves((args, kwargs, result)) if isinstance(leaf, torch.Tensor)]
        assert all(tensor.device.type == self.device or tensor.ndim == 0 for tensor in tensors), func
        return result


# Calls of a step of each recipe, apart from augmentation: these numbers may only fall.
CALLS = {"report": 258, "fast": 406, "fast94": 376, "accurate": 613}


@pytest.mark.slow
@pytest.mark.parametrize(
    "recipe", [pytest.param(name, marks=pytest.mark.slow if name == "accurate" else []) for name in CALLS]
)
def test_calls_of_a_step(recipe):
    device = "cpu" if recipe == "report" else "meta"  # which has no fused Adam
    model = ImageClassifier(**yaml.safe_load(RECIPES[recipe].read_text()).get("model", {})).to(device)
    optimizer = build_optimizer(model.network, model.hparams)
    batch = torch.zeros(2, 32, 32, 3, dtype=torch.uint8).permute(0, 3, 1, 2), torch.zeros(2, dtype=torch.long)
    batch = tuple(tensor.to(device) for tensor in batch)
    for _ in range(2):  # the first creates the optimiser's state
        with OneDevice(device) as counted:
            optimizer.zero_grad()
            model.training_step(batch, 0)["loss"].backward()
            optimizer.step()
    assert counted.calls <= CALLS[recipe]
