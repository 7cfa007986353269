"""Networks by name: torchvision's and timm's fitted to small images, wide ResNets, functions of the user."""

import pytest
import torch
import torchvision
from torch import nn

from lightning_cifar import FiveBlockNet, ImageClassifier, InputError, trust
from lightning_cifar.model.named import build_network
from lightning_cifar.model.small_images import fit_to_small_images
from lightning_cifar.model.wide_resnet import WideResNet


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


def list_sides(network, size=32):
    """Return the heights of the outputs of a network's convolutions, in order."""
    sides = []
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d):
            layer.register_forward_hook(lambda _, __, output: sides.append(output.shape[2]))
    network.eval()(torch.zeros(1, 3, size, size))
    return sides


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


@pytest.mark.slow
def test_resnet18_is_its_cifar_version():
    """He et al. 2016: a 3x3 convolution of stride 1, no pool, then stages of 32, 16, 8 and 4 pixels."""
    torch.manual_seed(0)
    ours = build_network("resnet18", 10)
    assert list_sides(ours) == [32] * 5 + [16] * 5 + [8] * 5 + [4] * 5
    plain = torchvision.models.resnet18(num_classes=10)
    plain.conv1, plain.maxpool = nn.Conv2d(3, 64, 3, 1, 1, bias=False), nn.Identity()
    plain.to(memory_format=torch.channels_last).load_state_dict(ours.state_dict())
    images = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(ours.eval()(images), plain.eval()(images))


@pytest.mark.parametrize(("size", "first", "last"), [(32, 32, 4), (64, 64, 4), (128, 64, 4)])
def test_larger_images_keep_more_strides(size, first, last):
    sides = list_sides(build_network("shufflenet_v2_x0_5", 10, size=size), size)
    assert (sides[0], sides[-1]) == (first, last)


def test_one_stride_of_four_is_reduced_to_what_is_needed():
    network = nn.Sequential(nn.Conv2d(3, 4, 4, 4), nn.Conv2d(4, 4, 2, 2), nn.AvgPool2d(2), nn.AdaptiveAvgPool2d(1))
    fit_to_small_images(network, 32)
    assert [network[0].stride, network[0].kernel_size, network[1].stride] == [(2, 2), (3, 3), (2, 2)]
    assert isinstance(network[2], nn.AvgPool2d)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mobilenet_v3_small", "regnet_y_400mf", "squeezenet1_1"])
def test_other_families_end_in_four_pixels_or_about(name):
    assert max(list_sides(build_network(name, 7))) >= 30
    assert min(side for side in list_sides(build_network(name, 7)) if side > 1) in (3, 4)


@pytest.mark.parametrize(("depth", "width", "parameters"), [(16, 1, 175_066), (28, 10, 36_479_194)])
def test_wide_resnet_has_the_parameters_of_the_paper(depth, width, parameters):
    """Table 1 of the paper, in millions: 0.2 and 36.5."""
    with torch.device("meta"):
        network = WideResNet(depth, width, 10)
    assert sum(parameter.numel() for parameter in network.parameters()) == parameters


def test_wide_resnet_by_name_and_its_arguments():
    network = build_network("wide_resnet10_1", 5, {"dropout": 0.5})
    assert isinstance(network, WideResNet)
    assert network(torch.rand(2, 3, 32, 32)).shape == (2, 5)
    assert {layer.p for layer in network.modules() if isinstance(layer, nn.Dropout)} == {0.5}


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


@pytest.mark.parametrize(
    ("name", "args", "message"),
    [
        ("resnet19", {}, "did you mean resnet18"),
        ("wide_resnet11_1", {}, "10, 16, 22, 28"),
        ("shufflenet_v2_x0_5", {"widht": 1}, "widht"),
        ("shufflenet_v2_x0_5", {"weights": "DEFAULT"}, "must not have weights"),
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


@pytest.mark.slow
def test_a_network_of_timm():
    assert list_sides(build_network("timm/test_resnet", 4))[0] == 32
    with pytest.raises(InputError, match="did you mean timm/"):
        build_network("timm/resnet19", 4)
    with pytest.raises(InputError, match="no network"):
        build_network("timm/hf_hub:someone/something", 4)


@pytest.mark.slow
def test_a_network_of_one_size_is_left_as_it_was():
    """The images of another size, by which strides are found, fail."""
    network = build_network("timm/test_vit", 4, {"img_size": 32})
    assert all(module.training and not module._forward_hooks for module in network.modules())


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
