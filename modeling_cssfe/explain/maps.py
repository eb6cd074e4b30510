# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""The model's own class activation maps over photographs, before and after enhancement."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn import functional as F

from ..modeling_cssfe import CSSFEForImageClassification


if TYPE_CHECKING:
    from PIL import Image


@dataclass(frozen=True)
class LabelMaps:
    """Maps of one label on one image.

    Args:
        label: Class name.
        score: Probability of the label, in [0, 1].
        before: `(height, width)` class activation map at the image's size, fp32.
        after: The same after enhancement; `None` for net0 and net1, which do not enhance.
    """

    label: str
    score: float
    before: np.ndarray
    after: np.ndarray | None


@torch.no_grad()
def compute_label_maps(
    model: CSSFEForImageClassification,
    processor,
    image: "Image.Image",
    labels: Sequence[str] | None = None,
    top_k: int = 3,
) -> list[LabelMaps]:
    """Class activation maps of an image, resized to it.

    The processor resizes without cropping, so a map covers the whole image and bilinear upsampling puts every value
    where it belongs.

    Args:
        model: A trained model.
        processor: Its image processor.
        image: An RGB image.
        labels: Class names; `None` takes the `top_k` highest scores.
        top_k: How many labels without `labels`.

    Returns:
        One entry a label, in the order asked for or by falling score.

    Raises:
        ValueError: A label that the model does not have; the nearest is suggested.
    """
    names = model.config.label_names
    pixels = processor(images=image, return_tensors="pt")["pixel_values"].to(model.device)
    output = model.eval()(pixels)
    scores = output.logits[0].float().sigmoid().cpu()
    if labels is None:
        indices = scores.argsort(descending=True)[:top_k].tolist()
    else:
        indices = [find_label(label, names) for label in labels]
    size = (image.height, image.width)
    before = _resize(output.class_activation_maps[:, indices], size)
    after = (
        None if output.enhanced_activation_maps is None else _resize(output.enhanced_activation_maps[:, indices], size)
    )
    return [
        LabelMaps(
            label=names[index],
            score=scores[index].item(),
            before=before[row],
            after=None if after is None else after[row],
        )
        for row, index in enumerate(indices)
    ]


def find_label(label: str, names: Sequence[str]) -> int:
    """Index of a class name.

    Raises:
        ValueError: Unknown name; the nearest is suggested.
    """
    import difflib

    if label in names:
        return list(names).index(label)
    near = difflib.get_close_matches(label, names, n=1)
    mend = f"did you mean {near[0]!r}?" if near else f"the model knows {', '.join(names[:20])}."
    raise ValueError(f"unknown label {label!r}; {mend}")


def _resize(maps: torch.Tensor, size: tuple[int, int]) -> np.ndarray:
    # (1, labels, H, W) -> (labels, height, width)
    return F.interpolate(maps.float(), size=size, mode="bilinear", align_corners=False)[0].cpu().numpy()


def draw_label_maps(image: "Image.Image", maps: Sequence[LabelMaps], path: str | os.PathLike) -> None:
    """Draw image, map before and map after enhancement side by side, a row a label.

    Each map is scaled by its own largest magnitude, red above 0 and blue below (a pair that colour-blind readers tell
    apart), the fainter the nearer to 0; the scale bar beside it has the values. For net0 red speaks for the label and
    blue against it, as the logit is the map's mean. With `map_pooling="relu"` (preset `corrected`) the features of a
    class are gathered where its last map is red. With `"mean"` (`paper`, `released`) a map weighs features which the
    fusion block then reads, so either sign may stand on the object and the magnitude says where the model looks.

    Args:
        image: The photograph.
        maps: From `compute_label_maps`.
        path: `.png` or `.svg` file; written whole or not at all.

    Raises:
        ValueError: Another file ending, or no maps.
        SavingError: The file cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.cm import ScalarMappable
    from matplotlib.figure import Figure

    from ..training.run_folder import write_whole

    if not os.fspath(path).lower().endswith((".png", ".svg")):
        raise ValueError(f"cannot draw to {os.fspath(path)!r}; choose a .png or .svg file.")
    if not maps:
        raise ValueError("there are no maps to draw; name at least one label.")
    columns = 3 if maps[0].after is not None else 2
    shape = image.height / image.width
    figure = Figure(figsize=(3.6 * columns, (3.1 * shape + 0.5) * len(maps)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(maps), columns, squeeze=False)
    for row, entry in zip(axes, maps, strict=True):
        row[0].imshow(image)
        row[0].set_title(f"{entry.label}: {entry.score:.2f}")
        panels = [(row[1], entry.before, "class activation map")]
        if entry.after is not None:
            panels.append((row[2], entry.after, "after enhancement"))
        for axis, values, title in panels:
            top = max(float(np.abs(values).max()), 1e-6)
            axis.imshow(image.convert("L"), cmap="gray")
            # The weaker a map's value, the more of the photograph shows through.
            drawn = axis.imshow(values, cmap="RdBu_r", vmin=-top, vmax=top, alpha=np.abs(values) / top * 0.75)
            figure.colorbar(ScalarMappable(drawn.norm, drawn.cmap), ax=axis, fraction=0.046 * shape, pad=0.02)
            axis.set_title(title)
        for axis in row:
            axis.set_axis_off()
    write_whole(Path(path), lambda temporary: figure.savefig(temporary, dpi=110))


__all__ = ["LabelMaps", "compute_label_maps", "draw_label_maps", "find_label"]
