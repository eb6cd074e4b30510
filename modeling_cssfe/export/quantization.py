# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""8-bit ONNX models by onnxruntime's own quantiser."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from .torch_export import ExportError, first_line, quiet


# Layers with weights. Dynamic quantisation leaves convolutions alone, for which onnxruntime has no fast kernel.
DYNAMIC_OPERATORS = ("MatMul", "Gemm")
STATIC_OPERATORS = ("Conv", "MatMul", "Gemm")
CALIBRATION_SEED = 0
_BATCH = 8


def load_calibration_pixels(data: Any, preprocessing: dict[str, Any], num_images: int) -> np.ndarray:
    """Pixel values of images drawn at random (seed 0) from a data set.

    Args:
        data: What `load_images` accepts, or a data set with an `image` column. Of several splits `train` is taken, else
            the first.
        preprocessing: As the JSON file beside an export has it.
        num_images: Images drawn; fewer if there are fewer.

    Returns:
        `(N, 3, height, width)` fp32.

    Raises:
        ValueError: There is no such data, it is empty, or an image cannot be decoded.
    """
    import datasets

    from ..data import load_images
    from .classifier import preprocess

    if not isinstance(data, datasets.Dataset):
        splits = load_images(data)
        data = splits["train"] if "train" in splits else next(iter(splits.values()))
    data = data.cast_column("image", datasets.Image(decode=False))
    if len(data) == 0:
        raise ValueError("the calibration data holds no images; give some.")
    chosen = np.random.default_rng(CALIBRATION_SEED).permutation(len(data))[:num_images]
    return preprocess([data[int(index)]["image"] for index in chosen], preprocessing)


def quantize_onnx(source: str | os.PathLike, target: str | os.PathLike, pixels: np.ndarray | None = None) -> Path:
    """Quantise an fp32 ONNX model to 8 bits.

    Weights are signed with a scale for each channel, activations unsigned; products of two activations (pooling and
    attention) stay in fp32, as does all that has no weights.

    Args:
        source: The fp32 model.
        target: File to write.
        pixels: `(N, channels, height, width)` fp32 images from which static quantisation takes the range of each
            activation (its least and greatest value); `None` for dynamic quantisation, which finds it image by image.

    Returns:
        `target`.

    Raises:
        ExportError: onnxruntime cannot quantise the model.
    """
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_dynamic, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    source, target = Path(source), Path(target)
    prepared = target.with_name(f"prepared-{target.name}")
    options = {"MatMulConstBOnly": True}
    try:
        with quiet():
            # Folds normalisation into convolutions and constants into one; shapes are those that torch wrote.
            quant_pre_process(os.fspath(source), os.fspath(prepared), skip_symbolic_shape=True)
            if pixels is None:
                quantize_dynamic(
                    prepared,
                    target,
                    op_types_to_quantize=list(DYNAMIC_OPERATORS),
                    per_channel=True,
                    weight_type=QuantType.QInt8,
                    extra_options=options,
                )
            else:
                quantize_static(
                    prepared,
                    target,
                    _reader(pixels),
                    quant_format=QuantFormat.QDQ,
                    op_types_to_quantize=list(STATIC_OPERATORS),
                    per_channel=True,
                    activation_type=QuantType.QUInt8,
                    weight_type=QuantType.QInt8,
                    extra_options=options,
                )
    except Exception as error:
        raise ExportError(f"onnxruntime cannot quantise the model: {first_line(error)}") from error
    finally:
        prepared.unlink(missing_ok=True)
    return target


def _reader(pixels: np.ndarray) -> Any:
    """Batches of images as onnxruntime's calibration asks for them."""
    from onnxruntime.quantization import CalibrationDataReader

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.batches: Iterator[np.ndarray] = iter(np.array_split(pixels, -(-len(pixels) // _BATCH)))

        def get_next(self) -> dict[str, np.ndarray] | None:
            batch = next(self.batches, None)
            return None if batch is None else {"pixel_values": batch}

    return Reader()


__all__ = [
    "CALIBRATION_SEED",
    "DYNAMIC_OPERATORS",
    "STATIC_OPERATORS",
    "load_calibration_pixels",
    "quantize_onnx",
]
