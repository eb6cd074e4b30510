# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""Augmentation in batches on the device, for a GPU that would otherwise wait for its loader.

Loader processes decode, resize to one size (uint8, a quarter of the bytes to copy) and draw the random numbers, from
the generator that the loader seeds by (seed, epoch, image, how often the epoch drew it). So a batch is augmented alike
with any number of workers or processes, and after a resume, whatever the device draws elsewhere. The device applies
them to the whole batch: crop and flip in one resampling, then brightness, contrast, saturation, erasing, normalisation.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image
from torch.nn import functional as F

from ..configuration_cssfe import CSSFEConfig
from ..data import training_draft_size
from ..recipes import Recipe


# What is drawn for each image: the crop's centre and size in fractions of the image, -1 for a mirror image, the factors
# of brightness, contrast and saturation, and the erased rectangle's edges in fractions of the crop.
PARAMETERS = (
    *("center_x", "center_y", "width", "height", "mirror", "brightness", "contrast", "saturation"),
    *("erase_left", "erase_top", "erase_right", "erase_bottom"),
)
_ERASED_SHARE, _ERASED_RATIO = (0.02, 0.33), (0.3, 3.3)  # Zhong et al., AAAI 2020, as torchvision has them
_GREY = (0.299, 0.587, 0.114)  # ITU-R BT.601 luma
_TRIES = 10


class DeviceAugmentationInput:
    """The loader's part: an image to uint8 pixels of one size, and random numbers.

    The shape of a crop is relative to the image's own, since evaluation too squeezes the whole image into the model's
    size; `build_train_transform` takes it relative to a square.

    Args:
        image_size: The model's side, or (height, width), in pixels.
        crop_scale: Range of the crop's share of the image's area, within (0, 1].
        crop_ratio: Range of the crop's width / height, relative to the image's.
        horizontal_flip: Probability of a mirror image.
        color_jitter: Brightness, contrast and saturation are multiplied by up to 1 -+ this, each on its own.
        random_erasing: Probability that a rectangle is set to the mean colour.

    Attributes:
        accepts_tensors: A loader may pass `(3, height, width)` uint8 tensors.
        size: [height, width] that images are resized to, so that a crop of mean area keeps the model's resolution.
    """

    accepts_tensors = True

    def __init__(
        self,
        image_size: int | Sequence[int],
        *,
        crop_scale: Sequence[float] = (0.5, 1.0),
        crop_ratio: Sequence[float] = (3 / 4, 4 / 3),
        horizontal_flip: float = 0.5,
        color_jitter: float = 0.0,
        random_erasing: float = 0.0,
    ):
        # Larger crops are then reduced by so little that hardly anything aliases, and there is less to copy than where
        # the smallest crop kept its resolution.
        width, height = training_draft_size(image_size, (sum(crop_scale) / 2, 1.0))
        self.size = [height, width]
        self.crop_scale = tuple(crop_scale)
        self.log_ratio = (math.log(crop_ratio[0]), math.log(crop_ratio[1]))
        self.horizontal_flip = horizontal_flip
        self.color_jitter = color_jitter
        self.random_erasing = random_erasing

    def __call__(self, image: Image.Image | torch.Tensor) -> dict[str, torch.Tensor]:
        """Return `pixel_values` `(3, height, width)` uint8 and `augmentation` `(len(PARAMETERS),)` float32."""
        from torchvision.transforms.v2 import functional

        pixels = image if isinstance(image, torch.Tensor) else functional.pil_to_tensor(image)
        return {
            "pixel_values": functional.resize(pixels, self.size, antialias=True),
            "augmentation": torch.tensor(self._draw(), dtype=torch.float32),
        }

    def _draw(self) -> list[float]:
        """Draw what `PARAMETERS` names; always as many numbers, so that no option shifts another's."""
        width, height = _box(self.crop_scale, self.log_ratio, torch.rand(_TRIES, 2).tolist())
        numbers = torch.rand(9).tolist()
        center_x = width / 2 + numbers[0] * (1 - width)
        center_y = height / 2 + numbers[1] * (1 - height)
        mirror = -1.0 if numbers[2] < self.horizontal_flip else 1.0
        factors = [1 + self.color_jitter * (2 * number - 1) for number in numbers[3:6]]
        log_ratio = (math.log(_ERASED_RATIO[0]), math.log(_ERASED_RATIO[1]))
        erased = _box(_ERASED_SHARE, log_ratio, torch.rand(_TRIES, 2).tolist())
        left, top = numbers[7] * (1 - erased[0]), numbers[8] * (1 - erased[1])
        rectangle = [left, top, left + erased[0], top + erased[1]]
        if numbers[6] >= self.random_erasing:
            rectangle = [0.0] * 4
        return [center_x, center_y, width, height, mirror, *factors, *rectangle]


