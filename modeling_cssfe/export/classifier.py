# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""Runs an exported CSSFE model with numpy, Pillow and onnxruntime; neither torch nor this package is needed.

`cssfe export` writes this file beside the model as `onnx_classifier.py`, and `image_decoding.py` with it:

    from onnx_classifier import CSSFEOnnxClassifier  # with the model's folder as the working directory or on the path

    classify = CSSFEOnnxClassifier("model.onnx")
    classify("photo.jpg", top_k=3)

Scores are those of `pipeline("image-classification")`: images are decoded by the same rules and resized by the same
integer arithmetic as torchvision's on 8-bit images. Pillow's own resize differs from that by one or two of 255 levels.
"""

import json
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from PIL import Image


if __package__:
    from ..data.decoding import decode_image
else:  # as a file of its own, beside the model
    from image_decoding import decode_image  # type: ignore[no-redef]

RESAMPLING = ("bilinear", "bicubic")
# Weights of a resize are 16-bit integers with as many fractional bits as fit, in torch at most 22.
_MAX_PRECISION = 22


class CSSFEOnnxClassifier:
    """An exported model as a function from images to labels.

    Args:
        path: The `.onnx` file; the `.json` of the same name lies beside it.
        num_threads: Threads of one inference; `None` for one a core.
        batch_size: Images of one inference, >= 1.

    Attributes:
        description: What the `.json` file says; its thresholds may be edited there.
        label_names: Class names, in the order of the logits.
        session: The `onnxruntime.InferenceSession`.

    Raises:
        FileNotFoundError: One of the two files is missing.
        ValueError: The files do not belong together, or a number is out of its range.
    """

    def __init__(self, path: str | os.PathLike, num_threads: int | None = None, batch_size: int = 8):
        model = Path(path)
        described = model.with_suffix(".json")
        for file in (model, described):
            if not file.is_file():
                raise FileNotFoundError(f"there is no {os.fspath(file)!r}; `cssfe export` writes both files together.")
        if batch_size < 1 or (num_threads is not None and num_threads < 1):
            raise ValueError(f"batch_size {batch_size} and num_threads {num_threads} must be >= 1.")
        self.description: dict[str, Any] = json.loads(described.read_text(encoding="utf-8"))
        self.label_names: list[str] = self.description["label_names"]
        self.batch_size = batch_size
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = num_threads or 0
        self.session = onnxruntime.InferenceSession(os.fspath(model), options, providers=["CPUExecutionProvider"])
        self.output_names = [output.name for output in self.session.get_outputs()]
        expected = self.session.get_outputs()[0].shape[-1]
        if expected != len(self.label_names):
            raise ValueError(
                f"{described.name} names {len(self.label_names)} classes and {model.name} has {expected}: they are of "
                "different exports; run `cssfe export` again."
            )
        self._limits = np.array(self.description["thresholds"] or [0.5] * len(self.label_names))

    def __call__(self, images: Any, top_k: int | None = None) -> list:
        """Classify images.

        Args:
            images: A path, the bytes of an image file, a Pillow image or a `(height, width, 3)` uint8 array; or a
                list of these.
            top_k: Labels given for each image; `None` for all.

        Returns:
            For one image a list of `{"label", "score", "above_threshold"}`, highest score first; for a list of images
            a list of such lists. Scores are sigmoid probabilities, and it is these that are compared with the
            threshold (.5 for a model without). A calibrated model adds `"probability"` to each.

        Raises:
            ValueError: An image cannot be decoded, or `top_k` is less than 1.
        """
        if top_k is not None and top_k < 1:
            raise ValueError(f"top_k is {top_k}; give a number >= 1, or None for all labels.")
        several = isinstance(images, list | tuple)
        rows = self.logits(images if several else [images])
        answers = [self._labels(row, top_k) for row in rows]
        return answers if several else answers[0]

    def logits(self, images: Sequence[Any]) -> np.ndarray:
        """Logits of any number of images, `(N, C)` fp32; memory holds one batch of pixels at a time."""
        parts = [
            self.run(self.preprocess(images[start : start + self.batch_size]))["logits"]
            for start in range(0, len(images), self.batch_size)
        ]
        return np.concatenate(parts) if parts else np.zeros((0, len(self.label_names)), np.float32)

    def run(self, pixel_values: np.ndarray) -> dict[str, np.ndarray]:
        """Run the model.

        Args:
            pixel_values: `(B, 3, height, width)` fp32, as `preprocess` returns them.

        Returns:
            `logits` `(B, C)`, `class_activation_maps` `(B, C, H, W)` and, for net2 and net3, `enhanced_activation_maps`
            `(B, C, H, W)`.
        """
        return dict(zip(self.output_names, self.session.run(None, {"pixel_values": pixel_values}), strict=True))

    def preprocess(self, images: Sequence[Any]) -> np.ndarray:
        """Images to pixel values `(B, 3, height, width)` fp32; see the function `preprocess`."""
        return preprocess(images, self.description["preprocessing"])

    def _labels(self, logits: np.ndarray, top_k: int | None) -> list[dict[str, Any]]:
        scores = _sigmoid(logits)
        above = scores >= self._limits
        calibration = self.description["calibration"]
        probabilities = None
        if calibration is not None:
            temperature, bias = np.array(calibration, np.float64).T
            probabilities = _sigmoid(logits.astype(np.float64) / temperature + bias)
        answer = []
        for index in np.argsort(-scores, kind="stable")[:top_k]:
            entry = {"label": self.label_names[index], "score": float(scores[index])}
            entry["above_threshold"] = bool(above[index])
            if probabilities is not None:
                entry["probability"] = float(probabilities[index])
            answer.append(entry)
        return answer


def preprocess(images: Sequence[Any], steps: dict[str, Any]) -> np.ndarray:
    """Decode, resize and normalise images, as the model's image processor does.

    Args:
        images: Paths, bytes of image files, Pillow images or `(height, width, 3)` uint8 arrays.
        steps: `preprocessing` of the JSON file beside a model.

    Returns:
        `(B, 3, height, width)` fp32.

    Raises:
        ValueError: An image cannot be decoded, or the model takes no RGB images.
    """
    height, width = steps["height"], steps["width"]
    # Folding the factor into both spares a product a pixel; the image processor does the same.
    mean = np.array(steps["mean"], np.float32) / np.float32(steps["rescale_factor"])
    std = np.array(steps["std"], np.float32) / np.float32(steps["rescale_factor"])
    if len(mean) != 3:
        raise ValueError(
            f"the model takes {len(mean)} channels, images have 3: pass pixel values of your own to `run`."
        )
    pixels = np.empty((len(images), 3, height, width), np.float32)
    for index, image in enumerate(images):
        opened = Image.fromarray(image) if isinstance(image, np.ndarray) else image
        resized = resize(np.asarray(decode_image(opened)), height, width, steps["resample"])
        pixels[index] = ((resized.astype(np.float32) - mean) / std).transpose(2, 0, 1)
    return pixels


def resize(pixels: np.ndarray, height: int, width: int, resample: str = "bilinear") -> np.ndarray:
    """Resize an 8-bit image with antialiasing, to the bit as torchvision does on an 8-bit tensor on a CPU.

    Args:
        pixels: `(rows, columns, channels)` uint8.
        height: Rows wanted.
        width: Columns wanted.
        resample: `"bilinear"` or `"bicubic"`.

    Returns:
        `(height, width, channels)` uint8.

    Raises:
        ValueError: Unknown `resample`.
    """
    if resample not in RESAMPLING:
        raise ValueError(f"unknown resample {resample!r}: choose one of {', '.join(RESAMPLING)}.")
    return _resize_axis(_resize_axis(pixels, 1, width, resample), 0, height, resample)


def _resize_axis(pixels: np.ndarray, axis: int, size: int, resample: str) -> np.ndarray:
    if pixels.shape[axis] == size:
        return pixels
    sources, weights, precision = _taps(pixels.shape[axis], size, resample)
    lines = np.moveaxis(pixels, axis, 0).astype(np.int32)
    total = np.full((size, *lines.shape[1:]), 1 << (precision - 1), np.int32)
    for source, weight in zip(sources.T, weights.T, strict=True):
        total += weight[:, None, None] * lines[source]
    return np.moveaxis(np.clip(total >> precision, 0, 255).astype(np.uint8), 0, axis)


def _taps(length: int, size: int, resample: str) -> tuple[np.ndarray, np.ndarray, int]:
    """For each of `size` results the lines that it is made of and their integer weights, both `(size, taps)`."""
    scale = length / size
    stretch = max(scale, 1.0)  # an image that is made smaller is averaged over
    support = (1.0 if resample == "bilinear" else 2.0) * stretch
    most = 2 * math.ceil(support) + 1
    sources = np.zeros((size, most), np.int64)
    weights = np.zeros((size, most))
    for index in range(size):
        center = scale * (index + 0.5)
        first = max(int(center - support + 0.5), 0)
        count = min(int(center + support + 0.5), length) - first
        count = min(count, most)
        distance = np.abs((np.arange(count) + first - center + 0.5) / stretch)
        kernel = np.clip(1 - distance, 0, None) if resample == "bilinear" else _cubic(distance)
        sources[index, :count] = first + np.arange(count)
        weights[index, :count] = kernel / kernel.sum()
    precision = 0
    while precision < _MAX_PRECISION and int(0.5 + weights.max() * (1 << (precision + 1))) < 1 << 15:
        precision += 1
    return sources, np.trunc(weights * (1 << precision) + np.copysign(0.5, weights)).astype(np.int32), precision


def _cubic(distance: np.ndarray) -> np.ndarray:
    """Keys' kernel with a = -.5, as Pillow and torch have it where they antialias."""
    near = (1.5 * distance - 2.5) * distance**2 + 1
    far = ((-0.5 * distance + 2.5) * distance - 4) * distance + 2
    return np.where(distance < 1, near, np.where(distance < 2, far, 0))


def _sigmoid(values: np.ndarray) -> np.ndarray:
    # The exponent is never positive, so nothing overflows.
    small = np.exp(-np.abs(values))
    return np.where(values >= 0, 1 / (1 + small), small / (1 + small))


__all__ = ["RESAMPLING", "CSSFEOnnxClassifier", "preprocess", "resize"]
