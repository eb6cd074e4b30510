# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""How well a map agrees with the boxes of its class.

Maps are `(P, H, W)`, a map a row; boxes are fractions of the image, `(x0, y0, x1, y1)` from the upper left corner.
A map that has no highest place (it is constant, or not finite) finds nothing: it scores 0 in all three measures.
"""

from collections.abc import Sequence

import numpy as np


def positions(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Centres of a map's positions as fractions of the image: y `(height,)` and x `(width,)`."""
    return (np.arange(height) + 0.5) / height, (np.arange(width) + 0.5) / width


def is_flat(maps: np.ndarray) -> np.ndarray:
    """Whether a map points nowhere: it is constant or has a value that is not finite; bool `(P,)`."""
    flat = ~np.isfinite(maps).all(axis=(1, 2))
    return flat | (maps.max(axis=(1, 2)) == maps.min(axis=(1, 2)))


def pointing_hits(maps: np.ndarray, boxes: Sequence[np.ndarray], tolerance: float = 0.0) -> np.ndarray:
    """The pointing game: whether the centre of a map's highest position lies in a box.

    Source: J. Zhang et al., "Top-Down Neural Attention by Excitation Backprop", IJCV 2018, section 4.1, which allows
    15 pixels of tolerance; here it is 0 unless asked for.

    Args:
        maps: `(P, H, W)`.
        boxes: For each map its boxes, `(n, 4)`.
        tolerance: Boxes are widened by this fraction of the image's sides.

    Returns:
        fp64 `(P,)`, 1 for a hit and 0 for a miss.
    """
    y, x = positions(*maps.shape[1:])
    highest = np.nan_to_num(maps, nan=-np.inf).reshape(len(maps), -1).argmax(axis=1)
    rows, columns = np.divmod(highest, maps.shape[2])
    hits = np.zeros(len(maps))
    for index, own in enumerate(boxes):
        inside_x = (own[:, 0] - tolerance <= x[columns[index]]) & (x[columns[index]] <= own[:, 2] + tolerance)
        inside_y = (own[:, 1] - tolerance <= y[rows[index]]) & (y[rows[index]] <= own[:, 3] + tolerance)
        hits[index] = float((inside_x & inside_y).any())
    return np.where(is_flat(maps), 0.0, hits)


def box_masks(boxes: Sequence[np.ndarray], height: int, width: int) -> np.ndarray:
    """Positions whose centre lies in one of a map's boxes, bool `(P, height, width)`."""
    y, x = positions(height, width)
    masks = np.zeros((len(boxes), height, width), dtype=bool)
    for mask, own in zip(masks, boxes, strict=True):
        for x0, y0, x1, y1 in own:
            mask |= ((y0 <= y) & (y <= y1))[:, None] & ((x0 <= x) & (x <= x1))[None, :]
    return masks


def energy_inside(maps: np.ndarray, masks: np.ndarray) -> np.ndarray:
    """Share of a map's positive values that lies inside the boxes.

    Source: H. Wang et al., "Score-CAM", CVPR Workshops 2020, section 4.3 (energy-based pointing game). The share of the
    image that the boxes cover is what a map without any information would get.

    Args:
        maps: `(P, H, W)`.
        masks: From `box_masks`.

    Returns:
        fp64 `(P,)` in [0, 1]; 0 for a map without a positive value.
    """
    positive = np.clip(np.nan_to_num(maps.astype(np.float64), posinf=0.0, neginf=0.0), 0, None)
    total = positive.sum(axis=(1, 2))
    inside = (positive * masks).sum(axis=(1, 2))
    share = np.divide(inside, total, out=np.zeros(len(maps)), where=total > 0)
    return np.where(is_flat(maps), 0.0, share)


def best_overlaps(maps: np.ndarray, boxes: Sequence[np.ndarray], thresholds: Sequence[float]) -> np.ndarray:
    """Best overlap (intersection over union) of a box drawn around the map with a box of the class.

    A map is stretched to [0, 1], cut off at each threshold, and every connected part of what is left (over edges and
    corners) gets its tight box; the best pair counts.

    Source: J. Choe et al., "Evaluating Weakly Supervised Object Localization Methods Right", CVPR 2020, section 4.1, as
    their extended "Evaluation for Weakly Supervised Object Localization: Protocol, Metrics, and Datasets" (arXiv
    2007.04178) has it: MaxBoxAccV2.

    Args:
        maps: `(P, H, W)`.
        boxes: For each map its boxes, `(n, 4)`.
        thresholds: T values in (0, 1].

    Returns:
        fp64 `(P, T)` in [0, 1].
    """
    from scipy import ndimage

    height, width = maps.shape[1:]
    found = np.zeros((len(maps), len(thresholds)))
    for index in np.flatnonzero(~is_flat(maps)).tolist():
        values = maps[index].astype(np.float64)
        values = (values - values.min()) / (values.max() - values.min())
        for column, threshold in enumerate(thresholds):
            parts, _ = ndimage.label(values >= threshold, structure=np.ones((3, 3)))
            drawn = np.array(
                [
                    (part[1].start / width, part[0].start / height, part[1].stop / width, part[0].stop / height)
                    for part in ndimage.find_objects(parts)
                ]
            )
            found[index, column] = overlaps(drawn, boxes[index]).max(initial=0.0)
    return found


def overlaps(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Intersection over union of every pair of boxes, fp64 `(n, m)`."""
    low = np.maximum(first[:, None, :2], second[None, :, :2])
    high = np.minimum(first[:, None, 2:], second[None, :, 2:])
    shared = np.clip(high - low, 0, None).prod(axis=2)
    areas = [(boxes[:, 2:] - boxes[:, :2]).prod(axis=1) for boxes in (first, second)]
    return shared / (areas[0][:, None] + areas[1][None, :] - shared)


__all__ = ["best_overlaps", "box_masks", "energy_inside", "is_flat", "overlaps", "pointing_hits", "positions"]
