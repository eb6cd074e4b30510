# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""What a run needs before its first step: verified data, the model, and the loaders."""

import inspect
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list

from ..common.environment import process_state
from ..data import (
    DecodedCache,
    EvaluationTransform,
    build_data_loader,
    build_decoded_cache,
    build_train_transform,
    class_statistics,
    label_matrix,
    label_names_of,
    load_images,
    require_every_class,
    training_draft_size,
    verify_images,
)
from ..data.decoding import ImageDecodingError
from ..data.streaming import build_streaming_loader
from ..image_processing_cssfe import CSSFEImageProcessor
from ..losses import build_loss, get_loss_entry
from ..modeling_cssfe import CSSFEForImageClassification
from ..recipes import Recipe
from .device_augmentation import DeviceAugmentationInput
from .initial_model import build_from_initial_model
from .pretrained_classifier import recipe_classifier
from .repeat import data_fingerprint


if TYPE_CHECKING:
    import datasets


SKIP_OPTION = "skip_unreadable_images=true"  # what a recipe calls it


@dataclass
class RunData:
    """The run's splits and what is known of their classes."""

    splits: "dict[str, datasets.Dataset]"
    label_names: list[str]
    class_counts: list[int]
    num_samples: int
    skipped: dict[str, list[str]]
    fingerprint: dict[str, str]  # split -> SHA-256 of ids, labels and image files


def load_run_splits(recipe: Recipe) -> "dict[str, datasets.Dataset]":
    """Load the splits that the recipe names; no image is looked at.

    Raises:
        ValueError: A split is missing, or an option is unknown.
    """
    known = list(inspect.signature(load_images).parameters)[1:]
    for key in recipe.data_kwargs:
        if key not in known:
            raise ValueError(f"unknown data_kwargs.{key}; load_images takes {', '.join(known)}.")
    splits = load_images(recipe.data, **recipe.data_kwargs)
    for role, name in (("train_split", recipe.train_split), ("validation_split", recipe.validation_split)):
        if name not in splits:
            raise ValueError(
                f"{recipe.data!r} has no split {name!r} ({role}); it has {', '.join(splits)}: set {role}, or carve a "
                "validation split from the training images."
            )
    if recipe.test_split not in splits and recipe.test_split not in (None, Recipe.test_split):
        raise ValueError(
            f"{recipe.data!r} has no split {recipe.test_split!r} (test_split); it has {', '.join(splits)}: set "
            "test_split to one of them or to null, or leave it out."
        )
    wanted = (recipe.train_split, recipe.validation_split, recipe.test_split)
    return {name: splits[name] for name in wanted if name is not None and name in splits}


def load_run_data(recipe: Recipe, show_progress: bool) -> RunData:
    """Load the splits that the recipe names, leave out or refuse unreadable images, and count the classes.

    Raises:
        ValueError: A split is missing, an option is unknown, an image is unreadable, or a class has no image.
    """
    with process_state().main_process_first():  # the first downloads and builds, the others find it done
        splits = load_run_splits(recipe)
    names = label_names_of(splits[recipe.train_split])
    used, skipped = {}, {}
    for name, split in splits.items():
        used[name], skipped[name] = _readable(split, recipe.skip_unreadable_images, show_progress)
    statistics = class_statistics(used[recipe.train_split], names)
    require_every_class(statistics, recipe.train_split)
    fingerprint = {name: _fingerprint(split) for name, split in used.items()}
    return RunData(used, names, list(statistics.class_counts), statistics.num_samples, skipped, fingerprint)


def _readable(split: "datasets.Dataset", skip: bool, show_progress: bool) -> "tuple[datasets.Dataset, list[str]]":
    """The images that can be read, and the ids of the others. One process looks, so that all leave out the same."""
    found: list[Any] = [None]
    if process_state().is_main_process:
        try:
            _, report = verify_images(
                split,
                on_error="skip" if skip else "raise",
                num_threads=os.cpu_count() or 1,
                progress=show_progress,
                skip_option=SKIP_OPTION,
            )
            found = [[(row, image_id) for row, image_id, _ in report.broken]]
        except ImageDecodingError as error:
            found = [error]
    if process_state().num_processes > 1:
        broadcast_object_list(found)
    if isinstance(found[0], Exception):
        raise found[0]
    broken = {row for row, _ in found[0]}
    if broken:
        split = split.select([row for row in range(len(split)) if row not in broken])
    return split, [image_id for _, image_id in found[0]]


