"""Other networks than the five-block one through every command, by name and from a file beside the command."""

import csv
import inspect
import json
import re
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from lightning_cifar import load_pretrained, trust
from lightning_cifar.commands.export import formats
from lightning_cifar.train.checkpoint import load_checkpoint
from tests.command_line import run
from tests.spectral import Spectral

FACTORY = """\
import torch
from torch import nn


def build(num_classes, width=8):
    return nn.Sequential(
        nn.Conv2d(3, width, 3, 2, 1), nn.BatchNorm2d(width), nn.ReLU(),
        nn.Conv2d(width, width, 3, 2, 1), nn.BatchNorm2d(width), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, num_classes),
    )


def build_flat(num_classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, num_classes))


class Listed(nn.Flatten):
    # Fails by an error of its own for all sizes but one.
    def forward(self, pixels):
        return super().forward(pixels)[:, : {32: 10}[pixels.shape[-1]]]


def list_flat(num_classes):
    return nn.Sequential(nn.BatchNorm2d(3), Listed())


class Lazy(nn.Sequential):
    # Parameters without a shape until the first batch, and a state that is no tensor.
    def __init__(self, num_classes):
        super().__init__(nn.Flatten(), nn.LazyLinear(num_classes))
        self.steps = 5

    def get_extra_state(self):
        return {"steps": self.steps}

    def set_extra_state(self, state):
        self.steps = state["steps"]


class Extra(nn.Module):
    # A state that is no tensor beside weights of known shapes.
    get_extra_state, set_extra_state, steps = Lazy.get_extra_state, Lazy.set_extra_state, 5

    def __init__(self, num_classes):
        super().__init__()
        self.head = nn.Linear(3, num_classes)

    def forward(self, pixels):
        return self.head(pixels.mean((2, 3)))


class Unsaved(Extra):
    # A state that only code could read back.
    def get_extra_state(self):
        return {"kind": Extra}


class Viewed(nn.Module):
    # Flattens feature maps by `view`, as many tutorials do, and changes its input.
    def __init__(self, num_classes):
        super().__init__()
        self.features, self.head = nn.Conv2d(3, 4, 3, 4, 1), nn.Linear(4 * 8 * 8, num_classes)

    def forward(self, pixels):
        return self.head(self.features(pixels.mul_(2)).view(-1, 4 * 8 * 8))


class Branching(Extra):
    # Its branches depend on values, which torch's exporters do not follow.
    def forward(self, pixels):
        return super().forward(pixels) * (2 if pixels.mean() > 0.1 else 1)


class Renamed(nn.Module):
    # Its last layer had another name.
    def __init__(self, num_classes):
        super().__init__()
        self.head = nn.Linear(3, num_classes)

    def forward(self, pixels):
        return self.head(pixels.mean((2, 3)))

    def _load_from_state_dict(self, state_dict, prefix, *args):
        for name in [name for name in state_dict if name.startswith(prefix + "fc.")]:
            state_dict[name.replace("fc.", "head.")] = state_dict.pop(name)
        super()._load_from_state_dict(state_dict, prefix, *args)


def build_shared(num_classes):
    twice = nn.Conv2d(8, 8, 3, 1, 1)
    first, last = nn.Conv2d(3, 8, 3, 4, 1), nn.Linear(8, num_classes)
    return nn.Sequential(first, twice, nn.ReLU(), twice, nn.AdaptiveAvgPool2d(1), nn.Flatten(), last)
"""
FACTORY += f"\n\n{inspect.getsource(Spectral)}"
COUNTING = """\
from torch import nn


class Counting(nn.Module):
    steps = 0

    def __init__(self, num_classes):
        super().__init__()
        self.linear = nn.Linear(3 * 32 * 32, num_classes)

    def forward(self, x):
        self.steps += self.training
        return self.linear(x.flatten(1)) / (1 + self.steps)
"""
SHORT = ["--recipe", "demo", "--trainer.max_epochs", "1", "--trainer.limit_train_batches", "2"]
SHORT += ["--trainer.log_every_n_steps", "1", "--data.batch_size", "16", "--data.val_size", "100"]
MINE = ["--model.network", "mine:build", "--model.network_args", '{"width": 4}']
TRUSTED = ["--trust_config", "mine"]


