# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""Model cards, rendered from a run's results and configuration."""

import dataclasses
import warnings
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import EvalResult, ModelCard, ModelCardData

from ..configuration_cssfe import GROUPS, CSSFEConfig


METHODS = {
    "net0": "Net-0, the baseline: class activation maps of the backbone, averaged.",
    "net1": "Net-1: label embeddings fused with category-specific features, without enhancement.",
    "net2": "Net-2: CSSFE without the distribution-aware mask.",
    "net3": "CSSFE: class activation maps enhanced along the label distribution, fused with label embeddings.",
}


def find_template() -> Path:
    """The card template, inside an installed package or in a checkout's `model_cards`."""
    here = Path(__file__).resolve().parent
    for file in (here / "template.md", here.parents[1] / "model_cards" / "template.md"):
        if file.is_file():
            return file
    raise FileNotFoundError("the model card template is missing; install the package again.")


def render_model_card(results: dict[str, Any], config: CSSFEConfig, model_id: str = ".") -> str:
    """Render the card of a trained model.

    Args:
        results: What `results.json` holds.
        config: The model's configuration.
        model_id: Repository or folder name for the snippet.

    Returns:
        Markdown with the Hub's metadata on top, among it the results that the Hub shows.
    """
    recipe = results["recipe"]
    judged = {results["chosen_on"]: results["validation"]}
    if results["test"] is not None:
        judged[recipe["test_split"]] = results["test"]
    last_name, last = list(judged.items())[-1]
    groups = {group: [name for name, own in zip(config.label_names, config.groups, strict=True) if own == group]
              for group in GROUPS}  # fmt: skip
    environment = results["environment"]
    title = f"CSSFE {recipe['ablation']} with {recipe['backbone']} on {_data_name(recipe['data'])}"
    data = ModelCardData(
        library_name="transformers",
        pipeline_tag="image-classification",
        tags=["cssfe", "multi-label", "long-tailed", "timm"],
        model_name=title,
        eval_results=_eval_results(last, last_name, recipe),
    )
    with warnings.catch_warnings():
        # The snippet may name a folder rather than a repository.
        warnings.simplefilter("ignore")
        card = ModelCard.from_template(
            data,
            template_path=str(find_template()),
            title=title,
            num_labels=config.num_labels,
            groups=groups,
            method=METHODS[recipe["ablation"]],
            chosen_on=results["chosen_on"],
            test=results["test"] is not None,
            test_name=recipe["test_split"],
            rows=[
                [name, *(_percent(result[f"map_{part}"]) for part in ("total", *GROUPS))]
                for name, result in judged.items()
            ],
            seed=results["seed"],
            absent=last["absent_classes"],
            classes=[
                [_cell(row["name"]), row["group"], row["class_count"], _percent(row["average_precision"])]
                for row in sorted(last["class_table"], key=lambda row: -row["class_count"])
            ],
            model_id=model_id,
            tail_max=config.tail_max,
            num_training_images=results["num_training_images"],
            epochs=recipe["epochs"],
            wall_time=_duration(results["wall_time_seconds"]),
            hardware=environment["accelerator"] or f"{environment['cores']} CPU cores",
            settings=_non_default_settings(recipe),
        )
    return str(card)


def _non_default_settings(recipe: dict[str, Any]) -> str:
    from ..training.recipe import Recipe

    defaults = dataclasses.asdict(Recipe())
    changed = {key: value for key, value in recipe.items() if value != defaults[key]}
    for key in ("data", "backbone_weights", "label_embeddings"):
        # A local path says something about somebody's disk and nothing about the model.
        if isinstance(changed.get(key), str):
            changed[key] = _data_name(changed[key])
    return yaml.safe_dump(changed, sort_keys=False).strip() if changed else "# none"


def _eval_results(result: dict[str, Any], split: str, recipe: dict[str, Any]) -> list[EvalResult]:
    name = _data_name(recipe["data"])
    return [
        EvalResult(
            task_type="image-classification",
            dataset_type=name,
            dataset_name=name,
            dataset_split=split,
            metric_type="mAP",
            metric_name=f"mAP {part}",
            metric_value=round(result[f"map_{part}"], 4),
        )
        for part in ("total", *GROUPS)
        if result[f"map_{part}"] is not None
    ]


def _data_name(data: str) -> str:
    return Path(data).name or data


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _duration(seconds: float) -> str:
    minutes = seconds / 60
    return f"{seconds:.0f} s" if minutes < 2 else f"{minutes:.0f} min" if minutes < 120 else f"{minutes / 60:.1f} h"


__all__ = ["find_template", "render_model_card"]
