# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""The model's own class activation maps over photographs, before and after enhancement."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ..common.figures import check_figure_path, figure_style, new_figure, save_figure
from ..modeling_cssfe import CSSFEForImageClassification
from .kinds import explain_batch
from .overlays import check_alignment, draw_overlay, resize_maps


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
        ValueError: A label that the model does not have (the nearest is suggested), or a processor that crops.
    """
    check_alignment(processor)
    names = model.config.label_names
    targets = None if labels is None else [find_label(label, names) for label in labels]
    pixels = processor(images=image, return_tensors="pt")["pixel_values"].to(model.device)
    kinds = ["cam", "enhanced"] if model.config.uses_enhancement else ["cam"]
    found = explain_batch(model, pixels, kinds, targets, top_k=top_k)
    scores = found.logits[0].sigmoid().cpu()
    maps = {kind: resize_maps(values[0], (image.height, image.width)) for kind, values in found.maps.items()}
    return [
        LabelMaps(
            label=names[index],
            score=scores[index].item(),
            before=maps["cam"][row],
            after=maps["enhanced"][row] if "enhanced" in maps else None,
        )
        for row, index in enumerate(found.targets[0].tolist())
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
    check_figure_path(path)
    if not maps:
        raise ValueError("there are no maps to draw; name at least one label.")
    columns = 3 if maps[0].after is not None else 2
    shape = image.height / image.width
    with figure_style():
        figure = new_figure(3.6 * columns, (3.1 * shape + 0.5) * len(maps))
        axes = figure.subplots(len(maps), columns, squeeze=False)
        for row, entry in zip(axes, maps, strict=True):
            row[0].imshow(image)
            row[0].set_axis_off()
            row[0].set_title(f"{entry.label}: {entry.score:.2f}")
            panels = [(row[1], entry.before, "class activation map")]
            if entry.after is not None:
                panels.append((row[2], entry.after, "after enhancement"))
            for axis, values, title in panels:
                draw_overlay(axis, image, values)
                axis.set_title(title)
        save_figure(figure, path)


__all__ = ["LabelMaps", "compute_label_maps", "draw_label_maps", "find_label"]