@pytest.fixture
def factory(tmp_path, monkeypatch):
    """A file ``mine.py`` in the working directory, which an installed script does not have in its path."""
    (tmp_path / "mine.py").write_text(FACTORY)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path not in ("", str(tmp_path))])
    monkeypatch.delitem(sys.modules, "mine", raising=False)
    return tmp_path


@pytest.fixture
def photo(tmp_path, drawn_images):
    file = tmp_path / "photo.png"
    Image.fromarray(drawn_images[0].permute(1, 2, 0).numpy()).resize((80, 60)).save(file)
    return file


@pytest.mark.slow
def test_a_function_from_a_file_goes_through_every_command(factory, photo, capsys):
    status, _, err = run(capsys, "fit", *SHORT, *MINE, "--run_dir", "run")
    assert (status, err.splitlines()[-1].endswith("lightning_cifar.trust('mine'))")) == (2, True)
    assert "add --trust_config mine" in err
    assert not Path("run").exists()
    assert "mine" not in sys.modules

    status, out, err = run(capsys, "fit", *SHORT, *MINE, *TRUSTED, "--run_dir", "run")
    assert status == 0, err
    assert "ignores options of five_block: widths" in out  # the recipe's
    assert out.splitlines()[-1].endswith("--trust_config mine")  # the command that tests it
    assert str(factory) not in sys.path
    checkpoint = ["--ckpt_path", "run"]
    for command in (["test", *checkpoint], ["predict", *checkpoint, "--images", photo]):
        status, _, err = run(capsys, *command)
        assert (status, "mine:build is not trusted" in err, "holds no model" in err) == (2, True, False)
    assert run(capsys, "test", *checkpoint, *TRUSTED)[0] == 0
    assert run(capsys, "fit", "--resume", "run", *TRUSTED)[0] == 0

    status, out, err = run(capsys, "predict", *checkpoint, *TRUSTED, "--images", photo, "--explain", "explained")
    assert (status, len(list(csv.DictReader(out.splitlines())))) == (0, 1), err
    with Image.open(next(Path("explained").iterdir())) as drawn:
        assert drawn.width < 3 * 256  # two panels: no gates
    assert run(capsys, "export", *checkpoint, *TRUSTED, "--output", "mine.safetensors")[0] == 0
    card = Path("mine.safetensors.md").read_text()
    assert "mine:build" in card
    assert "five gated" not in card
    (example,) = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    exec(example.replace("my.jpg", str(photo)), {})
    assert capsys.readouterr().out.strip() in {str(digit) for digit in range(10)}


@pytest.mark.slow
def test_complex_weights_are_trained_resumed_and_tested(factory, capsys):
    options = ["--model.network", "mine:Spectral", *TRUSTED]
    assert run(capsys, "fit", *SHORT, *options, "--run_dir", "run")[0] == 0
    assert run(capsys, "fit", "--resume", "run", "--trainer.max_epochs", "2", *TRUSTED)[0] == 0
    assert run(capsys, "test", "--ckpt_path", "run", *TRUSTED)[0] == 0
    checkpoint = load_checkpoint(Path("run/checkpoints/last.ckpt"))
    filters = checkpoint["state_dict"]["network.filters"]
    for wrong in (filters.real.clone(), filters.to("meta")):  # half of the weights, none
        checkpoint["state_dict"]["network.filters"] = wrong
        torch.save(checkpoint, "wrong.ckpt")
        status, _, err = run(capsys, "test", "--ckpt_path", "wrong.ckpt", *TRUSTED)
        assert (status, "wrong.ckpt holds no model of this package" in err) == (2, True)


@pytest.mark.slow
def test_lazy_modules_and_extra_states_are_trained_resumed_and_tested(factory, capsys):
    options = ["--model.network", "mine:Lazy", *TRUSTED]
    assert run(capsys, "fit", *SHORT, *options, "--run_dir", "run")[0] == 0
    assert run(capsys, "fit", "--resume", "run", "--trainer.max_epochs", "2", *TRUSTED)[0] == 0
    status, _, err = run(capsys, "test", "--ckpt_path", "run", *TRUSTED)
    assert status == 0, err


