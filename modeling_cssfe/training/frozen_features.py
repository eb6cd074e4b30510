# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""Training on cached feature maps: loaders that yield maps in the place of images, and a model that takes them.

The model stays whole. Its backbone is passed by as long as the feed is attached, so log, checkpoints and the saved
model are those of any other run.
"""

from typing import TYPE_CHECKING, Any

import torch
from accelerate import Accelerator
from torch.utils.data import DataLoader, Dataset, default_collate

from ..data import EpochSampler, label_matrix, label_names_of
from ..data.loading import ItemKey, WatchedDataLoader, mix_seed
from ..modeling_cssfe import CSSFEForImageClassification
from ..recipes import Recipe
from ..samplers import build_sampler
from .feature_cache import FeatureCache, FeatureViews
from .preparation import loader_workers


if TYPE_CHECKING:
    import datasets

_VIEW = 7  # sets the choice of views apart from the other random streams of a seed


class FeatureDataset(Dataset):
    """Cached maps as a data set: each item is one view of an image.

    An item is `{"pixel_values": (D, H, W), "labels": (C,) float32, "index": int}`, as of an `ImageDataset`. The view is
    chosen by (seed, epoch, image, how often the epoch drew it before).

    Args:
        dataset: The images, for their labels.
        maps: `(N, D, H, W)` maps of each view, the images as they are first.
        seed: Of the choice of views, >= 0.
    """

    def __init__(self, dataset: "datasets.Dataset", maps: dict[str, torch.Tensor], seed: int = 0):
        self.dataset = dataset
        self.label_names = label_names_of(dataset)
        self.labels = torch.from_numpy(label_matrix(dataset)).float()
        self.views = list(maps.values())
        self.seed = seed

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, key: int | ItemKey) -> dict[str, Any]:
        index, draw, epoch = key if isinstance(key, tuple) else ItemKey(key)
        view = 0
        if len(self.views) > 1:
            view = mix_seed(_VIEW, self.seed, epoch, index, draw) % len(self.views)
        return {"pixel_values": self.views[view][index], "labels": self.labels[index], "index": index}


def build_feature_loaders(
    recipe: Recipe,
    model: CSSFEForImageClassification,
    splits: "dict[str, datasets.Dataset]",
    accelerator: Accelerator,
    progress: bool = False,
) -> dict[str, DataLoader]:
    """Compute or open the maps of all splits and build a loader of each.

    Args:
        recipe: `cache_features` names the folder; views, batch size, sampler and seed are the recipe's.
        model: With its backbone's weights.
        splits: The training split has all views, the others the plain one.
        accelerator: Its device and precision are those that the backbone runs in.
        progress: Show progress bars while maps are computed.

    Returns:
        A loader of each split, in the order of `splits`.

    Raises:
        ValueError: The disk has not enough room for the maps.
    """
    if recipe.cache_features is None:
        raise ValueError("the recipe names no folder for feature maps; set cache_features.")
    cache = FeatureCache(
        recipe.cache_features,
        model.cssfe.backbone,
        model.config,
        precision=recipe.feature_precision,
        device=accelerator.device,
        autocast=accelerator.autocast,
        computed_in=accelerator.mixed_precision,
        batch_size=recipe.batch_size,
        num_workers=loader_workers(recipe),  # they decode images; maps are read by this process
        progress=progress,
    )
    views = FeatureViews(
        recipe.feature_views,
        crop_scale=(recipe.crop_scale[0], recipe.crop_scale[1]),
        horizontal_flip=recipe.horizontal_flip,
        augmentation=recipe.augmentation,
        random_erasing=recipe.random_erasing,
    )
    loaders: dict[str, DataLoader] = {}
    for name, split in splits.items():
        training = name == recipe.train_split
        shown = views if training else FeatureViews(1)
        images: Any = FeatureDataset(split, cache.maps(split, name, shown), recipe.seed)
        order: Any = range(len(images))
        if training:
            order = build_sampler(
                recipe.sampler, labels=images.labels.numpy(), seed=recipe.seed, **recipe.sampler_kwargs
            )
        loaders[name] = WatchedDataLoader(
            images,
            batch_size=recipe.batch_size if training else 2 * recipe.batch_size,
            sampler=EpochSampler(order),
            collate_fn=default_collate,
            drop_last=training and len(images) > recipe.batch_size * accelerator.num_processes,
            pin_memory=accelerator.device.type == "cuda",
            # Else each epoch would draw a base seed from torch's global generator, and one resumed a second one.
            generator=torch.Generator().manual_seed(mix_seed(_VIEW, recipe.seed)),
        )
    return loaders


class FeatureFeed:
    """Lets a model take maps `(B, D, H, W)` as its `pixel_values` while it is attached; a copy of the model as well.

    Args:
        model: Its backbone is not run any more, until `detach`.
    """

    def __init__(self, model: CSSFEForImageClassification):
        self._maps: torch.Tensor | None = None
        self._channels = model.config.num_channels
        # An attribute of this one backbone in the way of its class's method; `detach` clears the way.
        model.cssfe.backbone.__dict__["forward"] = self._give
        model.cssfe.register_forward_pre_hook(self._take, with_kwargs=True)

    def _take(self, module: Any, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
        maps = args[0] if args else kwargs.pop("pixel_values")
        # Under autocast the layers choose the precision themselves; without it they take that of their weights.
        self._maps = maps if torch.is_autocast_enabled(maps.device.type) else maps.to(module.dtype)
        # What the model checks and hands to the backbone is an image; this one has no content.
        return (maps.new_zeros(1, 1, 1, 1).expand(len(maps), self._channels, 1, 1), *args[1:]), kwargs

    def _give(self, pixel_values: torch.Tensor) -> torch.Tensor:
        if self._maps is None:
            raise RuntimeError("the backbone is passed by and has no feature maps; call the model, or detach the feed.")
        maps, self._maps = self._maps, None
        return maps

    @staticmethod
    def detach(model: CSSFEForImageClassification) -> None:
        """Let a model run its backbone on images again."""
        model.cssfe.backbone.__dict__.pop("forward", None)
        hooks = model.cssfe._forward_pre_hooks
        for key in [key for key, hook in hooks.items() if isinstance(getattr(hook, "__self__", None), FeatureFeed)]:
            del hooks[key]
            model.cssfe._forward_pre_hooks_with_kwargs.pop(key, None)


__all__ = ["FeatureDataset", "FeatureFeed", "build_feature_loaders"]
