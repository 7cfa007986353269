"""Hyper-parameters of a stranger's file that name huge sizes: refused before anything large is allocated."""

import json
import resource
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from lightning_cifar import ImageClassifier, InputError, load_pretrained, main
from lightning_cifar.model.named import build_network
from lightning_cifar.networks.published import list_names
from lightning_cifar.run.weights import check_network, read_weights, save_weights
from lightning_cifar.train.checkpoint import load_checkpoint, save_checkpoint

SIZES = {
    "widths": {"widths": [10**6] * 5},
    "members": {"members": 10**6},
    "small members": {"members": 10**6, "widths": [1] * 5, "hidden": 0},
    "classes": {"num_classes": 10**9},
    "kernels": {"kernel_sizes": [100_001, 1, 1]},
    "many kernels": {"kernel_sizes": [1] * 10**5},
    "depths": {"depths": [10**8] * 5},
    "small depths": {"depths": [10**8] * 5, "widths": [1] * 5},
    "hidden": {"hidden": 10**9},
    "stem": {"stem_kernel": 10**4},
    "flips": {"flip_equivariant": True, "stem_bias": False, "dirac": True, "widths": [10**8] * 5},
    "size": {"image_size": 10**6},
    "wide ResNet": {"network": "wide_resnet994_999"},
    "width of torchvision": {"network": "mobilenet_v2", "network_args": {"width_mult": 1e6}},
    "positions of torchvision": {"network": "vit_b_16", "network_args": {"image_size": 16 * 10**4}},
    "blocks of torchvision": {
        "network": "mobilenet_v2",
        "network_args": {"inverted_residual_setting": [[1, 16, 10**8, 1]]},
    },
    "RegNet": {"network": "regnet_y_128gf", "members": 10**6},
    "timm": {"network": "timm/resnet18", "network_args": {"base_width": 10**7}},
    "positions of timm": {"network": "timm/vit_tiny_patch16_224", "network_args": {"img_size": 16 * 10**4}},
}


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> Path:
    file = tmp_path_factory.mktemp("small") / "small.safetensors"
    save_weights(ImageClassifier(widths=[4, 4, 8, 8, 8]), file, "test")
    return file


@pytest.fixture
def limited_memory():
    """Let an allocation of more than 1 GB fail."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + (1 << 30), before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] if name.endswith("timm") else []) for name in SIZES]
)
def test_huge_sizes_are_refused_before_they_are_allocated(name, small, limited_memory):
    stored = read_weights(small)
    started = time.process_time()
    with pytest.raises(InputError, match=r"small\.safetensors holds no model") as caught:
        check_network(stored._replace(hyper_parameters=stored.hyper_parameters | SIZES[name]))
    assert time.process_time() - started < 10  # the first one imports timm
    assert "allocate" not in str(caught.value)


@pytest.mark.parametrize("command", ["predict", "export", "test", "validate", "fit"])
@pytest.mark.parametrize("suffix", [".ckpt", ".safetensors"])
def test_every_command_refuses_them(command, suffix, small, trained, drawn_folder, limited_memory, capsys):
    file = Path(f"crafted{suffix}")
    if suffix == ".ckpt":
        content = load_checkpoint(trained / "checkpoints/last.ckpt")
        content["hyper_parameters"]["widths"] = [10**6] * 5
        # A view of one number: the tensor has the size, the file does not.
        content["state_dict"] = {name: one.flatten()[:1].expand(10**9) for name, one in content["state_dict"].items()}
        save_checkpoint(content, file)
    else:
        stored = read_weights(small)
        content = {"hyper_parameters": stored.hyper_parameters | {"members": 10**6}, "known": stored.facts}
        save_file(stored.tensors, file, {name: json.dumps(value) for name, value in content.items()})
    more = {"export": ["--output", "x.onnx"], "predict": ["--images", str(drawn_folder)], "fit": ["--recipe", "demo"]}
    status = main([command, *more.get(command, []), "--ckpt_path", str(file)])
    (line,) = capsys.readouterr().err.splitlines()
    assert (status, f"{file} holds" in line) == (2, True), line
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    "metadata", [{"known": 5}, {"known": {}}, {"hyper_parameters": 5}, {"hyper_parameters": {"network": 5}}]
)
def test_metadata_of_another_kind_is_one_line(metadata, small, capsys):
    stored = read_weights(small)
    content = {"hyper_parameters": stored.hyper_parameters, "known": stored.facts} | metadata
    save_file(stored.tensors, "odd.safetensors", {name: json.dumps(value) for name, value in content.items()})
    status = main(["test", "--ckpt_path", "odd.safetensors", "--data.dataset", "digits"])
    assert (status, len(capsys.readouterr().err.splitlines())) == ((0, 0) if metadata == {"known": {}} else (2, 1))


@pytest.mark.parametrize(
    "network",
    [
        "wide_resnet10_1",
        *(
            pytest.param(name, marks=pytest.mark.slow)
            for name in ("shufflenet_v2_x0_5", "regnet_y_400mf", "timm/test_resnet")
        ),
    ],
)
def test_other_networks_are_read_as_before(network):
    model = ImageClassifier(network=network)
    save_weights(model, Path("whole.safetensors"), "test", half=True)
    assert load_pretrained("whole.safetensors").hparams == model.hparams


ONE_OF_EACH = ("convnext_tiny", "densenet121", "efficientnet_b0", "googlenet", "inception_v3", "maxvit_t")
ONE_OF_EACH += ("mnasnet1_0", "mobilenet_v3_small", "resnet18", "shufflenet_v2_x0_5", "swin_v2_t", "vgg11", "vit_b_32")


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=pytest.mark.slow if name in ONE_OF_EACH else pytest.mark.long) for name in list_names()],
)
def test_every_network_of_torchvision_is_built_without_memory(name):
    if not name.startswith("regnet_"):  # which read values while they are built
        size = {"vit_h_14": 28, "maxvit_t": 224}.get(name, 32)
        with torch.device("meta"):
            build_network(name, 10, {"image_size": size} if name.startswith("vit_") else None, size)
