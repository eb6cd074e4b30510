# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""Test-time augmentation: several views of an image, whose probabilities are averaged.

Test-time ensembling is part of CapNet (Tang et al., "Unleashing the Power of Vision-Language Models for Long-Tailed
Multi-Label Visual Recognition", 2025), in the tradition of LIFT (Shi et al., "Long-Tail Learning with Foundation
Model", ICML 2024), whose five crops are 224 of 248 pixels wide and high.

| name | adds |
|---|---|
| `five_crop` | the four corners and the centre, 224/248 of the width and of the height |
| `multi_scale` | the whole image at about .75 and 1.25 times the model's size, in whole cells of its feature map |
| `flip` | the mirror image of every view, those of the other two included |

So all three together are 16 views. The whole image is always among them, unlike in LIFT: a crop cuts labels off, and
these models were trained on images that are resized without cropping. The score is the plain mean of the views'
sigmoids.
"""

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image


if TYPE_CHECKING:
    from ..modeling_cssfe import CSSFEForImageClassification

AUGMENTATIONS = ("flip", "five_crop", "multi_scale")
CROP_SHARE = 224 / 248
SCALES = (0.75, 1.25)


@dataclass(frozen=True)
class Views:
    """What is made of one image.

    Attributes:
        processor: The model's image processor.
        five_crop: Whether five crops are added to the whole image.
        sizes: Further (height, width), in pixels, of the whole image.
        flip: Whether mirror images are added; `compute_probabilities` makes them where the model is.
    """

    processor: Any
    five_crop: bool = False
    sizes: tuple[tuple[int, int], ...] = ()
    flip: bool = False

    def __call__(self, image: Image.Image) -> list[torch.Tensor]:
        """Return the views, `(views, 3, height, width)`, a tensor for each size; the first is the whole image."""
        images = [image, *five_crops(image)] if self.five_crop else [image]
        views = [self.processor(images=images, return_tensors="pt")["pixel_values"]]
        for height, width in self.sizes:
            size = {"height": height, "width": width}
            views.append(self.processor(images=[image], size=size, return_tensors="pt")["pixel_values"])
        return views


def build_views(names: Sequence[str], model: "CSSFEForImageClassification", processor) -> Views:
    """Views by name.

    Args:
        names: From `AUGMENTATIONS`; none for the image as it is.
        model: Gives the sizes of `multi_scale`, and is tried on them.
        processor: Its image processor.

    Raises:
        ValueError: An unknown name, or a model that takes one image size only.
    """
    for name in names:
        if name not in AUGMENTATIONS:
            near = difflib.get_close_matches(str(name), AUGMENTATIONS, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise ValueError(f"unknown test-time augmentation {name!r}; choose from {', '.join(AUGMENTATIONS)}.{hint}")
    sizes = other_sizes(model) if "multi_scale" in names else ()
    return Views(processor, "five_crop" in names, sizes, "flip" in names)


def five_crops(image: Image.Image) -> list[Image.Image]:
    """Corners (top left, top right, bottom left, bottom right) and centre."""
    width, height = (max(1, round(CROP_SHARE * side)) for side in image.size)
    right, bottom = image.width - width, image.height - height
    corners = [(0, 0), (right, 0), (0, bottom), (right, bottom), (right // 2, bottom // 2)]
    return [image.crop((left, top, left + width, top + height)) for left, top in corners]


def other_sizes(model: "CSSFEForImageClassification") -> tuple[tuple[int, int], ...]:
    """Sizes of `multi_scale`: (height, width) in pixels, whole cells of the feature map, at least one cell away.

    Raises:
        ValueError: The model does not take one of them, or its map is a single cell.
    """
    image_size, map_size = model.config.image_height_and_width, model.cssfe.backbone.map_size
    sizes = []
    for scale in SCALES:
        # Down for smaller and up for larger: a map of two cells would round back to its own size.
        cells = [int(scale * side) if scale < 1 else -int(-scale * side // 1) for side in map_size]
        size = tuple(count * side // own for count, side, own in zip(cells, image_size, map_size, strict=True))
        if min(cells) < 1:
            raise ValueError(
                f"multi_scale needs feature maps of 2 x 2 or more, the model's are {map_size[0]} x {map_size[1]}; "
                "leave it out."
            )
        try:
            with torch.no_grad():
                model(torch.zeros(1, model.config.num_channels, *size, device=model.device, dtype=model.dtype))
        except ValueError as error:
            raise ValueError(f"multi_scale needs a model that takes other image sizes: {error}") from error
        sizes.append((size[0], size[1]))
    return tuple(sizes)


__all__ = ["AUGMENTATIONS", "CROP_SHARE", "SCALES", "Views", "build_views", "five_crops", "other_sizes"]
