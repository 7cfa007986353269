"""Networks by name: `five_block`, functions of the user, and what cannot be built."""

import pytest
import torch
from torch import nn

from lightning_cifar import FiveBlockNet, ImageClassifier, InputError, trust
from lightning_cifar.model.named import build_network
from lightning_cifar.networks.small_images import fit_to_small_images
from tests.trainer import make_quiet_trainer


def build(num_classes, width=4):
    return nn.Sequential(nn.Conv2d(3, width, 8, 8), nn.Flatten(), nn.Linear(16 * width, num_classes))


class Viewed(nn.Module):
    # Flattens feature maps by `view`; with ``own``, the layout of its images is not that of its feature maps.
    def __init__(self, num_classes, own=False):
        super().__init__()
        self.features, self.pool = nn.Conv2d(3, 4, 7, 2, 3), nn.AdaptiveAvgPool2d(4)
        self.head, self.own = nn.Linear(64, num_classes), own

    def forward(self, pixels):
        pixels = pixels.contiguous() if self.own else pixels
        return self.head(self.pool(self.features(pixels)).view(len(pixels), -1))


def test_a_file_may_have_any_name(tmp_path, monkeypatch):
    (tmp_path / "my-network.py").write_text(
        "from torch import nn\n\n\ndef build(num_classes):\n    return nn.Identity()\n"
    )
    monkeypatch.chdir(tmp_path)
    with (
        trust("my-network"),
        pytest.raises(InputError, match=r"it returns \[2, 3, 32, 32\] for two images, not logits"),
    ):
        build_network("my-network:build", 10)


@pytest.mark.parametrize("own", [False, True])
def test_a_network_that_uses_view_is_contiguous(own):
    network = build_network(Viewed, 10, {"own": own})
    images = torch.rand(2, 3, 32, 32).to(memory_format=torch.channels_last)
    assert network(images).shape == (2, 10)
    assert network.features.weight.is_contiguous()


def test_a_network_that_uses_view_is_fitted_to_small_images():
    network = Viewed(10)
    fit_to_small_images(network, 4)
    assert network.features.stride == (1, 1)


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")
def test_torchscript_that_uses_view_is_one_line():
    with pytest.raises(InputError, match="its TorchScript flattens feature maps by view: use flatten or reshape"):
        build_network(lambda num_classes: torch.jit.script(Viewed(num_classes)), 10)


def test_five_block_is_the_default_with_its_flat_options():
    network = build_network("five_block", 3, widths=(4, 4, 4, 4, 4))
    assert isinstance(network, FiveBlockNet)
    assert network(torch.rand(1, 3, 32, 32)).shape == (1, 3)


def test_a_function_itself_is_trusted_and_its_name_only_where_the_user_says_so():
    model = ImageClassifier(network=build, network_args={"width": 2})
    assert model.hparams["network"] == f"{__name__}:build"
    with pytest.raises(InputError, match=r"not trusted.*lightning_cifar\.trust\("):
        ImageClassifier(**model.hparams)
    with trust(__name__):
        again = ImageClassifier(**model.hparams)
    again.load_state_dict(model.state_dict())
    with pytest.raises(InputError, match="not trusted"):
        ImageClassifier(**model.hparams)
    with trust(__name__[:-1]), pytest.raises(InputError, match="not trusted"):  # a name that only begins so
        ImageClassifier(**model.hparams)


def test_arguments_that_a_checkpoint_cannot_hold_give_a_warning():
    def build_with(num_classes, act):
        return nn.Sequential(nn.Flatten(), nn.Linear(3072, num_classes), act())

    with pytest.warns(
        UserWarning, match="network_args act as '.*:Identity': pass network_args to load_from_checkpoint"
    ):
        ImageClassifier(network=build_with, network_args={"act": nn.Identity})


