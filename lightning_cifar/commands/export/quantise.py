"""int8 quantisation of an ONNX file: convolutions and linear layers, static, by ONNX Runtime.

Static quantisation takes the ranges of activations from real images; dynamic quantisation, which takes them from each
batch, has no fast convolutions on a CPU. Weights are signed with a scale for each channel, activations unsigned: the
combination that processors multiply fast.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor

BATCH = 50


def quantise(file: Path, images: Tensor) -> None:
    """Replace an ONNX file in float32 by its int8 version, by a few hundred real images, uint8 (N, 3, H, W)."""
    from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Images(CalibrationDataReader):
        def __init__(self) -> None:
            self.batches = iter(images.split(BATCH))

        def get_next(self) -> dict[str, Any] | None:
            batch = next(self.batches, None)
            return None if batch is None else {"images": batch.numpy()}

    with silence_logs(logging.WARNING):  # about layers that stay in float32
        quant_pre_process(file, file, skip_symbolic_shape=True)
        quantize_static(
            file,
            file,
            Images(),
            op_types_to_quantize=["Conv", "Gemm"],
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            per_channel=True,
        )


@contextmanager
def silence_logs(level: int) -> Iterator[None]:
    """Hide log records of this level and below."""
    before = logging.root.manager.disable
    logging.disable(level)
    try:
        yield
    finally:
        logging.disable(before)
