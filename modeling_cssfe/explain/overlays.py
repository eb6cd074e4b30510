# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""A map over its photograph, in colours that colour-blind readers tell apart.

The photograph is grey, and the nearer a value is to 0, the more of it shows through. Signed maps are red above 0 and
blue below; maps without negative values run through viridis. Values that are not finite show nothing.
"""

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.nn import functional as F


if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from PIL import Image

SIGNED_COLORS = "RdBu_r"
POSITIVE_COLORS = "viridis"
_COVER = 0.75  # of the photograph, by the largest value


def resize_maps(maps: torch.Tensor, size: tuple[int, int]) -> np.ndarray:
    """Bring maps to the size of an image that they cover from edge to edge.

    Bilinear between the centres of the positions, which is where a map of a resized, uncropped image belongs.

    Args:
        maps: `(K, H, W)`.
        size: (height, width) in pixels.

    Returns:
        `(K, height, width)`, fp32.
    """
    return F.interpolate(maps[None].float(), size=size, mode="bilinear", align_corners=False)[0].cpu().numpy()


def check_alignment(processor: Any) -> None:
    """Check that an image processor shows the model the whole image and nothing else.

    Raises:
        ValueError: It crops or pads, so that maps would not lie on the image.
    """
    for option in ("do_center_crop", "do_pad"):
        if getattr(processor, option, None):
            raise ValueError(
                f"the image processor has {option}=True, so maps would not lie on the image; turn it off, and let it "
                "resize to the model's size."
            )


def largest_magnitude(values: np.ndarray) -> float:
    """Largest absolute finite value, which a colour scale ends at; 0 where there is none."""
    finite = np.abs(values[np.isfinite(values)])
    return float(finite.max()) if finite.size else 0.0


def describe_emptiness(values: np.ndarray) -> str | None:
    """Why a map shows nothing, in a few words; `None` where it shows something."""
    if not np.isfinite(values).all():
        share = 1 - np.isfinite(values).mean()
        return "NaN or infinite" if share == 1 else f"NaN or infinite in {share:.0%}"
    return "0 everywhere" if largest_magnitude(values) == 0 else None


def overlay(image: "Image.Image", values: np.ndarray, signed: bool = True, top: float | None = None) -> "Image.Image":
    """Lay a map over a photograph.

    Args:
        image: RGB, width x height.
        values: `(height, width)` map; see `resize_maps`.
        signed: Whether the scale is from -top to top (else from 0 to top).
        top: End of the scale; `None` for the map's largest magnitude.

    Returns:
        RGB image of the same size.

    Raises:
        ValueError: The two differ in size.
    """
    from PIL import Image

    if values.shape != (image.height, image.width):
        raise ValueError(f"the map has {values.shape}, the image {(image.height, image.width)}; see resize_maps.")
    layer = _color_layer(values, signed, largest_magnitude(values) if top is None else top)
    grey = np.asarray(image.convert("L"), dtype=np.float64)[..., None] / 255
    mixed = layer[..., 3:] * layer[..., :3] + (1 - layer[..., 3:]) * grey
    return Image.fromarray((255 * mixed).round().astype(np.uint8))


def draw_overlay(
    axis: "Axes", image: "Image.Image", values: np.ndarray, signed: bool = True, top: float | None = None
) -> None:
    """Draw a map over a photograph on an axis, with the scale beside it; arguments as for `overlay`.

    A map that shows nothing is said to be so on the picture.
    """
    from matplotlib import colormaps
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize
    from matplotlib.ticker import ScalarFormatter

    top = largest_magnitude(values) if top is None else top
    axis.imshow(image.convert("L"), cmap="gray", vmin=0, vmax=255)
    axis.imshow(_color_layer(values, signed, top))
    axis.set_axis_off()
    note = describe_emptiness(values)
    if note is not None:
        box = {"facecolor": "white", "alpha": 0.85, "edgecolor": "none"}
        axis.text(0.5, 0.5, note, transform=axis.transAxes, ha="center", va="center", fontsize=9, bbox=box)
    if top > 0 and axis.figure is not None:
        scale = ScalarMappable(
            Normalize(-top if signed else 0, top), colormaps[SIGNED_COLORS if signed else POSITIVE_COLORS]
        )
        digits = ScalarFormatter()
        digits.set_powerlimits((-2, 3))
        bar = axis.figure.colorbar(scale, ax=axis, fraction=0.046 * image.height / image.width, pad=0.02, format=digits)
        bar.ax.tick_params(labelsize=7)
        bar.ax.yaxis.get_offset_text().set_fontsize(7)


def _color_layer(values: np.ndarray, signed: bool, top: float) -> np.ndarray:
    # (height, width) -> (height, width, 4): colour and cover in [0, 1]
    from matplotlib import colormaps

    strength = np.clip(np.nan_to_num(values, nan=0.0, posinf=0.0, neginf=0.0) / (top or 1.0), -1, 1)
    if not signed:
        strength = strength.clip(min=0)
    layer = np.array(colormaps[SIGNED_COLORS]((strength + 1) / 2) if signed else colormaps[POSITIVE_COLORS](strength))
    layer[..., 3] = _COVER * np.abs(strength)
    return layer


__all__ = [
    "check_alignment",
    "describe_emptiness",
    "draw_overlay",
    "largest_magnitude",
    "overlay",
    "resize_maps",
]