def _fingerprint(split: "datasets.Dataset") -> str:
    """The split's fingerprint. One process reads the files."""
    found: list[Any] = [data_fingerprint(split) if process_state().is_main_process else None]
    if process_state().num_processes > 1:
        broadcast_object_list(found)
    return found[0]


def build_run_model(
    recipe: Recipe, data: RunData, initial_model: str | os.PathLike | None = None
) -> CSSFEForImageClassification:
    """Build the recipe's model for the data's classes, with its first weights.

    Args:
        recipe: Of the run.
        data: Its classes.
        initial_model: Trained model that the weights are taken from; `None` for a new head on pretrained weights.

    Raises:
        ValueError: Weights, embeddings, loss, an option of the model or the initial model do not fit.
    """
    settings = dict(recipe.model)
    if recipe.loss_kwargs is not None:
        settings["loss_kwargs"] = recipe.loss_kwargs
        _check_loss_options(recipe.loss, recipe.loss_kwargs, data)
    settings |= {
        "class_counts": data.class_counts,
        "num_samples": data.num_samples,
        "seed": recipe.seed,
        "backbone_kwargs": recipe.backbone_kwargs or None,
        "image_size": recipe.image_size,
        "preset": recipe.preset,
        "ablation": recipe.ablation,
        "loss": recipe.loss,
    }
    if initial_model is not None:
        model = build_from_initial_model(initial_model, recipe.backbone, data.label_names, **settings)
    else:
        model = CSSFEForImageClassification.from_backbone(
            recipe.backbone,
            label_names=data.label_names,
            backbone_weights=recipe.backbone_weights,
            label_embeddings=recipe.label_embeddings,
            **settings,
        )
        classifier = None if model.discriminant is None else recipe_classifier(recipe, model)
        if classifier is not None:
            model.set_pretrained_classifier(classifier.weight, classifier.bias)
    if recipe.freeze_backbone:
        model.cssfe.backbone.requires_grad_(False)
    for layer in frozen_layers(recipe, model):
        layer.requires_grad_(False)
    return model


def frozen_layers(recipe: Recipe, model: CSSFEForImageClassification) -> list[torch.nn.Module]:
    """The modules of the backbone that the recipe keeps as they were loaded.

    Raises:
        ValueError: The backbone has no module of a name.
    """
    modules = dict(model.cssfe.backbone.timm_model.named_modules())
    for name in recipe.frozen_layers:
        if name not in modules or not name:
            known = ", ".join(child for child, _ in model.cssfe.backbone.timm_model.named_children())
            raise ValueError(f"frozen_layers: {recipe.backbone!r} has no module {name!r}; it has {known}, and theirs.")
    return [modules[name] for name in recipe.frozen_layers]


def _check_loss_options(name: str, options: dict[str, Any], data: RunData) -> None:
    """Try the loss: a text for a number would be found in its comparisons or in the first batch."""
    for option, value in options.items():
        try:
            loss = build_loss(name, class_counts=data.class_counts, num_samples=data.num_samples, **{option: value})
            labels = torch.tensor([[1.0], [0.0]]).expand(2, len(data.class_counts))
            found = loss(torch.zeros_like(labels), labels)
        except TypeError as error:
            default = get_loss_entry(name).defaults[option]
            reason = " ".join(str(error).split())
            raise ValueError(
                f"loss {name!r} cannot compute with {option} {value!r} ({reason}); set loss_kwargs.{option} to a value "
                f"like its default, {default!r}."
            ) from error
        except ValueError:
            continue  # of one option that needs another, perhaps: the model's own loss tells what is wrong
        if found.dim():
            raise ValueError(
                f"loss {name!r} gives no single number with {option} {value!r}; set loss_kwargs.{option} to 'mean' or "
                "leave it out."
            )


