"""Published networks: torchvision's and timm's fitted to small images, wide ResNets."""

import pytest
import torch
import torchvision
from torch import nn

from lightning_cifar import InputError
from lightning_cifar.model.named import build_network
from lightning_cifar.networks.small_images import fit_to_small_images
from lightning_cifar.networks.wide_resnet import WideResNet


def list_sides(network, size=32):
    """Return the heights of the outputs of a network's convolutions, in order."""
    sides = []
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d):
            layer.register_forward_hook(lambda _, __, output: sides.append(output.shape[2]))
    network.eval()(torch.zeros(1, 3, size, size))
    return sides


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