def test_a_lambda_that_built_a_network_is_passed_again(tmp_path):
    def build_wider(num_classes):
        return build(num_classes, width=8)

    for function in (build_wider, lambda num_classes: build(num_classes, width=8)):
        model = ImageClassifier(network=function)
        trainer = make_quiet_trainer()
        trainer.strategy.connect(model)
        trainer.save_checkpoint(tmp_path / "model.ckpt")
        with pytest.raises(InputError, match="a lambda or defined within a function: in Python, pass it again as net"):
            ImageClassifier.load_from_checkpoint(tmp_path / "model.ckpt")
        again = ImageClassifier.load_from_checkpoint(tmp_path / "model.ckpt", network=function)
        assert torch.equal(again.network[-1].weight, model.network[-1].weight)


@pytest.mark.parametrize(
    ("name", "args", "message"),
    [
        ("resnet19", {}, "did you mean resnet18"),
        ("wide_resnet11_1", {}, "10, 16, 22, 28"),
        ("shufflenet_v2_x0_5", {"widht": 1}, "widht"),
        ("shufflenet_v2_x0_5", {"weights": "DEFAULT"}, "must not have weights"),
        ("shufflenet_v2_x0_5", {"size": 1}, "unexpected keyword argument 'size'"),
        ("five_block", {"widths": [1]}, "takes no network_args"),
        (
            "torchvision.models:VisionTransformer",
            dict.fromkeys(("num_layers", "num_heads", "hidden_dim", "mlp_dim"), 1) | {"image_size": 8, "patch_size": 8},
            "network torchvision.models:VisionTransformer with .*: Wrong image height! Expected 8 but got 32",
        ),
        (
            "nowhere:build",
            {},
            r"nowhere cannot be imported \(No module named 'nowhere'\): install it, or run where nowhere.py is",
        ),
        ("torch:nothing", {}, "torch has no function 'nothing'"),
        ("torch:zeros", {}, "network torch:zeros: "),
        (
            "torchvision.models:inception_v3",
            {"init_weights": False},
            r"network torchvision.models:inception_v3 with .*: Calculated",
        ),
        (lambda num_classes: num_classes, {}, "it returned int, not a torch.nn.Module"),
        (lambda num_classes: nn.Flatten(), {}, r"it returns \[2, 3072\] for two images, not logits \[2, 10\]"),
        (lambda num_classes: nn.Linear(4, 4), {}, "shapes cannot be multiplied"),
        (lambda num_classes: nn.Flatten().missing, {}, "'Flatten' object has no attribute 'missing'"),
        (lambda num_classes: [].pop(), {}, "pop from empty list"),
        (lambda num_classes: nn.Sequential(build(num_classes), nn.Softmax(1)), {}, "probabilities.*leave out its soft"),
    ],
)
def test_what_cannot_be_built_is_named(name, args, message):
    with trust("nowhere", "torch", "torchvision"), pytest.raises(InputError, match=message):
        build_network(name, 10, args)


def test_a_network_in_place_of_its_function_is_named():
    with pytest.raises(InputError, match="network must be a function that returns a network, got a Flatten"):
        build_network(nn.Flatten(), 10)


def test_a_frozen_part_stays_in_evaluation_mode():
    def build_frozen(num_classes):
        network = build(num_classes)
        network.insert(1, nn.BatchNorm2d(4).eval())
        return network

    network = build_network(build_frozen, 3)
    assert (network.training, network[1].training) == (True, False)


class Zeros(nn.Module):
    """Logits of a new head that begins at zero, in another type than float32."""

    def __init__(self, dtype):
        super().__init__()
        self.dtype = dtype

    def forward(self, logits):
        return (0 * logits).to(self.dtype)


@pytest.mark.parametrize(
    "last", [nn.LogSoftmax(1), nn.ReLU(), nn.Identity(), Zeros(torch.bfloat16), Zeros(torch.float64)]
)
def test_other_outputs_than_probabilities_are_logits(last):
    assert build_network(lambda num_classes: nn.Sequential(build(num_classes), last), 10)
