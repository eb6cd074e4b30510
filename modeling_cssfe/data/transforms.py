# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""Pillow images to model input: random augmentation for training, the model's own image processor for everything else.

Evaluation, prediction and pipelines all go through the image processor that is saved beside the model, so that they
agree to the last bit (but for transparent and 16-bit images, which pipelines convert before: docs/predict.md); only
training has transforms of its own.
"""

import difflib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image


ImageTransform = Callable[[Image.Image], torch.Tensor]
AUGMENTATIONS = ("auto", "rand", "trivial", "none")


@dataclass(frozen=True)
class EvaluationTransform:
    """What an image processor does, as a function of one image.

    Attributes:
        processor: A Hugging Face image processor.
    """

    processor: Any

    def __call__(self, image: Image.Image) -> torch.Tensor:
        """Return the pixel values of an image, `(3, height, width)` float."""
        return self.processor(images=[image], return_tensors="pt")["pixel_values"][0]


class TrainTransform:
    """What `build_train_transform` returns: the pipeline of torchvision's v2 transforms, to the last bit.

    The steps are called by their own `make_params` and `transform`, on a plain tensor. `v2.Compose` over a `tv_tensor`
    looks in each step for boxes and masks beside the image, which costs a quarter more at 224 pixels.

    Attributes:
        accepts_tensors: A loader may pass `(3, height, width)` uint8 tensors, which spares it a Pillow image.
    """

    accepts_tensors = True

    def __init__(self, crop: Any, flip: float, policy: Any, mean: Sequence[float], std: Sequence[float], erasing: Any):
        self._crop = crop
        self._flip = flip
        self._policy = policy
        self._mean = torch.tensor(list(mean), dtype=torch.float32).view(3, 1, 1)
        self._std = torch.tensor(list(std), dtype=torch.float32).view(3, 1, 1)
        self._erasing = erasing

    def __call__(self, image: Image.Image | torch.Tensor) -> torch.Tensor:
        """Return the pixel values of an RGB image, `(3, height, width)` float32.

        Raises:
            TypeError: A tensor is not uint8.
        """
        from torchvision.transforms.v2 import functional

        pixels = image if isinstance(image, torch.Tensor) else functional.pil_to_tensor(image)
        if pixels.dtype != torch.uint8:
            raise TypeError(f"the image is a {pixels.dtype} tensor; pass uint8 of shape (3, height, width).")
        pixels = self._crop.transform(pixels, self._crop.make_params([pixels]))
        if self._flip and torch.rand(1) < self._flip:
            pixels = functional.horizontal_flip(pixels)
        if self._policy is not None:
            pixels = self._policy(pixels)
        pixels = functional.to_dtype(pixels, torch.float32, scale=True).sub_(self._mean).div_(self._std)
        return pixels if self._erasing is None else self._erasing(pixels)


def accepts_tensors(transform: ImageTransform) -> bool:
    """Whether a transform says that it takes uint8 tensors `(3, height, width)` as well as Pillow images."""
    return bool(getattr(transform, "accepts_tensors", False))


def training_draft_size(image_size: int | Sequence[int], crop_scale: Sequence[float] = (0.5, 1.0)) -> tuple[int, int]:
    """Return the `draft_size` at which draft decoding leaves training crops their resolution.

    A crop of the share s of an image's area has about sqrt(s) of its sides, so the image may be reduced until sqrt(s)
    of it is what the model takes. Crops of another shape than the image are narrower, and then enlarged a little.

    Args:
        image_size: As for `build_train_transform`.
        crop_scale: As for `build_train_transform`.

    Returns:
        (width, height) in pixels, for `build_data_loader`.

    Raises:
        ValueError: An option is out of range.
    """
    height, width = _check_size(image_size)
    _check_crop_scale(crop_scale)
    side = math.sqrt(crop_scale[0])
    return math.ceil(width / side), math.ceil(height / side)


def build_train_transform(
    image_size: int | Sequence[int],
    mean: Sequence[float],
    std: Sequence[float],
    *,
    augmentation: str = "auto",
    crop_scale: Sequence[float] = (0.5, 1.0),
    crop_ratio: Sequence[float] = (3 / 4, 4 / 3),
    horizontal_flip: float = 0.5,
    random_erasing: float = 0.0,
) -> TrainTransform:
    """Build the training transform from torchvision's v2 transforms.

    The order is: random resized crop, horizontal flip, augmentation policy, float, normalisation, erasing. All
    randomness comes from torch's CPU generator.

    Args:
        image_size: Side of the square, or (height, width), in pixels.
        mean: Mean of the three channels, on the scale 0 to 1.
        std: Standard deviation of the three channels, likewise, > 0.
        augmentation: `"auto"` (AutoAugment with the ImageNet policy, Cubuk et al., CVPR 2019, which the CSSFE paper
            uses), `"rand"` (RandAugment, 2 operations of magnitude 9, Cubuk et al., 2020), `"trivial"`
            (TrivialAugmentWide, Mueller and Hutter, ICCV 2021), or `"none"`.
        crop_scale: Range of the crop's share of the image's area, within (0, 1]. From .5 and not ImageNet's .08: a
            small crop often misses objects whose labels stay. (1, 1) resizes the whole image instead.
        crop_ratio: Range of the crop's width / height; not used where `crop_scale` is (1, 1).
        horizontal_flip: Probability of a mirror image; 0 for text and digits.
        random_erasing: Probability that a rectangle (2 to 33 % of the area) is set to the mean colour.

    Returns:
        A function from a Pillow image, or a uint8 tensor `(3, height, width)`, to `(3, height, width)` float32. It can
        be sent to worker processes.

    Raises:
        ValueError: An option is out of range, or the augmentation is unknown.
    """
    from torchvision.transforms import v2

    size = _check_size(image_size)
    if len(mean) != 3 or len(std) != 3 or min(std) <= 0:
        raise ValueError(f"mean and std must have 3 values each, std > 0, got {list(mean)} and {list(std)}.")
    _check_crop_scale(crop_scale)
    if len(crop_ratio) != 2 or not 0 < crop_ratio[0] <= crop_ratio[1]:
        raise ValueError(f"crop_ratio must be (low, high) with 0 < low <= high, got {tuple(crop_ratio)}.")
    for name, probability in (("horizontal_flip", horizontal_flip), ("random_erasing", random_erasing)):
        if not 0 <= probability <= 1:
            raise ValueError(f"{name} is a probability and must lie in [0, 1], got {probability}.")
    policies: dict[str, Callable[[], Any] | None] = {
        "auto": v2.AutoAugment,
        "rand": v2.RandAugment,
        "trivial": v2.TrivialAugmentWide,
        "none": None,
    }
    if augmentation not in policies:
        near = difflib.get_close_matches(str(augmentation), AUGMENTATIONS, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"unknown augmentation {augmentation!r}; choose one of {', '.join(AUGMENTATIONS)}.{hint}")

    if tuple(crop_scale) == (1, 1):
        crop = v2.Resize(size, antialias=True)
    else:
        crop = v2.RandomResizedCrop(size, scale=tuple(crop_scale), ratio=tuple(crop_ratio), antialias=True)
    policy = policies[augmentation]
    erasing = v2.RandomErasing(random_erasing) if random_erasing else None
    return TrainTransform(crop, horizontal_flip, policy() if policy is not None else None, mean, std, erasing)


def _check_size(image_size: int | Sequence[int]) -> list[int]:
    size = [image_size, image_size] if isinstance(image_size, int) else [int(side) for side in image_size]
    if len(size) != 2 or min(size) < 1:
        raise ValueError(f"image_size must be one side or (height, width) in pixels, >= 1, got {image_size!r}.")
    return size


def _check_crop_scale(crop_scale: Sequence[float]) -> None:
    if len(crop_scale) != 2 or not 0 < crop_scale[0] <= crop_scale[1] <= 1:
        raise ValueError(f"crop_scale must be (low, high) with 0 < low <= high <= 1, got {tuple(crop_scale)}.")


__all__ = [
    "AUGMENTATIONS",
    "EvaluationTransform",
    "ImageTransform",
    "TrainTransform",
    "accepts_tensors",
    "build_train_transform",
    "training_draft_size",
]
