"""int8 of an ONNX file: static quantisation of its convolutions and linear layers by ONNX Runtime.

Static, by the ranges that real images give: dynamic quantisation, which takes them from each batch, has no fast
convolutions on a CPU. Weights are signed, with a scale for each channel; activations unsigned, which is what
processors multiply fast.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor

BATCH = 50


def quantise(file: Path, images: Tensor) -> None:
    """Puts the int8 form in the place of an ONNX file.

    Args:
        file: as `export` writes it.
        images: uint8 (N, 3, 32, 32), a few hundred real ones.
    """
    from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Images(CalibrationDataReader):
        def __init__(self) -> None:
            self.batches = iter(images.split(BATCH))

        def get_next(self) -> dict[str, Any] | None:
            batch = next(self.batches, None)
            return None if batch is None else {"images": batch.numpy()}

    with quiet():
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
def quiet() -> Iterator[None]:
    """Without what the tools remark on layers that stay as they are."""
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)