@pytest.mark.slow
def test_extra_states_are_trained_from_and_exported(factory, drawn_folder, capsys):
    """But not as safetensors, which holds tensors only."""
    start = ["fit", *SHORT, *TRUSTED]
    assert run(capsys, *start, "--model.network", "mine:Extra", "--run_dir", "run")[0] == 0
    assert run(capsys, *start, "--init_from", "run", "--run_dir", "next")[0] == 0
    other = ["--data.dataset", "folder", "--data.root", drawn_folder, "--data.val_size", "2"]  # of other classes
    status, out, err = run(capsys, *start, *other, "--init_from", "run", "--run_dir", "other")
    assert (status, "the last layer is new" in out) == (0, True), err
    export = ["export", "--ckpt_path", "run", *TRUSTED, "--output"]
    status, _, err = run(capsys, *export, "extra.safetensors")
    assert (status, "error: .safetensors files hold tensors only, and network._extra_state of" in err) == (2, True)
    assert not [*Path().glob("extra*")]
    assert run(capsys, *export, "extra.pt2")[0] == 0


def test_a_state_that_cannot_be_read_back_is_not_trained_for(factory, capsys):
    """Its checkpoints would be refused as damaged."""
    options = ["--model.network", "mine:Unsaved", *TRUSTED, "--run_dir", "run"]
    status, _, err = run(capsys, "fit", *SHORT, *options)
    words = "error: the state of a module, callback or optimiser holds mine.Extra, which checkpoints cannot: return num"
    assert (status, words in err) == (2, True), err


@pytest.mark.slow
@pytest.mark.parametrize("members", [1, 2])
def test_a_network_that_flattens_by_view_goes_through_every_command(factory, photo, capsys, members):
    options = ["--model.network", "mine:Viewed", *TRUSTED, "--model.members", members]
    assert run(capsys, "fit", *SHORT, *options, "--run_dir", "run")[0] == 0
    checkpoint = ["--ckpt_path", "run"]
    for command in (
        ["fit", "--resume", "run", "--trainer.max_epochs", 2],
        ["test", *checkpoint],
        ["predict", *checkpoint, "--images", photo, "--explain", "explained"],
        ["export", *checkpoint, "--output", "viewed.pt2"],
    ):
        status, _, err = run(capsys, *command, *TRUSTED)
        assert status == 0, err


@pytest.mark.slow
def test_a_network_that_cannot_be_exported_is_one_line(factory, capsys):
    assert run(capsys, "fit", *SHORT, "--model.network", "mine:Branching", *TRUSTED, "--run_dir", "run")[0] == 0
    status, _, err = run(capsys, "export", "--ckpt_path", "run", *TRUSTED, "--output", "net.pt2")
    assert (status, len(err.splitlines())) == (2, 1), err
    assert err.startswith("error: this network cannot be exported as torch.export (Could not guard")
    assert not [*Path().glob("net.pt2*")]


def test_memory_that_an_export_lacks_is_no_fault_of_the_network(capsys, monkeypatch):
    def write(*_):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setitem(formats.FORMATS, "torch.export", (write, None))
    status, _, err = run(capsys, "export", "--ckpt_path", "pretrained", "--output", "net.pt2")
    assert (status, err.startswith("error: out of memory")) == (1, True), err


@pytest.mark.slow
def test_a_network_that_renames_its_weights_reads_older_files(factory, capsys):
    options = ["--model.network", "mine:Renamed", *TRUSTED]
    assert run(capsys, "fit", *SHORT, *options, "--run_dir", "run")[0] == 0
    checkpoint = load_checkpoint(Path("run/checkpoints/last.ckpt"))
    weights = checkpoint["state_dict"]
    for name in ("weight", "bias"):
        weights[f"network.fc.{name}"] = weights.pop(f"network.head.{name}")
    torch.save(checkpoint, "older.ckpt")
    for command in ("test", "predict"):
        status, _, err = run(capsys, command, "--ckpt_path", "older.ckpt", *TRUSTED)
        assert status == 0, err
    with trust("mine"):
        model = load_pretrained("older.ckpt")
    assert torch.equal(model.network.head.bias, weights["network.fc.bias"])


