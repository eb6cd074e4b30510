# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""Boxes of LT-Digits: a scene follows from its seed, so where its digits stand can be worked out again."""

from collections.abc import Collection

import numpy as np

from .boxes import ImageBoxes


def lt_digits_boxes(split: str, image_ids: Collection[str]) -> dict[str, ImageBoxes]:
    """Boxes of the scenes that `load_images("lt_digits")` gives.

    Args:
        split: `train`, `validation` or `test`.
        image_ids: Scenes wanted, such as `test-0003`.

    Returns:
        Boxes by image id, every digit of a scene with one: the extent of its ink.

    Raises:
        ValueError: LT-Digits has no such split.
    """
    from ..data.builders.lt_digits import CANVAS, LABEL_NAMES, draw_scenes

    return {
        scene.image_id: ImageBoxes(
            names=tuple(LABEL_NAMES[label] for label in scene.labels),
            corners=scene.boxes,
            difficult=np.zeros(len(scene.labels), dtype=bool),
            size=(CANVAS, CANVAS),
            where=f"lt_digits, image {scene.image_id!r}",
        )
        for scene in draw_scenes(split, image_ids=image_ids)
    }


__all__ = ["lt_digits_boxes"]
