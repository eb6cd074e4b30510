# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""What may be wrong with a recipe: every problem in words, with the mend."""

import difflib
import math
from collections.abc import Sequence
from typing import Any

from ..configuration_cssfe import ABLATIONS, PRESETS
from ..losses import get_loss_entry, list_losses
from ..metrics.long_tail import MAP_FIGURES


OPTIMIZERS = ("adam", "adamw", "sgd")
SCHEDULES = ("one_cycle", "cosine", "constant")
MIXED_PRECISIONS = ("auto", "no", "bf16", "fp16")
# What the model's configuration has, too, but the recipe or the data says.
OWN_KEYS = (
    "preset", "ablation", "backbone", "backbone_kwargs", "backbone_weights", "label_embeddings", "image_size", "loss",
    "loss_kwargs", "seed",
)  # fmt: skip
KEYS_OF_THE_DATA = {
    "class_counts": "leave it out",
    "label_names": "leave it out, or choose and order classes by data_kwargs.label_names",
    "num_samples": "leave it out",
}
# Both phases of a run share them: they say which images and which network, or are no setting of a run.
KEYS_OF_BOTH_PHASES = (
    "data", "data_kwargs", "train_split", "validation_split", "test_split", "skip_unreadable_images", "preset",
    "ablation", "model", "backbone", "backbone_kwargs", "backbone_weights", "label_embeddings", "initial_model", "seed",
    "mixed_precision", "trackers", "first_phase", "published",
)  # fmt: skip
CLASS_ACTIVATION_INITS = ("random", "discriminant", "discriminant_and_classifier")
TRACKERS = ("tensorboard", "trackio")


def find_problems(recipe: Any) -> list[str]:
    """Return all problems of a `Recipe`, each as a clause; none if it is sound."""
    problems = []
    for name, choices in (
        ("preset", tuple(PRESETS)),
        ("ablation", ABLATIONS),
        ("optimizer", OPTIMIZERS),
        ("schedule", SCHEDULES),
        ("mixed_precision", MIXED_PRECISIONS),
        ("class_activation_init", CLASS_ACTIVATION_INITS),
        ("feature_precision", ("bf16", "fp32")),
    ):
        value = getattr(recipe, name)
        if value not in choices:
            problems.append(f"unknown {name} {value!r}: choose one of {', '.join(choices)}")
    counts = ["image_size", "epochs", "batch_size", "gradient_accumulation_steps", "evaluate_every"]
    counts += ["checkpoint_every_epochs", "checkpoint_every_steps", "checkpoints_kept", "streaming_shards"]
    for name in counts:
        value = getattr(recipe, name)
        if value is not None and value < 1:
            problems.append(f"{name} is {getattr(recipe, name)}: give a number >= 1")
    for name in ("learning_rate", "backbone_learning_rate", "max_grad_norm"):
        value = getattr(recipe, name)
        if value is not None and not 0 < value < math.inf:
            problems.append(f"{name} is {value}: give a finite number > 0")
    for name in ("horizontal_flip", "random_erasing"):
        if not 0 <= getattr(recipe, name) <= 1:
            problems.append(f"{name} is {getattr(recipe, name)}: give a probability in [0, 1]")
    if not 0 <= recipe.label_smoothing < 1:
        problems.append(f"label_smoothing is {recipe.label_smoothing}: give a share in [0, 1)")
    if recipe.label_smoothing and recipe.loss in list_losses() and get_loss_entry(recipe.loss).binary_labels:
        problems.append(f"label_smoothing excludes the loss {recipe.loss!r}, which asks labels what an image shows")
    if not 0 <= recipe.warmup_fraction < 1:
        problems.append(f"warmup_fraction is {recipe.warmup_fraction}: give a number in [0, 1)")
    if recipe.ema_decay is not None and not 0 < recipe.ema_decay < 1:
        problems.append(f"ema_decay is {recipe.ema_decay}: give a number in (0, 1) or null")
    if recipe.early_stopping_patience is not None and recipe.early_stopping_patience < 1:
        problems.append(f"early_stopping_patience is {recipe.early_stopping_patience}: give a number >= 1 or null")
    if not 0 <= recipe.early_stopping_min_delta < math.inf:
        problems.append(f"early_stopping_min_delta is {recipe.early_stopping_min_delta}: give a number >= 0")
    problems += tracker_problems(recipe.trackers)
    if not 0 <= recipe.weight_decay < math.inf:
        problems.append(f"weight_decay is {recipe.weight_decay}: give a number >= 0")
    if recipe.num_workers is not None and recipe.num_workers < 0:
        problems.append(f"num_workers is {recipe.num_workers}: give a number >= 0 or null")
    if len(recipe.crop_scale) != 2 or not 0 < recipe.crop_scale[0] <= recipe.crop_scale[1] <= 1:
        problems.append(f"crop_scale is {list(recipe.crop_scale)}: give two fractions, smallest first")
    if not 0 <= recipe.seed < 2**32:
        problems.append(f"seed is {recipe.seed}: give a whole number from 0 to 4294967295")
    if not isinstance(recipe.backbone_weights, bool | str):
        problems.append(f"backbone_weights is {recipe.backbone_weights!r}: give true, false or a .safetensors file")
    if recipe.decoded_cache_short_side is not None and recipe.decoded_cache is None:
        problems.append("decoded_cache_short_side needs decoded_cache: give a folder, or leave both out")
    if recipe.draft_decoding and recipe.decoded_cache is not None:
        problems.append("draft_decoding and decoded_cache exclude each other: a cache holds decoded images")
    if recipe.streaming_shuffle_buffer < 0:
        problems.append(f"streaming_shuffle_buffer is {recipe.streaming_shuffle_buffer}: give a number >= 0")
    if recipe.streaming_shards is not None and (recipe.sampler != "uniform" or recipe.decoded_cache is not None):
        problems.append("streaming_shards excludes sampler and decoded_cache: a stream has an order and no rows")
    for name, value in recipe.model.items():
        if name in OWN_KEYS:
            problems.append(f"model.{name} is a key of the recipe itself: write {name}={value}")
        elif name in KEYS_OF_THE_DATA:
            problems.append(f"model.{name} comes from the data: {KEYS_OF_THE_DATA[name]}")
    problems += _problems_of_features(recipe)
    for name, value in recipe.published.items():
        if name == "data":
            continue
        if name not in MAP_FIGURES:
            problems.append(f"unknown published.{name}: give {', '.join(MAP_FIGURES)} or data")
        elif isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
            problems.append(f"published.{name} is {value!r}: give a fraction in [0, 1], such as .8638 for 86.38 %")
    if recipe.sampler == "two_branch":
        problems.append("sampler 'two_branch' draws pairs of batches for models of two branches: choose another")
    for name in ("validation_split", "test_split"):
        if getattr(recipe, name) == recipe.train_split:
            problems.append(f"{name} is {recipe.train_split!r}, what is trained on: judge by other images")
    if recipe.validation_split == recipe.test_split:
        problems.append(f"validation_split and test_split are both {recipe.test_split!r}: choose on another split")
    # What is wrong with both phases is told once.
    return problems or _problems_of_first_phase(recipe)


