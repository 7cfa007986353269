"""int8 ONNX: nearly the same predictions, on images that were not used for calibration."""

import re

import pytest
import torch

from lightning_cifar import CIFAR10DataModule, main
from lightning_cifar.commands.export.formats import open_onnx


@pytest.mark.slow
def test_int8_predicts_nearly_as_the_model(trained, tmp_path, capsys):
    import onnx

    file = tmp_path / "model.onnx"
    assert main(["export", "--ckpt_path", str(trained / "checkpoints/last.ckpt"), "--output", str(file), "--int8"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("exporting to onnx, which may take a minute\n")
    (share,) = re.findall(r"checked: int8, same class on ([\d.]+)% of 360 test images", out)
    assert float(share) >= 90
    proto = onnx.load(file)
    convolutions = [node for node in proto.graph.node if node.op_type == "Conv"]
    assert len(convolutions) == 15
    assert {node.op_type for node in proto.graph.node if node.output[0] in {one.input[0] for one in convolutions}} == {
        "DequantizeLinear"
    }
    assert sum(one.data_type == onnx.TensorProto.INT8 for one in proto.graph.initializer) >= 15
    assert ("recipe", '"demo"') in {(one.key, one.value) for one in proto.metadata_props}
    images = CIFAR10DataModule("digits").read().test.images
    assert all(torch.isfinite(open_onnx(file)(images[:size])).all() for size in (1, 2, 7))
