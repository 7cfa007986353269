"""int8 ONNX: nearly the same predictions, on images that were not used for calibration."""

import onnx
import pytest
import torch

from lightning_cifar import CIFAR10DataModule, ImageClassifier
from lightning_cifar.commands.export.formats import compare_outputs, open_onnx, write_onnx
from lightning_cifar.commands.export.quantise import quantise


@pytest.mark.slow
def test_int8_predicts_nearly_as_the_model(trained, tmp_path):
    model = ImageClassifier.load_from_checkpoint(trained / "checkpoints/last.ckpt").eval()
    data = CIFAR10DataModule("digits").read()
    file = tmp_path / "model.onnx"
    write_onnx(model, file, {"classes": ["0", "1"]})
    quantise(file, data.train.sample(100).images)
    found = compare_outputs(model, open_onnx(file), data.test.images, int8=True)
    assert found.passed
    assert found.difference > 0
    proto = onnx.load(file)
    convolutions = [node for node in proto.graph.node if node.op_type == "Conv"]
    assert len(convolutions) == 15
    assert {node.op_type for node in proto.graph.node if node.output[0] in {one.input[0] for one in convolutions}} == {
        "DequantizeLinear"
    }
    assert sum(one.data_type == onnx.TensorProto.INT8 for one in proto.graph.initializer) >= 15
    assert ("classes", '["0", "1"]') in {(one.key, one.value) for one in proto.metadata_props}
    assert all(torch.isfinite(open_onnx(file)(data.test.images[:size])).all() for size in (1, 2, 7))
