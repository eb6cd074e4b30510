# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""What defines a training run: the `Recipe`."""

from dataclasses import dataclass, field
from typing import Any

from .checks import find_problems


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
        problems = find_problems(self)
        if problems:
            raise ValueError("the recipe has " + f"{len(problems)} problem(s): " + "; ".join(problems) + ".")


__all__ = ["Recipe"]
