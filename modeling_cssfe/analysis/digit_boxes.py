# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""Boxes of LT-Digits: a scene follows from its seed, so where its digits stand can be worked out again.

The builder keeps labels alone. Here its random numbers are drawn once more, in the same order, without painting; a
digit's box is the extent of its ink.
"""

import numpy as np

from .boxes import ImageBoxes


def lt_digits_boxes(split: str, image_ids: set[str]) -> dict[str, ImageBoxes]:
    """Boxes of the scenes that `load_images("lt_digits")` gives.

    Args:
        split: `train`, `validation` or `test`.
        image_ids: Scenes wanted, such as `test-0003`.

    Returns:
        Boxes by image id, every digit of a scene with one.

    Raises:
        ValueError: LT-Digits has no such split.
    """
    from sklearn.datasets import load_digits

    from ..data.builders import lt_digits as builder

    if split not in builder._SPLITS:
        raise ValueError(f"lt_digits has no split {split!r}; it has {', '.join(builder._SPLITS)}.")
    config = builder.LTDigitsConfig()
    source = load_digits()
    glyphs = source.images / 16.0
    code = builder._SPLITS.index(split)
    pools = builder._source_pools(source.target, config.seed)[code]
    if split == "train":
        counts = tuple(config.train_counts)
        images = max(max(counts), round(sum(counts) / builder._LABELS_PER_IMAGE))
    else:
        images = config.validation_images if split == "validation" else config.test_images
        counts = (round(images * builder._LABELS_PER_IMAGE / len(builder.LABEL_NAMES)),) * len(builder.LABEL_NAMES)
    found = {}
    drawn = builder._draw_labels(builder._generator(config.seed, code), counts, images)
    for index, labels in enumerate(drawn):
        image_id = f"{split}-{index:04d}"
        if image_id in image_ids:
            corners = _scene_boxes(builder._generator(config.seed, code, 1 + index), labels, pools, glyphs)
            found[image_id] = ImageBoxes(
                names=tuple(builder.LABEL_NAMES[label] for label in labels),
                corners=corners,
                difficult=np.zeros(len(labels), dtype=bool),
                size=(builder.CANVAS, builder.CANVAS),
                where=f"lt_digits, image {image_id!r}",
            )
    return found


def _scene_boxes(rng: np.random.Generator, labels, pools: list[np.ndarray], glyphs: np.ndarray) -> np.ndarray:
    """Draw what the builder's `_draw_scene` draws, in its order; fp64 `(n, 4)` corners in pixels."""
    from ..data.builders import lt_digits as builder

    between, below = builder._between, builder._below
    _, ground = builder._background(rng)
    for _ in range(below(rng, 3)):
        builder._stroke(rng)
        builder._tint(rng, ground)
        between(rng, 0.3, 0.8)
    for _ in range(below(rng, 3)):
        pool = pools[below(rng, len(pools))]
        fragment = builder._fragment(rng, glyphs[pool[below(rng, len(pool))]])
        size = between(rng, 16, 26)
        left, top = between(rng, 0, builder.CANVAS - size), between(rng, 0, builder.CANVAS - size)
        builder._glyph_mask(rng, fragment, size, left, top)
        builder._tint(rng, ground)
        between(rng, 0.5, 0.9)
    placed: list[tuple[float, float, float]] = []
    corners = []
    for label in labels:
        pool = pools[label]
        glyph = glyphs[pool[below(rng, len(pool))]]
        size = between(rng, 32, 54)
        left, top = builder._free_place(rng, size, placed)
        placed.append((left, top, size))
        (rows, columns), mask = builder._glyph_mask(rng, glyph, size, left, top)
        builder._tint(rng, ground)
        between(rng, 0.6, 1.0)
        inked_rows, inked_columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        corners.append(
            (
                columns.start + inked_columns[0],
                rows.start + inked_rows[0],
                columns.start + inked_columns[-1] + 1,
                rows.start + inked_rows[-1] + 1,
            )
        )
    return np.array(corners, dtype=np.float64)


__all__ = ["lt_digits_boxes"]