@pytest.mark.slow
def test_weights_that_layers_share_are_exported(factory, capsys):
    options = ["--model.network", "mine:build_shared", *TRUSTED]
    assert run(capsys, "fit", *SHORT, *options, "--run_dir", "run")[0] == 0
    assert run(capsys, "export", "--ckpt_path", "run", *TRUSTED, "--output", "shared.safetensors")[0] == 0
    assert run(capsys, "test", "--ckpt_path", "shared.safetensors", *TRUSTED)[0] == 0


@pytest.mark.parametrize(
    ("network", "sizes"), [("build_flat", "[20, 32]"), ("build_flat", "[32, 24]"), ("list_flat", "[32, 24]")]
)
def test_a_network_of_one_size_refuses_others(factory, network, sizes, capsys):
    options = ["--model.network", f"mine:{network}", *TRUSTED, "--data.sizes", sizes, "--run_dir", "run"]
    status, _, err = run(capsys, "fit", *SHORT, *options)
    other = sizes.strip("[]").replace("32", "").strip(", ")
    assert (status, len(err.splitlines())) == (2, 1), err
    assert f"error: --data.sizes {sizes}: the network accepts no {other}x{other} pixels" in err
    assert not Path("run").exists()


@pytest.mark.slow
def test_every_seed_has_a_new_network(factory, capsys):
    """One that counts its steps would go on counting."""
    (factory / "mine.py").write_text(COUNTING)
    options = [*SHORT, "--model.network", "mine:Counting", *TRUSTED]
    assert run(capsys, "repeat", "--n", 2, *options, "--run_dir", "seeds")[0] == 0
    assert run(capsys, "fit", *options, "--seed_everything", 1, "--run_dir", "run")[0] == 0
    first, second = (
        load_checkpoint(Path(one, "checkpoints/last.ckpt"))["state_dict"] for one in ("seeds/seed1", "run")
    )
    assert all(torch.equal(first[name], value) for name, value in second.items())


@pytest.mark.slow
def test_a_network_by_name_is_exported_repeated_and_compared(capsys, drawn_folder):
    named = ["--model.network", "wide_resnet10_1", "--model.schedule", "one_cycle", "--model.optimizer", "RMSprop"]
    for run_dir, options in (("wide", named), ("five", [])):
        status, _, err = run(capsys, "repeat", *SHORT, *options, "--n", 2, "--run_dir", run_dir)
        assert status == 0, err
    assert run(capsys, "repeat", "--compare", "five", "wide")[0] == 0
    assert run(capsys, "report", "five", "wide", "--output", "page")[0] == 0
    assert "wide_resnet10_1" in Path("page/report.html").read_text()
    checkpoint = ["--ckpt_path", "wide/seed0"]
    output = ["--output", "wide.onnx", "--images", drawn_folder]
    status, _, err = run(capsys, "export", *checkpoint, *output)
    assert status == 0, err
    assert "wide_resnet10_1" in Path("wide.onnx.md").read_text()
    assert json.loads(Path("wide/repeat.json").read_text())["n"] == 2


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--model.network", "mnasnet0_5"], "no network 'mnasnet0_5'"),
        (["--model.network", "resnet19"], "did you mean resnet18"),
        (["--model.network", "five_block", "--model.network_args", '{"a": 1}'], "takes no network_args"),
        (
            ["--model.network", "wide_resnet10_1", "--model.network_args", "{dropout:0}"],
            "{dropout:0}: expected a mapping (write --model.network_args.NAME VALUE) or null",
        ),
        (["--model.network", "wide_resnet10_1", "--model.network_args", '{"dropout": 2}'], "dropout must be in [0, 1)"),
        (["--model.optimizer", "adamm"], "did you mean adam"),
        (["--model.optimizer", "SparseAdam"], "no optimizer 'SparseAdam'"),
        (["--model.optimizer", "RMSprop", "--model.optimizer_args", '{"alpa": 1}'], "'alpa'"),
        (["--model.optimizer", "sgd", "--model.optimizer_args", '{"dampening": 0.1}'], "Nesterov momentum requires"),
        (["--model.schedule", "cosin"], "one of constant, triangular, cosine, one_cycle"),
    ],
)
def test_what_cannot_be_trained_is_one_line(args, words, capsys):
    status, _, err = run(capsys, "fit", *SHORT, *args, "--run_dir", "run")
    assert (status, len(err.splitlines())) == (2, 1), err
    assert words in err
    assert not Path("run").exists()


