# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""What may be wrong with a configuration: every problem in words, with the mend."""

import difflib
import math
import unicodedata
from collections import Counter
from typing import Any

from transformers.activations import ACT2FN

from .presets_cssfe import ABLATIONS, CHOICES, GROUPS, LOSSES, PRESETS


def find_problems(config: Any) -> list[str]:
    """Return all problems of a `CSSFEConfig`, each as a clause; none if it is sound."""
    return (
        _problems_of_choices(config)
        + _problems_of_numbers(config)
        + _problems_of_classes(config)
        + _problems_of_calibration(config)
    )


def _problems_of_choices(config: Any) -> list[str]:
    problems = []
    if config.preset not in PRESETS:
        problems.append(f"unknown preset {config.preset!r}: choose one of {', '.join(PRESETS)}")
    if config.ablation not in ABLATIONS:
        problems.append(f"unknown ablation {config.ablation!r}: choose one of {', '.join(ABLATIONS)}")
    for field, values in CHOICES.items():
        value = getattr(config, field)
        # Without a known preset there is nothing to fill a field with; the preset is the problem to report.
        if value not in values and not (value is None and config.preset not in PRESETS):
            problems.append(f"unknown {field} {value!r}: choose one of {', '.join(values)}")
    if config.loss not in LOSSES:
        near = difflib.get_close_matches(str(config.loss), LOSSES, n=1)
        mend = f"did you mean {near[0]!r}" if near else "choose one of them"
        problems.append(f"unknown loss {config.loss!r} (known: {', '.join(LOSSES)}): {mend}")
    if config.hidden_act not in ACT2FN:
        problems.append(
            f"unknown hidden_act {config.hidden_act!r}: choose a name of transformers.activations.ACT2FN, such as gelu"
        )
    if config.problem_type != "multi_label_classification":
        problems.append(f"problem_type is {config.problem_type!r}: only 'multi_label_classification' exists here")
    loading = sorted({"pretrained", "checkpoint_path", "cache_dir"} & (config.backbone_kwargs or {}).keys())
    if loading:
        problems.append(
            f"backbone_kwargs has {loading[0]!r}: a configuration loads nothing; give weights to from_backbone as "
            "backbone_weights"
        )
    return problems


def _problems_of_numbers(config: Any) -> list[str]:
    problems = []
    sizes = config.image_size if isinstance(config.image_size, list | tuple) else [config.image_size] * 2
    if len(sizes) != 2 or any(size < 1 for size in sizes):
        problems.append(f"image_size is {config.image_size!r}: give a number of pixels or [height, width]")
    positive = ["num_channels", "label_embedding_dim", "feature_size", "hidden_size", "attention_size"]
    positive += ["num_attention_heads", "attention_head_dim", "intermediate_size", "num_samples"]
    for field in positive:
        value = getattr(config, field)
        if value is not None and value < 1:
            problems.append(f"{field} is {value}: give a number >= 1")
    for field in ("label_dropout", "hidden_dropout_prob", "attention_probs_dropout_prob"):
        value = getattr(config, field)
        if value is not None and not 0 <= value < 1:
            problems.append(f"{field} is {value}: give a number in [0, 1)")
    if config.discriminant_share is not None and not 0 <= config.discriminant_share <= 1:
        problems.append(f"discriminant_share is {config.discriminant_share}: give a number in [0, 1]")
    if config.num_pretrained_labels < 0:
        problems.append(f"num_pretrained_labels is {config.num_pretrained_labels}: give a number >= 0")
    for field in ("image_mean", "image_std"):
        if len(getattr(config, field)) != config.num_channels:
            problems.append(f"{field} has {len(getattr(config, field))} values for {config.num_channels} channels")
    if not all(math.isfinite(mean) for mean in config.image_mean):
        problems.append(f"image_mean is {config.image_mean}: every value must be finite")
    if not all(0 < std < math.inf for std in config.image_std):
        problems.append(f"image_std is {config.image_std}: every value must be finite and > 0")
    if not 0 <= config.layer_norm_eps < math.inf:
        problems.append(f"layer_norm_eps is {config.layer_norm_eps}: give a small number >= 0")
    if not 0 < config.tail_max <= config.head_min:
        problems.append(f"need 0 < tail_max <= head_min, got tail_max={config.tail_max}, head_min={config.head_min}")
    return problems


def _problems_of_classes(config: Any) -> list[str]:
    problems = []
    if sorted(config.id2label) != list(range(config.num_labels)):
        return [f"id2label has the ids {sorted(config.id2label)}: number the classes 0 to {config.num_labels - 1}"]
    if not config.id2label:
        return ["there is no class: give label_names, or num_labels >= 1"]
    names = list(config.id2label.values())
    if any(not name.strip() for name in names):
        problems.append(f"label name of class {[name.strip() for name in names].index('')} is empty: name every class")
    broken = [name for name in names if any(unicodedata.category(character) in ("Cc", "Cs") for character in name)]
    if broken:
        problems.append(f"label name {broken[0]!r} has a line break or another control character: write it in one line")
    repeated = sorted(name for name, count in Counter(names).items() if count > 1)
    if repeated:
        problems.append(f"label name(s) {', '.join(map(repr, repeated))} given twice: names must differ")
    if config.class_counts is not None:
        if len(config.class_counts) != config.num_labels:
            problems.append(
                f"class_counts has {len(config.class_counts)} entries for {config.num_labels} classes: give one a class"
            )
        else:
            for index, count in enumerate(config.class_counts):
                if count < 1:
                    problems.append(
                        f"class_counts[{index}] ({config.id2label[index]!r}) is {count}: a class without a training "
                        "image cannot be learned; drop it from the label names or add images"
                    )
            if config.num_samples is not None and max(config.class_counts) > config.num_samples >= 1:
                problems.append(
                    f"num_samples is {config.num_samples}, but class_counts has {max(config.class_counts)}: give the "
                    "number of training images, of which each class holds a part"
                )
    if config.thresholds is not None:
        if len(config.thresholds) != config.num_labels:
            problems.append(
                f"thresholds has {len(config.thresholds)} entries for {config.num_labels} classes: give one a class"
            )
        elif not all(0 <= threshold <= 1 for threshold in config.thresholds):
            problems.append(f"thresholds {list(config.thresholds)} must all lie in [0, 1]")
    return problems


def _problems_of_calibration(config: Any) -> list[str]:
    problems = []
    for group, values in (config.calibration or {}).items():
        where = f"calibration[{group!r}]"
        if group not in GROUPS:
            problems.append(f"{where} is of no group: calibrate {', '.join(GROUPS)}")
            continue
        if not isinstance(values, dict) or not {"temperature"} <= set(values) <= {"temperature", "bias"}:
            problems.append(f"{where} is {values!r}: give a temperature and, if wanted, a bias")
            continue
        for name, value in values.items():
            if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
                problems.append(f"{name} of {where} is {value!r}: give a finite number")
            elif name == "temperature" and value <= 0:
                problems.append(f"{name} of {where} is {value}: give a number > 0")
    return problems


__all__ = ["find_problems"]
