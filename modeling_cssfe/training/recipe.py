# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""Recipes: everything that defines a training run, in one YAML file.

A recipe is a flat `Recipe`; `load_recipe` reads a YAML file or a shipped name, applies `key=value` overrides, and
reports an unknown key or a value of the wrong type in one line.

A file may build on another recipe, so that it says only what is different: `extends: lt_voc_erm` takes that recipe's
keys first. Mappings such as `model` are merged key by key. `published` alone is not taken over: a figure belongs to the
recipe that it stands in.

A run may have two phases: `first_phase` holds what is different in the first one, whose model the second starts from.
"""

import dataclasses
import difflib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ..configuration_cssfe import ABLATIONS, PRESETS
from ..losses import get_loss_entry, list_losses
from .report import COLUMNS
from .tracking import tracker_problems


OPTIMIZERS = ("adam", "adamw", "sgd")
SCHEDULES = ("one_cycle", "cosine", "constant")
MIXED_PRECISIONS = ("auto", "no", "bf16", "fp16")
SUFFIXES = (".yaml", ".yml")
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


@dataclass
class Recipe:
    """One training run.

    Args:
        data: What `modeling_cssfe.data.load_images` accepts: `lt_digits`, a folder or file, a `datasets` name.
        data_kwargs: Options of `load_images`, for example `{empty_cells: unknown, label_columns: [dog, cat]}`.
        train_split: Split to train on.
        validation_split: Split that chooses the best epoch. Never the test split.
        test_split: Split that is judged once, at the end, by the best epoch's weights. Only the default, `test`, may
            be absent; nothing is judged then, nor with `null`.
        skip_unreadable_images: Leave unreadable images out (counted and named) instead of stopping.
        decoded_cache: Folder for decoded images, memory-mapped and built at the first run; `null` decodes each time.
        decoded_cache_short_side: Shorter side that larger images are reduced to in the cache; `null` keeps their size,
            and batches as they are without a cache.
        draft_decoding: Decode large JPEG files at a fraction of their size where the training crops need no more.
        preset: `paper`, `released`, `corrected` or `plus`.
        ablation: `net0` to `net3`.
        model: Further fields of `CSSFEConfig`, for example `{hidden_size: 256}`.
        backbone: timm architecture.
        backbone_kwargs: Further arguments of `timm.create_model`.
        backbone_weights: `true` (timm's, from the Hub), a local `.safetensors` file with timm's names or of a trained
            model, which gives its backbone, whatever its classes and head are, or `false`.
        label_embeddings: Text encoder by name or folder, word vectors, `.safetensors` file, or `random`.
        class_activation_init: First weights of the layer that makes the maps: `random`; `discriminant`, the shrunken
            linear discriminant of the training images' features, in closed form; or `discriminant_and_classifier`,
            which adds rows of the classifier that the backbone was pretrained with, from the file of its weights. The
            preset `plus` keeps a discriminant as a part of the logit, too, which with the last one hears what that
            classifier says of an image; it wants one of the latter two. Of new models alone.
        initial_model: Folder or Hub repository of a trained model, whose weights and label embeddings the run starts
            from, in the place of `backbone_weights`, `label_embeddings` and a new head. Its classes must be those of
            the data, and its network that of the recipe.
        first_phase: What is different in a first phase: a run of its own in `output_dir/first_phase`, from whose model
            this one starts; `null` for one phase. So the head can be trained over a frozen backbone first, and then
            everything: `{freeze_backbone: true, cache_features: .cache/features, epochs: 8}`.
        image_size: Image side in pixels.
        loss: Name of a loss, see `cssfe losses`.
        loss_kwargs: Its options; `null` for its defaults (for `asl`, the preset's).
        label_smoothing: Share s in [0, 1): the loss takes labels `(1 - s) y + s / 2` in the place of `y`.
        sampler: Name of a sampler.
        sampler_kwargs: Its options.
        augmentation: `auto`, `rand`, `trivial` or `none`.
        crop_scale: Smallest and largest area of a random crop, as fractions.
        horizontal_flip: Probability of a horizontal flip.
        random_erasing: Probability of erasing a rectangle.
        epochs: Passes over the sampler's order.
        batch_size: Images a step and process.
        gradient_accumulation_steps: Steps summed into one update.
        optimizer: `adam`, `adamw` or `sgd` (momentum .9).
        learning_rate: Peak learning rate of the head.
        backbone_learning_rate: Peak learning rate of the backbone; `null` for the head's.
        weight_decay: Weight decay of matrices and kernels; biases and norms have none.
        schedule: `one_cycle`, `cosine` or `constant`, the first two with warm-up.
        warmup_fraction: Share of all updates in which the learning rate rises.
        max_grad_norm: Gradients are scaled down to this norm; `null` for none.
        ema_decay: Decay of the exponential moving average of the weights, which is then what is evaluated and saved;
            `null` for none.
        ema_warmup: Reach that decay gradually, so that short runs are not held back by their first weights. `false`
            where they should be: over pretrained weights a part of the first ones keeps fine-tuning from overfitting.
        mixed_precision: `auto` (bf16 where the machine computes in it, otherwise none), `no`, `bf16` or `fp16`.
        freeze_backbone: Train the head alone; the backbone stays in evaluation mode.
        cache_features: Folder for feature maps of the frozen backbone, computed at the first run: the head then trains
            on them in seconds. `null` runs the backbone on every image. Needs `freeze_backbone`.
        feature_views: Cached ways of looking at each training image, of which an epoch shows one: as it is, mirrored,
            and random crops with the recipe's augmentation.
        feature_precision: `bf16` or `fp32`, of the maps in the cache.
        frozen_layers: Modules of the timm backbone that stay as they were loaded, statistics included, while the others
            learn; for a ResNet, `[conv1, bn1, layer1, layer2]` leaves the last two stages. They cost no backward pass.
        freeze_batch_norm: Keep the backbone's BatchNorm statistics as loaded.
        channels_last: Memory format of images and convolutions.
        compile: Compile the model with `torch.compile`.
        augment_on_device: Crop, flip, recolour and erase on the device, in batches; loader processes only decode and
            resize. For a GPU that waits for its loader. Needs `augmentation: none`.
        color_jitter: Largest change of brightness, contrast and saturation with `augment_on_device`, as a fraction.
        num_workers: Loader processes; `null` chooses by the number of cores.
        streaming_shards: Read the training split as a stream of this many shards, in place of random access; `null` for
            random access. The uniform sampler alone. Loader processes get whole shards, so no more of them than shards.
        streaming_shuffle_buffer: Images of a stream among which the next one is drawn.
        sync_batch_norm: BatchNorm statistics over the batches of all GPUs, not of each one.
        gradient_checkpointing: Compute activations again in the backward pass: less memory, more time.
        evaluate_every: Epochs between validations; the last epoch is always validated.
        checkpoint_every_epochs: Epochs between checkpoints to resume from.
        checkpoint_every_steps: Updates between checkpoints within epochs; `null` for none.
        checkpoints_kept: How many of them to keep until the run is done.
        early_stopping_patience: Validations without a gain in mAP after which the run ends; `null` for never.
        early_stopping_min_delta: Gain in mAP (a fraction, .001 is a tenth of a point) that counts as one.
        trackers: `tensorboard` and/or `trackio`, on this machine.
        record_gradients: Record the gradients of the loss on the logits by group in `log.jsonl`; the loss is then
            computed twice a step.
        deterministic: Deterministic kernels alone, so that a GPU repeats a run to the bit; slower.
        seed: Seed of everything random.
        published: What a paper reports for this recipe, to stand beside what was reached, as fractions: `map_total`,
            `map_head`, `map_medium`, `map_tail`, any of them, and `data`, what they were measured on. Trains nothing.
    """

    data: str = "lt_digits"
    data_kwargs: dict[str, Any] = field(default_factory=dict)
    train_split: str = "train"
    validation_split: str = "validation"
    test_split: str | None = "test"
    skip_unreadable_images: bool = False
    decoded_cache: str | None = None
    decoded_cache_short_side: int | None = None
    draft_decoding: bool = False
    preset: str = "corrected"
    ablation: str = "net3"
    model: dict[str, Any] = field(default_factory=dict)
    backbone: str = "resnet50"
    backbone_kwargs: dict[str, Any] = field(default_factory=dict)
    backbone_weights: Any = True
    label_embeddings: str = "openai/clip-vit-base-patch32"
    class_activation_init: str = "random"
    initial_model: str | None = None
    first_phase: dict[str, Any] | None = None
    image_size: int = 448
    loss: str = "asl"
    loss_kwargs: dict[str, Any] | None = None
    label_smoothing: float = 0.0
    sampler: str = "uniform"
    sampler_kwargs: dict[str, Any] = field(default_factory=dict)
    augmentation: str = "auto"
    crop_scale: list[float] = field(default_factory=lambda: [0.5, 1.0])
    horizontal_flip: float = 0.5
    random_erasing: float = 0.0
    epochs: int = 40
    batch_size: int = 32
    gradient_accumulation_steps: int = 1
    optimizer: str = "adamw"
    learning_rate: float = 3e-4
    backbone_learning_rate: float | None = None
    weight_decay: float = 1e-4
    schedule: str = "one_cycle"
    warmup_fraction: float = 0.1
    max_grad_norm: float | None = 1.0
    ema_decay: float | None = 0.998
    ema_warmup: bool = True
    mixed_precision: str = "auto"
    freeze_backbone: bool = False
    cache_features: str | None = None
    feature_views: int = 6
    feature_precision: str = "bf16"
    frozen_layers: list[str] = field(default_factory=list)
    freeze_batch_norm: bool = False
    channels_last: bool = True
    compile: bool = False
    augment_on_device: bool = False
    color_jitter: float = 0.0
    num_workers: int | None = None
    streaming_shards: int | None = None
    streaming_shuffle_buffer: int = 1024
    sync_batch_norm: bool = False
    gradient_checkpointing: bool = False
    evaluate_every: int = 1
    checkpoint_every_epochs: int = 1
    checkpoint_every_steps: int | None = None
    checkpoints_kept: int = 2
    early_stopping_patience: int | None = None
    early_stopping_min_delta: float = 0.0
    trackers: list[str] = field(default_factory=list)
    record_gradients: bool = False
    deterministic: bool = False
    seed: int = 0
    published: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self):
        if str(self.mixed_precision) == "False":
            self.mixed_precision = "no"  # an unquoted `no` is false in YAML
        problems = _problems(self)
        if problems:
            raise ValueError("the recipe has " + f"{len(problems)} problem(s): " + "; ".join(problems) + ".")


def _problems(recipe: Recipe) -> list[str]:
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
        if name not in COLUMNS:
            problems.append(f"unknown published.{name}: give {', '.join(COLUMNS)} or data")
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


def _refuse_interpolations(values: Mapping[str, Any]) -> None:
    """Refuse `${...}` where it cannot stand for itself, as text."""
    for entry in dataclasses.fields(Recipe):
        value = values.get(entry.name)
        if isinstance(value, str) and "${" in value and "str" not in str(entry.type):
            raise ValueError(f"{entry.name} is {value!r}, which recipes do not fill in; write the value itself.")


def _problems_of_features(recipe: Recipe) -> list[str]:
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


def _problems_of_first_phase(recipe: Recipe) -> list[str]:
    """What is wrong with the first of two phases."""
    shared = [key for key in recipe.first_phase or () if key in KEYS_OF_BOTH_PHASES]
    if shared:
        return [f"first_phase.{key} is the same in both phases: set {key} itself" for key in shared]
    try:
        first_phase_recipe(recipe)
    except ValueError as error:
        return [f"in first_phase, {str(error).rstrip('.')}"]
    return []


def first_phase_recipe(recipe: Recipe) -> Recipe | None:
    """The recipe of a run's first phase, `None` where there is but one. The test split is left to the second.

    Raises:
        ValueError: A key is unknown, or has a value that it may not have.
    """
    if not recipe.first_phase:
        return None
    changes = {**recipe.first_phase, "first_phase": None, "published": {}, "test_split": None}
    return load_recipe({**dataclasses.asdict(recipe), **changes})


def recipe_folders() -> list[Path]:
    """Where shipped recipes may lie: inside an installed package, or in a checkout's `train/recipes`."""
    package = Path(__file__).resolve().parent
    return [folder for folder in (package / "recipes", package.parents[1] / "train" / "recipes") if folder.is_dir()]


def list_recipes() -> list[str]:
    """Names of the shipped recipes, sorted."""
    return sorted({file.stem for folder in recipe_folders() for file in folder.glob("*.yaml")})


def find_recipe(name_or_file: str) -> Path:
    """Path of a recipe given by file or by shipped name.

    Raises:
        ValueError: Neither a file nor a shipped name; the nearest name is suggested.
    """
    if Path(name_or_file).suffix in SUFFIXES:
        if Path(name_or_file).is_file():
            return Path(name_or_file)
        raise ValueError(f"no recipe file {name_or_file!r}; give an existing YAML file or one of {_names()}.")
    for folder in recipe_folders():
        if (folder / f"{name_or_file}.yaml").is_file():
            return folder / f"{name_or_file}.yaml"
    near = difflib.get_close_matches(name_or_file, list_recipes(), n=1)
    mend = f"did you mean {near[0]!r}?" if near else f"give a YAML file or one of {_names()}."
    raise ValueError(f"unknown recipe {name_or_file!r}; {mend}")


def _names() -> str:
    return ", ".join(list_recipes())


def load_recipe(
    name_or_file: str | Mapping[str, Any] | None = None,
    overrides: Sequence[str] = (),
    values: Mapping[str, Any] | None = None,
) -> Recipe:
    """Read a recipe and apply overrides.

    Args:
        name_or_file: Shipped name or YAML file; or the keys themselves; `None` starts from the defaults.
        overrides: `["key=value", "model.hidden_size=256"]`, values read as YAML; these win over the file.
        values: Keys with values taken as they are; these win over everything.

    Returns:
        The checked recipe.

    Raises:
        ValueError: Unknown key (the nearest is suggested), wrong type, value out of range, or a file that extends what
            there is not, or itself.
    """
    for override in overrides:
        if "=" not in override:
            raise ValueError(f"cannot read {override!r}; write key=value.")
    try:
        layers = [OmegaConf.structured(Recipe)]
        if isinstance(name_or_file, Mapping):
            _check_keys(name_or_file, "the recipe")
            layers.append(OmegaConf.create(dict(name_or_file)))
        elif name_or_file is not None:
            layers += _read_chain(find_recipe(name_or_file))
        for given in (OmegaConf.from_dotlist(list(overrides)), OmegaConf.create(dict(values or {}))):
            _check_keys(given, "the overrides")
            layers.append(given)
        # Nothing is filled in: "${oc.env:NAME}" in somebody's recipe would write a secret into the model's card.
        merged: Any = OmegaConf.to_container(OmegaConf.merge(*layers), resolve=False)
        _refuse_interpolations(merged)
        return Recipe(**merged)
    except (OmegaConfBaseException, yaml.YAMLError) as error:
        raise ValueError(f"cannot read the recipe: {' '.join(str(error).split())}") from error


def _read_chain(file: Path, children: tuple[Path, ...] = ()) -> list[DictConfig]:
    """Read a file and what it extends, the last ancestor first."""
    if file.resolve() in (child.resolve() for child in children):
        chain = " -> ".join(one.name for one in (*children, file))
        raise ValueError(f"recipe {file.name} extends itself ({chain}); take one `extends` out.")
    loaded = OmegaConf.load(file)
    if not isinstance(loaded, DictConfig):
        raise ValueError(f"recipe {str(file)!r} is no mapping; write one `key: value` a line.")
    parent = loaded.pop("extends", None)
    _check_keys(loaded, f"recipe {file.name}")
    if parent is None:
        return [loaded]
    if not isinstance(parent, str):
        raise ValueError(f"recipe {file.name} extends {parent!r}; give one recipe's name or YAML file.")
    try:
        # A file is meant from where this one lies, not from where the command runs.
        found = find_recipe(str(file.parent / parent) if Path(parent).suffix in SUFFIXES else parent)
    except ValueError as error:
        raise ValueError(f"recipe {file.name} extends {parent!r}: {error}") from error
    layers = _read_chain(found, (*children, file))
    for layer in layers:
        layer.pop("published", None)
    return [*layers, loaded]


def _check_keys(loaded, where: str) -> None:
    known = [item.name for item in dataclasses.fields(Recipe)]
    for key in loaded:
        if key not in known:
            near = difflib.get_close_matches(str(key), known, n=1)
            mend = f"did you mean {near[0]!r}?" if near else f"known keys: {', '.join(known)}."
            raise ValueError(f"unknown key {key!r} in {where}; {mend}")