@pytest.mark.slow
def test_a_network_without_maps_is_not_explained(factory, photo, capsys):
    options = ["--model.network", "mine:build_flat", *TRUSTED]
    assert run(capsys, "fit", *SHORT, *options, "--run_dir", "run")[0] == 0
    predict = ["predict", "--ckpt_path", "run", *TRUSTED, "--images", photo]
    assert run(capsys, *predict)[0] == 0
    status, _, err = run(capsys, *predict, "--explain", "explained")
    words = "error: --explain needs feature maps of 4x4 pixels, which mine:build_flat does not have\n"
    assert (status, err) == (2, words)
    assert not Path("explained").exists()


def test_a_checkpoint_of_another_network_is_refused(trained, capsys):
    status, _, err = run(capsys, "test", "--ckpt_path", trained, "--model.network", "wide_resnet10_1")
    assert (status, "--model.network wide_resnet10_1: the checkpoint was trained with five_block" in err) == (2, True)


@pytest.mark.slow
def test_options_without_effect_say_so(capsys):
    named = ["--model.network", "wide_resnet10_1", "--model.gate_rate", "0.1", "--model.momentum", "0.5"]
    status, out, err = run(capsys, "fit", *SHORT, *named, "--model.hidden", "3", "--run_dir", "run")
    assert status == 0, err
    assert "--model.gate_rate has no effect: wide_resnet10_1 has no gates" in out
    assert "--model.momentum has no effect: the optimizer is adam" in out
    assert "ignores options of five_block: widths, hidden" in out


@pytest.mark.slow
def test_the_rate_of_gates_that_are_not_trained_has_no_effect(tiny, capsys):
    _, out, _ = run(capsys, "fit", *tiny, "--model.gate", "static", "--model.gate_rate", "0.1", "--run_dir", "run")
    assert "note: --model.gate_rate has no effect: the gate is static" in out