def _box(
    scale: Sequence[float], log_ratio: tuple[float, float], draws: Sequence[Sequence[float]]
) -> tuple[float, float]:
    """Width and height, as fractions, of the first drawn box that fits; the whole image where none does."""
    for share, shape in draws:
        area = scale[0] + share * (scale[1] - scale[0])
        ratio = math.exp(log_ratio[0] + shape * (log_ratio[1] - log_ratio[0]))
        width, height = math.sqrt(area * ratio), math.sqrt(area / ratio)
        if width <= 1 and height <= 1:
            return width, height
    return 1.0, 1.0


class DeviceAugmentation:
    """The device's part: uint8 pixels and random numbers to what the model takes. Nothing in it waits for the device.

    Args:
        image_size: The model's side, or (height, width), in pixels.
        mean: Mean of the three channels, on the scale 0 to 1.
        std: Standard deviation of the three channels, likewise, > 0.
        device: Where batches are.
        recolors: Whether brightness, contrast and saturation are applied.
        erases: Whether rectangles are erased.
    """

    def __init__(
        self,
        image_size: int | Sequence[int],
        mean: Sequence[float],
        std: Sequence[float],
        *,
        device: torch.device | str = "cpu",
        recolors: bool = True,
        erases: bool = True,
    ):
        height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
        self.size = (int(height), int(width))
        self.mean = torch.tensor(list(mean), device=device).view(1, 3, 1, 1)
        self.std = torch.tensor(list(std), device=device).view(1, 3, 1, 1)
        self.grey = torch.tensor(_GREY, device=device).view(1, 3, 1, 1)
        # Centres of the pixels of a crop, in fractions of it.
        self.rows = ((torch.arange(self.size[0], device=device) + 0.5) / self.size[0]).view(1, -1, 1)
        self.columns = ((torch.arange(self.size[1], device=device) + 0.5) / self.size[1]).view(1, 1, -1)
        self.recolors = recolors
        self.erases = erases

    @classmethod
    def from_recipe(
        cls, recipe: Recipe, config: CSSFEConfig, device: torch.device | str = "cpu"
    ) -> "DeviceAugmentation":
        """What a recipe asks for, for a model's image size and normalisation."""
        return cls(
            config.image_height_and_width,
            config.image_mean,
            config.image_std,
            device=device,
            recolors=recipe.color_jitter > 0,
            erases=recipe.random_erasing > 0,
        )

    @torch.no_grad()
    def __call__(self, batch: dict[str, Any]) -> torch.Tensor:
        """Return `(B, 3, height, width)` float32 pixel values of a batch of `DeviceAugmentationInput`s.

        Crops are resampled bilinearly, without antialiasing: they are reduced by 1 / sqrt(mean `crop_scale`) at most,
        at the whole image, and small ones are enlarged. What lies within half a pixel of the image's edge repeats the
        edge.
        """
        pixels = batch["pixel_values"].to(self.mean.dtype).div_(255)
        values = {
            name: value.view(-1, 1, 1) for name, value in zip(PARAMETERS, batch["augmentation"].unbind(1), strict=True)
        }
        # From fractions of the crop to grid_sample's coordinates, -1 to 1 over the image.
        x = 2 * (values["center_x"] + values["mirror"] * values["width"] * (self.columns - 0.5)) - 1
        y = 2 * (values["center_y"] + values["height"] * (self.rows - 0.5)) - 1
        grid = torch.stack(torch.broadcast_tensors(x, y), dim=-1)
        pixels = F.grid_sample(pixels, grid, mode="bilinear", padding_mode="border", align_corners=False)
        if self.recolors:
            pixels = self._recolor(pixels, {name: value.unsqueeze(1) for name, value in values.items()})
        pixels = pixels.sub_(self.mean).div_(self.std)
        if self.erases:
            inside = (self.columns >= values["erase_left"]) & (self.columns < values["erase_right"])
            inside = inside & (self.rows >= values["erase_top"]) & (self.rows < values["erase_bottom"])
            pixels = pixels.masked_fill_(inside.unsqueeze(1), 0.0)
        return pixels

    def _recolor(self, pixels: torch.Tensor, values: dict[str, torch.Tensor]) -> torch.Tensor:
        """Brightness, contrast and saturation in this order, as torchvision's functions define them."""
        pixels = (pixels * values["brightness"]).clamp_(0, 1)
        mean = (pixels * self.grey).sum(1, keepdim=True).mean((2, 3), keepdim=True)
        pixels = (values["contrast"] * pixels + (1 - values["contrast"]) * mean).clamp_(0, 1)
        grey = (pixels * self.grey).sum(1, keepdim=True)
        return (values["saturation"] * pixels + (1 - values["saturation"]) * grey).clamp_(0, 1)


__all__ = ["PARAMETERS", "DeviceAugmentation", "DeviceAugmentationInput"]
