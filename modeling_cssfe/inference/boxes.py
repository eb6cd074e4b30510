# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""Boxes from class activation maps, after Zhou et al., "Learning Deep Features for Discriminative Localization", CVPR
2016, section 3.2: threshold the map, and box the largest connected part.

Which values of a map say "here" depends on how the model pools features with it:

| model | evidence |
|---|---|
| net0, whose logit is the map's mean | values above 0 |
| `map_pooling="relu"` (preset `corrected`) | values above 0: the rest lends the class no features |
| `map_pooling="mean"` (`paper`, `released`) | the magnitude: either sign may stand on the object |
| `map_pooling="softmax"` | `exp(value - largest)`, the weights of its softmax |

A box says where the model looked, and is no detector's: the maps are trained with image labels alone, two objects that
touch are one box, and of two that do not, the larger one is boxed.
"""

import torch
from torch.nn import functional as F

from ..configuration_cssfe import CSSFEConfig


Box = tuple[float, float, float, float]
OTSU = "otsu"
# The map is enlarged by this before it is cut, which places edges to an eighth of a map cell at no size of the image.
_FINER = 8
_BINS = 256


def check_box_threshold(threshold: str | float) -> str | float:
    """Return `"otsu"` or a share of the peak as a number.

    Raises:
        ValueError: Neither.
    """
    if threshold == OTSU:
        return OTSU
    try:
        share = float(threshold)
    except ValueError:
        share = 0.0
    if not 0 < share < 1:
        raise ValueError(f"box_threshold is {threshold!r}; give 'otsu' or a share of the map's peak between 0 and 1.")
    return share


def map_evidence(maps: torch.Tensor, config: CSSFEConfig) -> torch.Tensor:
    """Non-negative evidence from maps, by this module's table.

    Args:
        maps: `(..., H, W)` maps of classes, enhanced if the model enhances.
        config: Of the model.

    Returns:
        fp32 of the same shape.
    """
    maps = maps.float()
    if not config.uses_fusion or config.map_pooling == "relu":
        return maps.clamp_min(0)
    if config.map_pooling == "mean":
        return maps.abs()
    return (maps - maps.amax(dim=(-2, -1), keepdim=True)).exp()


def find_box(evidence: torch.Tensor, image_size: tuple[int, int], threshold: str | float = OTSU) -> Box | None:
    """Box the largest connected part of a map that is above a threshold.

    Args:
        evidence: `(H, W)`, >= 0.
        image_size: Width and height of the image in pixels, which the map covers as a whole.
        threshold: `"otsu"` (Otsu, "A Threshold Selection Method from Gray-Level Histograms", 1979), or a share of the
            peak in (0, 1); .2 in Zhou et al.

    Returns:
        `(x_min, y_min, x_max, y_max)` in pixels of the upright image, where (0, 0) is the upper left corner of its
        first pixel and (width, height) the lower right corner of its last; the whole image for a map of one value;
        `None` where there is no evidence at all.
    """
    from scipy import ndimage

    rows, columns = (side * _FINER for side in evidence.shape)
    fine = F.interpolate(evidence[None, None].float(), size=(rows, columns), mode="bilinear", align_corners=False)[0, 0]
    low, high = fine.min().item(), fine.max().item()
    if not high > 0:
        return None
    limit = otsu_threshold(fine) if threshold == OTSU else float(threshold) * high
    mask = (fine >= limit) if high > low else torch.ones_like(fine, dtype=torch.bool)
    parts, _ = ndimage.label(mask.cpu().numpy())
    sizes = torch.from_numpy(parts).flatten().bincount()
    y, x = ndimage.find_objects(parts)[int(sizes[1:].argmax())]
    across, down = image_size[0] / columns, image_size[1] / rows
    return (x.start * across, y.start * down, x.stop * across, y.stop * down)


def otsu_threshold(values: torch.Tensor) -> float:
    """The value that parts others into two classes with the largest variance between them.

    Args:
        values: Any shape; not all the same.

    Returns:
        A bin's lower edge (256 bins from the smallest value to the largest): those from it upwards are the upper class.
    """
    values = values.flatten().double().cpu()
    low, high = values.min().item(), values.max().item()
    counts = torch.histc(values, _BINS, low, high)
    edges = torch.linspace(low, high, _BINS + 1, dtype=torch.float64)
    centres = (edges[:-1] + edges[1:]) / 2
    below, moment = counts.cumsum(0)[:-1], (counts * centres).cumsum(0)
    above = counts.sum() - below
    between = below * above * (moment[:-1] / below - (moment[-1] - moment[:-1]) / above) ** 2
    return edges[1:][between.argmax()].item()


__all__ = ["OTSU", "Box", "check_box_threshold", "find_box", "map_evidence", "otsu_threshold"]