@pytest.mark.slow
def test_resnet18_equals_a_plain_loop(capsys):
    """The same network, images and order in a loop of torch alone end at the same weights."""
    from torch.nn import functional as F

    from lightning_cifar import CIFAR10DataModule
    from lightning_cifar.model.named import build_network
    from lightning_cifar.model.normalisation import Normalisation

    options = ["--data.dataset", "digits", "--data.batch_size", "8"]
    options += ["--data.flip", "false", "--data.crop_padding", "0", "--data.cutout", "0"]
    options += ["--model.network", "resnet18", "--model.optimizer", "sgd", "--trainer.precision", "32-true"]
    options += ["--trainer.limit_train_batches", "3", "--trainer.log_every_n_steps", "1"]
    options += ["--trainer.max_epochs", "1", "--trainer.limit_val_batches", "0"]
    assert run(capsys, "fit", "--recipe", "report", *options, "--run_dir", "run")[0] == 0
    found = load_checkpoint(Path("run/checkpoints/last.ckpt"))

    torch.manual_seed(0)
    network = build_network("resnet18", 10).to(memory_format=torch.channels_last)
    data = CIFAR10DataModule("digits", batch_size=8, flip=False, crop_padding=0, held_out="test")
    data.setup()
    rates = {"lr": 1e-3, "momentum": 0.85, "weight_decay": 1e-4}
    optimizer = torch.optim.SGD(network.parameters(), nesterov=True, fused=True, **rates)  # as `optim.fuse` switches it
    normalise = Normalisation(data.mean, data.std)  # any other rounding is enlarged by each step
    for number, (images, labels) in enumerate(data.train_dataloader()):
        if number == 3:
            break
        loss = F.cross_entropy(network(normalise(images)), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    for name, value in network.state_dict().items():
        assert torch.equal(found["state_dict"][f"network.{name}"], value), name


MISTAKES = """\
import torch
from torch import nn


def build(num_classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, num_classes))


def misspelt(num_classes):
    return nn.Linear(3, number)


class Forward(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.linear = build(num_classes)

    def forward(self, pixels):
        return self.liner(pixels)


class Squeezed(Forward):
    def forward(self, pixels):
        return self.linear(pixels).squeeze()


class Detached(Forward):
    def forward(self, pixels):
        return torch.from_numpy(self.linear(pixels).detach().numpy())


class Dropped(Forward):
    def forward(self, pixels):
        return self.linear(self.dropout(pixels) if self.training else pixels)


class Auxiliary(Forward):
    def forward(self, pixels):
        logits = self.linear(pixels)
        return (logits, logits) if self.training else logits


def freeze(num_classes):
    return build(num_classes).requires_grad_(False)


def probabilities(num_classes):
    return nn.Sequential(build(num_classes), nn.Softmax(1))


def half(num_classes):
    return build(num_classes).half()


def double(num_classes):
    return nn.Sequential(nn.Conv2d(3, 3, 1, bias=False).double(), build(num_classes))


def misnamed(num_classes):
    return nn.Linear(3, num_classes, dtype_=None)


def augment(images):
    return images.flip(9)
"""


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ("--model.network mine:misspelt", "mine:misspelt: name 'number' is not defined (mine.py, line 10)"),
        ("--model.network mine:Forward", "'Forward' object has no attribute 'liner' (mine.py, line 19)"),
        ("--model.network mine:Auxiliary", "network returns a tuple in training: it must return logits then too"),
        ("--model.network mine:Squeezed", "it returns [10] for one image, not logits [1, 10]"),
        ("--model.network mine:Detached", "the loss has no gradient: the network detaches its logits"),
        (
            "--model.network mine:Dropped",
            "error: AttributeError: 'Dropped' object has no attribute 'dropout' (mine.py, line 34); LIGHTNING_CIFAR_",
        ),
        ("--model.network mine.py:build", "mine.py:build: write PACKAGE.MODULE:FUNCTION, such as mine:build for a"),
        ("--model.network mine:Squeezd", "mine has no function 'Squeezd': did you mean Squeezed?"),
        ("--model.optimizer mine:SAM", "SGD; yours by an ImageClassifier with your configure_optimizers, in Python"),
        ("--model.network mine:freeze", "no parameter of the network is trainable"),
        ("--model.network mine:probabilities", "it returns probabilities, not logits: leave out its softmax"),
        ("--model.network mine:half", "but got Float and Half: leave its weights float32"),
        ("--model.network mine:misnamed", "got an unexpected keyword argument 'dtype_' (mine.py, line 60)"),
        ("--model.network mine:double", "found Double: leave its weights float32"),
        (
            "--data.transform mine:augment",
            "Dimension out of range (expected to be in range of [-4, 3], but got 9) (mine.py, line 64)",
        ),
    ],
)
def test_mistakes_in_code_of_the_user_are_one_line_that_names_theirs(tmp_path, capsys, monkeypatch, option, words):
    Path("mine.py").write_text(MISTAKES)
    monkeypatch.delitem(sys.modules, "mine", raising=False)
    status, _, err = run(capsys, "fit", *SHORT, *option.split(), *TRUSTED, "--run_dir", "run")
    assert (status, len(err.splitlines()), words in err) == (2, 1, True), err
    assert not Path("run").exists()


@pytest.mark.parametrize(
    ("names", "such"),
    [("mine:build", "mine"), ("mine,other/mine.py", "mine"), ("my-nets", "my_nets"), ("./mine", "mine")],
)
def test_trust_in_no_package_is_one_line(factory, capsys, names, such):
    status, _, err = run(capsys, "fit", *SHORT, *MINE, "--trust_config", names)
    named = names.split(",")[-1]
    assert (status, f"error: --trust_config {named}: name a package or module, such as {such}\n" in err) == (2, True)
