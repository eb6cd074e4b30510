# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""What lies beside an exported model as JSON: everything that is needed to use it besides its graph.

| key | value |
|---|---|
| `format`, `file`, `cssfe` | `"onnx"` or `"torch_export"`, the model's file, version of this package |
| `input` | `"pixel_values"`, `(batch, channels, height, width)` fp32 |
| `outputs` | names in order: `logits` `(batch, C)`, then maps `(batch, C, H, W)` |
| `image_size`, `dynamic_image_size` | height and width exported for, and whether the graph takes others |
| `preprocessing` | `height`, `width` (px), `resample`, `rescale_factor`, `mean`, `std` (of values in [0, 1]) |
| `label_names`, `class_counts`, `groups` | of each class, in the order of the logits |
| `thresholds` | smallest sigmoid probability of each class that counts, or null: .5 |
| `calibration` | `[temperature, bias]` of each class, or null: probability = sigmoid(logit / temperature + bias) |
| `quantization` | `"none"`, `"dynamic"` or `"static"` |
| `differences` | largest difference of each output from the eager model's, in units of its largest value or 1 |
"""

from typing import TYPE_CHECKING, Any

from PIL.Image import Resampling

from ..version import __version__


if TYPE_CHECKING:
    from .torch_export import TracedModel

# Steps of image processors that an export has no words for.
_FOREIGN_STEPS = ("do_center_crop", "do_pad")
_RESAMPLING = {Resampling.BILINEAR: "bilinear", Resampling.BICUBIC: "bicubic"}


def with_image_size(processor: Any, image_size: int | None = None) -> dict[str, Any]:
    """The steps of an image processor as plain values.

    Args:
        processor: A `CSSFEImageProcessor`.
        image_size: Height and width in pixels, in place of the processor's own.

    Raises:
        ValueError: It does something else than resize, rescale and normalise, or the size is less than 1.
    """
    if image_size is not None and image_size < 1:
        raise ValueError(f"image_size is {image_size}; give a number of pixels >= 1.")
    foreign = [step for step in _FOREIGN_STEPS if getattr(processor, step, None)]
    missing = [step for step in ("do_resize", "do_rescale", "do_normalize") if not getattr(processor, step, None)]
    if foreign or missing:
        found = ", ".join([f"{step}=True" for step in foreign] + [f"{step}=False" for step in missing])
        raise ValueError(
            f"the image processor has {found}; an export resizes, rescales and normalises, no more or less."
        )
    if processor.resample not in _RESAMPLING:
        raise ValueError(
            f"the image processor resizes with {processor.resample!r}; an export can say "
            f"{', '.join(_RESAMPLING.values())} only."
        )
    size = processor.size
    if not size.get("height") or not size.get("width"):
        raise ValueError(f"the image processor has the size {size!r}; an export needs a height and a width.")
    return {
        "height": image_size or size["height"],
        "width": image_size or size["width"],
        "resample": _RESAMPLING[processor.resample],
        "rescale_factor": processor.rescale_factor,
        "mean": [float(value) for value in processor.image_mean],
        "std": [float(value) for value in processor.image_std],
    }


def describe_export(
    traced: "TracedModel",
    preprocessing: dict[str, Any],
    file: str,
    differences: dict[str, float],
    *,
    format: str,
    quantization: str = "none",
) -> dict[str, Any]:
    """The content of the JSON file; see the module for its keys.

    Args:
        traced: The model.
        preprocessing: What `with_image_size` returned.
        file: Name of the model's file.
        differences: Largest difference of each output from the eager model's.
        format: `"onnx"` or `"torch_export"`.
        quantization: `"none"`, `"dynamic"` or `"static"`.
    """
    config = traced.module.model.config
    return {
        "format": format,
        "file": file,
        "cssfe": __version__,
        "input": "pixel_values",
        "outputs": list(traced.output_names),
        "image_size": list(traced.image_size),
        "dynamic_image_size": traced.dynamic_image_size,
        "preprocessing": preprocessing,
        "label_names": config.label_names,
        "class_counts": None if config.class_counts is None else list(config.class_counts),
        "groups": config.groups,
        "thresholds": None if config.thresholds is None else [float(value) for value in config.thresholds],
        "calibration": None if config.class_calibration is None else [list(pair) for pair in config.class_calibration],
        "quantization": quantization,
        "differences": differences,
    }


__all__ = ["describe_export", "with_image_size"]