def loader_workers(recipe: Recipe) -> int:
    """Processes that load images: the recipe's number, or one that suits this process's share of the machine."""
    if recipe.num_workers is not None:
        return recipe.num_workers
    # A job is often given less than the machine has, and its processes share that.
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    cores //= int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    # Beside a GPU, two cores stay for this process and for the thread that moves batches into page-locked memory.
    return min(16, max(cores - 2, 1)) if torch.cuda.is_available() else min(2, max(cores - 1, 0))


def _decoded_cache(recipe: Recipe, split: "datasets.Dataset", show_progress: bool) -> DecodedCache | None:
    if recipe.decoded_cache is None:
        return None
    return build_decoded_cache(
        split,
        recipe.decoded_cache,
        short_side=recipe.decoded_cache_short_side,
        num_workers=os.cpu_count() or 1,
        progress=show_progress,
    )


def _train_transform(recipe: Recipe, processor: CSSFEImageProcessor) -> Any:
    options: dict[str, Any] = {
        "crop_scale": tuple(recipe.crop_scale),
        "horizontal_flip": recipe.horizontal_flip,
        "random_erasing": recipe.random_erasing,
    }
    if recipe.augment_on_device:
        return DeviceAugmentationInput(recipe.image_size, color_jitter=recipe.color_jitter, **options)
    mean, std = processor.image_mean, processor.image_std
    return build_train_transform(recipe.image_size, mean, std, augmentation=recipe.augmentation, **options)


def build_run_loaders(
    recipe: Recipe,
    processor: CSSFEImageProcessor,
    data: RunData,
    show_progress: bool,
    accelerator: Accelerator | None = None,
) -> dict[str, Any]:
    """Build a loader of each split: the training split's in the sampler's order, the others in their own."""
    rank, processes = (0, 1) if accelerator is None else (accelerator.process_index, accelerator.num_processes)
    train_data = data.splits[recipe.train_split]
    transform = _train_transform(recipe, processor)
    sampler = None
    if recipe.sampler != "uniform" or recipe.sampler_kwargs:
        from ..samplers import build_sampler

        sampler = build_sampler(
            recipe.sampler, labels=label_matrix(train_data), seed=recipe.seed, **recipe.sampler_kwargs
        )
    workers = loader_workers(recipe)
    caches = {name: _decoded_cache(recipe, split, show_progress) for name, split in data.splits.items()}
    draft_size = training_draft_size(recipe.image_size, recipe.crop_scale) if recipe.draft_decoding else None
    # A last batch of one image would make BatchNorm fail.
    drop_last = len(train_data) > recipe.batch_size * processes
    pinned = accelerator is not None and accelerator.device.type == "cuda"
    loaders: dict[str, Any] = {}
    if recipe.streaming_shards is not None:
        loaders[recipe.train_split] = build_streaming_loader(
            train_data.to_iterable_dataset(num_shards=recipe.streaming_shards),
            transform,
            batch_size=recipe.batch_size,
            rank=rank,
            world_size=processes,
            shuffle_buffer=recipe.streaming_shuffle_buffer,
            num_workers=workers,
            seed=recipe.seed,
            drop_last=drop_last,
            draft_size=draft_size,
            pin_memory=pinned,
        )
    else:
        loaders[recipe.train_split] = build_data_loader(
            train_data,
            transform,
            decoded_cache=caches[recipe.train_split],
            draft_size=draft_size,
            batch_size=recipe.batch_size,
            shuffle=sampler is None,
            sampler=sampler,
            num_workers=workers,
            seed=recipe.seed,
            drop_last=drop_last,
            pin_memory=pinned,
        )
    for name in data.splits:
        if name != recipe.train_split:
            loaders[name] = build_data_loader(
                data.splits[name],
                EvaluationTransform(processor),
                decoded_cache=caches[name],
                batch_size=2 * recipe.batch_size,
                num_workers=workers,
                pin_memory=pinned,
            )
    return loaders


__all__ = [
    "RunData",
    "build_run_loaders",
    "build_run_model",
    "frozen_layers",
    "load_run_data",
    "load_run_splits",
    "loader_workers",
]
