# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""Configuration of CSSFE: Category-Specific Selective Feature Enhancement (ICCV 2025).

The places where the paper and its released code differ are fields here; `presets_cssfe` has their values.
"""

import dataclasses
from typing import Any, ClassVar

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig
from transformers.utils import logging

from .checks_cssfe import find_problems
from .presets_cssfe import ABLATIONS, CHOICES, GROUPS, PRESETS


logger = logging.get_logger(__name__)


def assign_groups(class_counts, head_min: int = 100, tail_max: int = 20) -> list[str]:
    """Assign every class to `"head"`, `"medium"` or `"tail"` by its number of training images.

    The papers write "more than 100" for head; only "100 or more" gives their 6:6:8 (LT-VOC) and 22:33:25 (LT-COCO).

    Args:
        class_counts: Training images of each class, length C.
        head_min: Smallest count of a head class.
        tail_max: Counts below it are tail.

    Returns:
        C group names, in the order of the classes. Groups may be empty.

    Raises:
        ValueError: A negative count, or thresholds that overlap.
    """
    if not 0 < tail_max <= head_min:
        raise ValueError(f"need 0 < tail_max <= head_min, got tail_max={tail_max} and head_min={head_min}.")
    groups = []
    for index, count in enumerate(class_counts):
        if count < 0:
            raise ValueError(f"class_counts[{index}] is {count}; a number of training images is 0 or more.")
        groups.append("head" if count >= head_min else "tail" if count < tail_max else "medium")
    return groups


def _whole_numbers(values: Any) -> list[int] | None:
    """Numbers of a list, an array or a tensor as a list of `int`; no fraction is cut off."""
    if values is None:
        return None
    if isinstance(values, str | bytes | dict):
        raise TypeError
    numbers = list(values.tolist() if hasattr(values, "tolist") else values)
    whole = [int(number) for number in numbers]
    if any(isinstance(number, bool) or number != other for number, other in zip(numbers, whole, strict=True)):
        raise ValueError
    return whole


def _numbers_classes(id2label: Any) -> bool:
    """Whether it is a mapping whose keys are whole numbers, as text in JSON; `None` says nothing and may stay."""
    if not isinstance(id2label, dict):
        return id2label is None
    return all(isinstance(key, int) or (isinstance(key, str) and key.isdecimal()) for key in id2label)


def _asl_options(preset: str) -> dict[str, float] | None:
    """Options of ASL as a preset has them; `None` if there is no such preset."""
    if preset not in PRESETS:
        return None
    return {"gamma_pos": 0.0, "gamma_neg": 4.0, "margin": PRESETS[preset]["asl_margin"]}


@strict
class CSSFEConfig(PreTrainedConfig):
    r"""Configuration of a CSSFE model.

    Args:
        backbone (`str`, *optional*, defaults to `"resnet50"`):
            Name of a timm architecture with spatial features. Never triggers a download.
        backbone_kwargs (`dict`, *optional*):
            Further arguments of `timm.create_model`, for example `{"output_stride": 16}` or `{"drop_path_rate": 0.1}`.
        stride_in_first_convolution (`bool`, *optional*, defaults to `False`):
            For ResNets with bottlenecks: a block that halves the map does so in its first convolution (1x1), as in the
            paper of 2015 and in Caffe's and Keras's weights, and not in its 3x3 one, as in timm's and torchvision's.
        image_size (`int` or `list[int]`, *optional*, defaults to 448):
            Image side in pixels, or `[height, width]`.
        num_channels (`int`, *optional*, defaults to 3):
            Image channels.
        image_mean, image_std (`list[float]`, *optional*):
            Normalisation of pixel values in [0, 1]; ImageNet's by default.
        label_names (`list[str]`, *optional*):
            Names of the classes; sets `id2label` and `label2id`. Not a field of its own.
        class_counts (`list[int]`, *optional*):
            Training images of each class, all >= 1. Groups and mask come from it. Without it there is one group and
            therefore no mask.
        num_samples (`int`, *optional*):
            Training images in all; some losses need it.
        head_min, tail_max (`int`, *optional*, defaults to 100 and 20):
            A class with `head_min` images or more is head, one with fewer than `tail_max` is tail.
        preset (`str`, *optional*, defaults to `"corrected"`):
            `"paper"`, `"released"`, `"corrected"` or `"plus"`; gives every field below that is not given itself.
        ablation (`str`, *optional*, defaults to `"net3"`):
            `"net0"` backbone and class activation maps; `"net1"` adds label embeddings and fusion; `"net2"` adds the
            enhancement without mask; `"net3"` is the whole.
        label_embedding_dim (`int`, *optional*, defaults to 512):
            Width T of the frozen label embeddings.
        label_embedding_provenance (`dict`, *optional*):
            Where the label embeddings came from; for the model card.
        feature_size (`int`, *optional*):
            Width D of the features. Where the backbone's differs, a 1x1 convolution brings it there. `None`: the
            backbone's.
        hidden_size (`int`, *optional*):
            Width of label and feature tokens. `None`: D.
        attention_size (`int`, *optional*):
            Width d_k of queries and keys of the enhancement. `None`: `hidden_size`.
        label_projection (`str`, *optional*): `"linear"` or `"mlp"`.
        label_dropout (`float`, *optional*): Dropout of the transferred label embeddings.
        center_label_embeddings (`bool`, *optional*):
            Whether to subtract the mean embedding of the classes no rarer than a class's group, and scale each row to
            length sqrt(T).
        mask_mode (`str`, *optional*): `"multiply_weights"`, `"multiply_scores"` or `"remove"`.
        map_value_projection (`str`, *optional*): `"none"`, `"per_class"` or `"spatial"`; the linear map V.
        enhancement_residual (`bool`, *optional*): Whether the enhanced maps include the original ones.
        map_gate (`bool`, *optional*): Whether `sigmoid(Linear(LE) -> H W)` gates the maps; fixes the map size.
        map_pooling (`str`, *optional*): `"mean"`, `"relu"` or `"softmax"`.
        fusion_mode (`str`, *optional*): `"tokens"` or `"channels"`.
        fusion_residual (`bool`, *optional*): Whether the fusion block has residual connections.
        fusion_final_norm (`bool`, *optional*): Whether a LayerNorm follows the fusion block.
        num_attention_heads, attention_head_dim (`int`, *optional*): Heads of the fusion block and their width.
        intermediate_size (`int`, *optional*): Width of the fusion block's feed-forward layer.
        hidden_act (`str`, *optional*, defaults to `"gelu"`): Its activation.
        qkv_bias (`bool`, *optional*, defaults to `False`): Whether its query, key and value layers have a bias.
        layer_norm_eps (`float`, *optional*, defaults to 1e-5): Epsilon of its LayerNorms.
        hidden_dropout_prob, attention_probs_dropout_prob (`float`, *optional*): Its dropouts.
        classifier (`str`, *optional*): `"dot_product"` or `"per_class_linear"`.
        discriminant_share (`float`, *optional*):
            Share in [0, 1] of a discriminant in the logit of net1 to net3: a linear classifier of the mean features
            that is set in closed form (`set_discriminant`) and not trained; the loss is that of the fused logit alone.
        num_pretrained_labels (`int`, *optional*, defaults to 0):
            Labels of the classifier that the backbone was pretrained with, 1,000 for ImageNet's, if the discriminant is
            to hear what it says of an image. `set_pretrained_classifier` sets it.
        loss (`str`, *optional*, defaults to `"asl"`):
            Name of the training loss. `"asl"` and `"bce"` travel with the model; the others need the package.
        loss_kwargs (`dict`, *optional*):
            Options of the loss. For `"asl"` the preset gives the margin: none in the paper, .05 in the released code.
        thresholds (`list[float]`, *optional*):
            Decision threshold of each class in [0, 1], used by the image processor's post-processing. It is compared
            with the score, a plain sigmoid of the logit, with or without `calibration`.
        calibration (`dict[str, dict]`, *optional*):
            Group -> `{"temperature": > 0, "bias": number}`: a class of the group has the calibrated probability
            `sigmoid(logit / temperature + bias)`. A group that is not named, and a missing bias, change nothing.

    Raises:
        ValueError: With every problem of the configuration in one message.

    Example:

    ```python
    >>> from modeling_cssfe import CSSFEConfig

    >>> config = CSSFEConfig(label_names=["person", "dog", "cow"], class_counts=[775, 48, 4])
    >>> config.groups
    ['head', 'medium', 'tail']
    >>> CSSFEConfig(preset="released").mask_mode
    'multiply_scores'

    ```
    """

    model_type = "cssfe"
    # What Trainer is not to gather: `predictions` are the logits alone, and maps of a whole set would fill the memory.
    keys_to_ignore_at_inference: ClassVar = [
        "class_activation_maps",
        "enhanced_activation_maps",
        "hidden_states",
        "attentions",
    ]

    backbone: str = "resnet50"
    backbone_kwargs: dict | None = None
    stride_in_first_convolution: bool = False
    image_size: int | list[int] | tuple[int, int] = 448
    num_channels: int = 3
    image_mean: list[float | int] | tuple[float | int, ...] = (0.485, 0.456, 0.406)
    image_std: list[float | int] | tuple[float | int, ...] = (0.229, 0.224, 0.225)
    problem_type: str | None = "multi_label_classification"
    class_counts: Any = None  # a list from `__post_init__` on; arrays and tensors are taken as well
    num_samples: int | None = None
    head_min: int = 100
    tail_max: int = 20
    preset: str = "corrected"
    ablation: str = "net3"
    label_embedding_dim: int = 512
    label_embedding_provenance: dict | None = None
    feature_size: int | None = None
    hidden_size: int | None = None
    attention_size: int | None = None
    label_projection: str | None = None
    label_dropout: float | int | None = None
    center_label_embeddings: bool | None = None
    mask_mode: str | None = None
    map_value_projection: str | None = None
    enhancement_residual: bool | None = None
    map_gate: bool | None = None
    map_pooling: str | None = None
    fusion_mode: str | None = None
    fusion_residual: bool | None = None
    fusion_final_norm: bool | None = None
    num_attention_heads: int | None = None
    attention_head_dim: int | None = None
    intermediate_size: int | None = None
    hidden_act: str = "gelu"
    qkv_bias: bool = False
    layer_norm_eps: float | int = 1e-5
    hidden_dropout_prob: float | int | None = None
    attention_probs_dropout_prob: float | int | None = None
    classifier: str | None = None
    discriminant_share: float | int | None = None
    num_pretrained_labels: int = 0
    loss: str = "asl"
    loss_kwargs: dict | None = None
    thresholds: list[float | int] | tuple[float | int, ...] | None = None
    calibration: dict | None = None

    def __post_init__(self, label_names=None, **kwargs):
        problems = []
        if isinstance(label_names, str) or not (label_names is None or hasattr(label_names, "__iter__")):
            what = "the text " if isinstance(label_names, str) else ""
            problems.append(f"label_names is {what}{label_names!r}: give a list of names")
            label_names = None
        given: Any = self.id2label  # type: ignore[has-type]
        if not _numbers_classes(given):
            problems.append(f"id2label is {given!r}: give a dict from class ids to names")
            self.id2label = {0: "LABEL_0"}  # so that what else is wrong can be told as well
        try:
            self.class_counts = _whole_numbers(self.class_counts)
        except (TypeError, ValueError, OverflowError):
            problems.append(
                f"class_counts is {self.class_counts!r}: give a whole number a class, in the order of the classes"
            )
            self.class_counts = None
        if label_names is not None:
            label_names = [str(name) for name in label_names]
            given = self.id2label
            if given is not None and [given[key] for key in sorted(given, key=int)] != label_names:
                problems.append("label_names and id2label name different classes: give one of them")
            if kwargs.get("num_labels", len(label_names)) != len(label_names):
                problems.append(
                    f"num_labels is {kwargs.pop('num_labels')}, but label_names has {len(label_names)} names: give one "
                    "of them"
                )
            self.id2label = dict(enumerate(label_names))
        elif self.id2label is None and self.class_counts is not None:
            kwargs.setdefault("num_labels", len(self.class_counts))
        if self.id2label is not None:
            self.id2label = {int(key): str(name) for key, name in self.id2label.items()}
            self.label2id = {name: index for index, name in self.id2label.items()}
        if self.preset in PRESETS:
            for field, value in PRESETS[self.preset].items():
                if field != "asl_margin" and getattr(self, field) is None:
                    setattr(self, field, value)
            if self.loss == "asl" and self.loss_kwargs is None:
                self.loss_kwargs = _asl_options(self.preset)
        super().__post_init__(**kwargs)
        self._raise_if(problems + find_problems(self))

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """Build a configuration from a saved one, with fields given by name in the place of saved ones.

        What a new value puts out of date does not stay: with another number of classes the saved names, counts,
        thresholds and calibration, with another loss its options, with another preset all fields that presets set (a
        warning names those that had values of their own). `from_pretrained` comes this way.

        Raises:
            ValueError: With every problem of the configuration in one message.
        """
        saved = dict(config_dict)
        known = {field.name for field in dataclasses.fields(cls)} | {"label_names", "num_labels"}
        given = {key: kwargs.pop(key) for key in sorted(known & kwargs.keys()) if key not in ("dtype", "torch_dtype")}
        count = len(saved.get("id2label") or ())
        if {"label_names", "id2label"} & given.keys() or given.get("num_labels", count) != count:
            saved.pop("id2label", None)
            saved.pop("label2id", None)
        names = given.get("label_names") or given.get("id2label")
        if (len(names) if names is not None else given.get("num_labels", count)) != count:
            if saved.get("class_counts") is not None and given.get("class_counts") is None:
                logger.warning(
                    "The saved class_counts are of other classes and are dropped: without class_counts all classes are "
                    "one group, and nothing is masked. Give class_counts=[...], the training images of each class."
                )
            for key in ("class_counts", "num_samples", "thresholds", "calibration"):
                saved.pop(key, None)
        preset = PRESETS.get(saved.get("preset", "corrected"), {})
        if given.get("preset", saved.get("preset")) != saved.get("preset"):
            own = [key for key, value in preset.items() if saved.get(key, value) != value and key not in given]
            if own:
                logger.warning(
                    f"The preset {given['preset']!r} sets {', '.join(own)}, which the saved configuration had of its "
                    "own; give what is to stay as well."
                )
            for key in preset:
                saved.pop(key, None)
            if saved.get("loss_kwargs") == _asl_options(saved.get("preset", "corrected")):
                saved.pop("loss_kwargs", None)
        if given.get("loss", saved.get("loss")) != saved.get("loss"):
            saved.pop("loss_kwargs", None)
        return super().from_dict(saved | given, **kwargs)

    @property
    def label_names(self) -> list[str]:
        """`list[str]`: Class names in the order of the class ids."""
        return [self.id2label[index] for index in range(self.num_labels)]

    @property
    def groups(self) -> list[str]:
        """`list[str]`: `"head"`, `"medium"` or `"tail"` for each class; all `"head"` without `class_counts`."""
        if self.class_counts is None:
            return ["head"] * self.num_labels
        return assign_groups(self.class_counts, self.head_min, self.tail_max)

    @property
    def class_calibration(self) -> list[tuple[float, float]] | None:
        """`list[tuple[float, float]]`: Temperature and bias of each class; `None` without `calibration`."""
        if self.calibration is None:
            return None
        values = [self.calibration.get(group, {}) for group in self.groups]
        return [(float(value.get("temperature", 1.0)), float(value.get("bias", 0.0))) for value in values]

    @property
    def group_ranks(self) -> list[int]:
        """`list[int]`: 0 for head, 1 for medium, 2 for tail: class `a` may receive from `b` if rank(b) <= rank(a)."""
        return [GROUPS.index(group) for group in self.groups]

    @property
    def uses_fusion(self) -> bool:
        """`bool`: Whether label embeddings and the fusion block exist (net1 and up)."""
        return self.ablation != "net0"

    @property
    def uses_enhancement(self) -> bool:
        """`bool`: Whether maps are enhanced (net2 and up)."""
        return self.ablation in ("net2", "net3")

    @property
    def uses_mask(self) -> bool:
        """`bool`: Whether the enhancement is masked by group (net3)."""
        return self.ablation == "net3"

    @property
    def image_height_and_width(self) -> tuple[int, int]:
        """`tuple[int, int]`: `image_size` as a pair."""
        if isinstance(self.image_size, int):
            return self.image_size, self.image_size
        height, width = self.image_size
        return height, width

    def validate_architecture(self):
        """Check the whole configuration; runs by itself after construction and before saving."""
        self._raise_if(find_problems(self))

    @staticmethod
    def _raise_if(problems: list[str]):
        if problems:
            raise ValueError(f"CSSFEConfig has {len(problems)} problem(s): " + "; ".join(problems) + ".")


__all__ = ["ABLATIONS", "CHOICES", "GROUPS", "PRESETS", "CSSFEConfig", "assign_groups"]
