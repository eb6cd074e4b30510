# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""Model cards, rendered from what is known about a model; what is not known is said to be unknown."""

import re
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from ..common.markdown import escape_markdown
from ..configuration_cssfe import GROUPS, CSSFEConfig
from .card_facts import seal
from .card_sections import (
    JudgedRow,
    describe_data,
    describe_figures,
    describe_limits,
    describe_maps,
    describe_thresholds,
    describe_training,
    glance_table,
    judged_rows,
    name_of_data,
)
from .card_snippet import build_snippet
from .staging import without_paths


METHODS = {
    "net0": "Net-0, the baseline: class activation maps of the backbone, averaged.",
    "net1": "Net-1: label embeddings fused with category-specific features, without enhancement.",
    "net2": "Net-2: CSSFE without the distribution-aware mask.",
    "net3": "CSSFE: class activation maps enhanced along the label distribution, fused with label embeddings.",
}
_NO_LICENSE = (
    "None was chosen, so others have no right to use the model yet. `cssfe card --license apache-2.0`, or another of "
    "the Hub's identifiers, states one; the licences of the data and of the backbone's weights may bind the model, too."
)


def find_template() -> Path:
    """The card template, inside an installed package or in a checkout's `model_cards`."""
    here = Path(__file__).resolve().parent
    for file in (here / "template.md", here.parents[1] / "model_cards" / "template.md"):
        if file.is_file():
            return file
    raise FileNotFoundError("the model card template is missing; install the package again.")


def render_model_card(
    results: Mapping[str, Any] | None,
    config: CSSFEConfig,
    model_id: str = ".",
    *,
    thresholds: Mapping[str, Any] | None = None,
    record: Mapping[str, Any] | None = None,
    emissions: Mapping[str, Any] | None = None,
) -> str:
    """Render the card of a model.

    Args:
        results: What `results.json` holds; None for a model without, whose card says so.
        config: The model's configuration.
        model_id: Repository name for the snippet; `"."` for the model's own folder.
        thresholds: What `thresholds.json` holds.
        record: What `card.json` holds: figures with intervals, pictures, what the snippet printed, licence.
        emissions: `kg` of CO2, `kwh` and `country`.

    Returns:
        Markdown with the Hub's metadata on top, among it the results that the Hub shows.
    """
    record = record or {}
    recipe = (results or {}).get("recipe", {})
    data = name_of_data(recipe["data"]) if "data" in recipe else None
    title = f"CSSFE {config.ablation} with {config.backbone}" + (f" on {data}" if data else "")
    rows = judged_rows(results, record, config)
    pictures = {name: picture["file"] for name, picture in record.get("pictures", {}).items()}
    license = record.get("license")
    metadata = {
        "base_model": _base_model(recipe),
        "datasets": [data] if data and re.fullmatch(r"[\w.-]+/[\w.-]+", data) else None,
        "license": license,
        "co2_eq_emissions": emissions and _emissions_for_the_hub(emissions),
    }
    card_data = ModelCardData(
        library_name="transformers",
        pipeline_tag="image-classification",
        tags=["cssfe", "multi-label", "long-tailed", "timm"],
        model_name=title,
        eval_results=_eval_results(rows) or None,
        **{name: value for name, value in metadata.items() if value},  # type: ignore[arg-type]
    )
    snippet = record.get("snippet") or {}
    shown = {
        **describe_data(results, config, data),
        **describe_figures(rows, results, config),
        **describe_thresholds(config, thresholds),
        **describe_training(results, config, emissions),
        "maps": describe_maps(record, config),
        "limits": describe_limits(rows, config, thresholds),
    }
    with warnings.catch_warnings():
        # The snippet may name a folder rather than a repository.
        warnings.simplefilter("ignore")
        card = ModelCard.from_template(
            card_data,
            template_path=str(find_template()),
            title=escape_markdown(title),
            num_labels=config.num_labels,
            method=METHODS[config.ablation],
            glance=glance_table(results, config, data),
            snippet=build_snippet(config, model_id),
            # What another snippet printed says nothing about this one.
            snippet_output=snippet.get("output") if snippet.get("code") == build_snippet(config) else None,
            average_precision_picture=pictures.get("average_precision"),
            maps_picture=pictures.get("maps"),
            example_picture=pictures.get("example"),
            license_text=f"`{license}`" if license else _NO_LICENSE,
            **shown,
        )
    return seal(re.sub(r"\n{3,}", "\n\n", str(card)).rstrip() + "\n")


def _base_model(recipe: Mapping[str, Any]) -> str | None:
    if (initial := recipe.get("initial_model")) is not None:
        return initial if initial.count("/") == 1 and without_paths(initial) == initial else None
    if recipe.get("backbone_weights") is not True:
        return None
    import timm

    source = timm.get_pretrained_cfg(recipe["backbone"])
    return getattr(source, "hf_hub_id", None)


def _emissions_for_the_hub(emissions: Mapping[str, Any]) -> dict[str, Any]:
    found = {"emissions": round(1000 * emissions["kg"], 3), "source": "CodeCarbon"}  # the Hub's unit is grams
    return found | ({"geographical_location": emissions["country"]} if emissions["country"] else {})


def _eval_results(rows: Sequence[JudgedRow]) -> list[EvalResult]:
    # Figures of the images that chose the epoch are optimistic; they stand in only where there are no others.
    rows = [row for row in rows if not row.chose_epoch] or rows
    return [
        EvalResult(
            task_type="image-classification",
            dataset_type=row.data,
            dataset_name=row.data,
            dataset_split=row.split,
            metric_type="mAP",
            metric_name=f"mAP {part}",
            metric_value=round(row.figures[f"map_{part}"], 4),
            metric_args=_interval_for_the_hub(row, f"map_{part}"),
        )
        for row in rows
        for part in ("total", *GROUPS)
        if row.figures.get(f"map_{part}") is not None
    ]


def _interval_for_the_hub(row: JudgedRow, figure: str) -> dict[str, Any] | None:
    if figure not in row.intervals:
        return None
    low, high = row.intervals[figure]
    return {"confidence": row.confidence, "low": round(low, 4), "high": round(high, 4)}


__all__ = ["find_template", "render_model_card"]