def _problems_of_features(recipe: Any) -> list[str]:
    """What is wrong with cached features and augmentation on the device."""
    problems = []
    if recipe.feature_views < 1:
        problems.append(f"feature_views is {recipe.feature_views}: give a number >= 1")
    if recipe.cache_features is not None:
        if not recipe.freeze_backbone:
            problems.append(
                "cache_features needs freeze_backbone: true: cached maps do not follow a backbone that learns"
            )
        for name in ("compile", "augment_on_device", "draft_decoding", "decoded_cache", "streaming_shards"):
            if getattr(recipe, name):
                problems.append(f"{name} and cache_features exclude each other: no image is seen after the first run")
    if recipe.augment_on_device and recipe.augmentation != "none":
        problems.append(
            f"augment_on_device has no policy {recipe.augmentation!r}: set augmentation to none, and color_jitter if "
            "wanted"
        )
    if not 0 <= recipe.color_jitter < 1:
        problems.append(f"color_jitter is {recipe.color_jitter}: give a fraction in [0, 1)")
    if recipe.color_jitter and not recipe.augment_on_device:
        problems.append("color_jitter needs augment_on_device: true; on the CPU choose an augmentation")
    return problems


def _problems_of_first_phase(recipe: Any) -> list[str]:
    """What is wrong with the first of two phases."""
    from .reading import first_phase_recipe  # which needs Recipe, which needs these checks

    shared = [key for key in recipe.first_phase or () if key in KEYS_OF_BOTH_PHASES]
    if shared:
        return [f"first_phase.{key} is the same in both phases: set {key} itself" for key in shared]
    try:
        first_phase_recipe(recipe)
    except ValueError as error:
        return [f"in first_phase, {str(error).rstrip('.')}"]
    return []


def tracker_problems(trackers: Sequence[str]) -> list[str]:
    """What is wrong with a recipe's `trackers`, one text each."""
    problems = []
    for name in trackers:
        if name not in TRACKERS:
            near = difflib.get_close_matches(str(name), TRACKERS, n=1)
            mend = f"did you mean {near[0]!r}?" if near else f"choose from {', '.join(TRACKERS)}"
            problems.append(f"unknown tracker {name!r}: {mend}")
    if len(set(map(str, trackers))) < len(trackers):
        problems.append(f"trackers is {list(trackers)}: name each once")
    return problems


__all__ = [
    "CLASS_ACTIVATION_INITS",
    "KEYS_OF_BOTH_PHASES",
    "KEYS_OF_THE_DATA",
    "MIXED_PRECISIONS",
    "OPTIMIZERS",
    "OWN_KEYS",
    "SCHEDULES",
    "TRACKERS",
    "find_problems",
    "tracker_problems",
]
