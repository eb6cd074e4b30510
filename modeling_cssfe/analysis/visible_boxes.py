# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""Which boxes of an image a model is judged by: those of a class, within what its processor leaves of the image."""

from typing import Any

import numpy as np

from .boxes import ImageBoxes


DIFFICULT_RULES = ("include", "leave_out")


def boxes_of_class(boxes: ImageBoxes, name: str, fractions: np.ndarray, difficult: str = "include") -> np.ndarray:
    """The boxes of one class on one image.

    Args:
        boxes: Of the image.
        name: The class.
        fractions: `boxes.fractions(...)`, or these after a crop.
        difficult: `"include"`: objects marked difficult count as any other, as they do for the labels of the field's
            benchmarks. `"leave_out"`: they are no targets; a class that has no other on an image is not judged there.

    Returns:
        fp64 `(n, 4)`, perhaps of no row.
    """
    rows = [
        index
        for index, own in enumerate(boxes.names)
        if own == name and (difficult == "include" or not boxes.difficult[index])
    ]
    return fractions[rows]


def visible_boxes(fractions: np.ndarray, window: tuple[float, float, float, float]) -> np.ndarray:
    """Boxes of an image as fractions of the window of it that a model sees; boxes outside of it are left out.

    Args:
        fractions: fp64 `(n, 4)` of the image.
        window: From `visible_window`.
    """
    x0, y0, x1, y1 = window
    moved = (fractions - (x0, y0, x0, y0)) / (x1 - x0, y1 - y0, x1 - x0, y1 - y0)
    moved = np.clip(moved, 0, 1)
    return moved[(moved[:, 2:] > moved[:, :2]).all(axis=1)]


def visible_window(processor: Any, width: int, height: int) -> tuple[float, float, float, float]:
    """The part of an image that its processor leaves, as fractions x0, y0, x1, y1.

    CSSFE's processor stretches the whole image; those of other models may shrink the shorter side and cut out the
    centre.

    Args:
        processor: A Hugging Face image processor.
        width: Of the image, in pixels.
        height: Likewise.
    """
    if not getattr(processor, "do_center_crop", None):
        return (0.0, 0.0, 1.0, 1.0)
    size = dict(processor.size) if getattr(processor, "do_resize", True) else {"height": height, "width": width}
    if size.get("shortest_edge"):
        scale = size["shortest_edge"] / min(width, height)
        resized = (int(width * scale), int(height * scale))
    else:
        resized = (size["width"], size["height"])
    crop = dict(processor.crop_size)
    ends = []
    for side, wanted in zip(resized, (crop["width"], crop["height"]), strict=True):
        # A crop larger than the image pads it, which the window beyond [0, 1] says.
        start = (side - wanted) // 2
        ends.append((start / side, (start + wanted) / side))
    return (ends[0][0], ends[1][0], ends[0][1], ends[1][1])


__all__ = ["DIFFICULT_RULES", "boxes_of_class", "visible_boxes", "visible_window"]
