# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""The parts of a model card: tables and sentences. What nobody recorded is said to be so, never left out in silence."""

import dataclasses
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from ..common.markdown import duration, escape_markdown, markdown_table, percent, probability
from ..configuration_cssfe import GROUPS, CSSFEConfig
from .staging import without_paths


UNKNOWN = "not recorded"
PARTS = ("total", *GROUPS)
_MAX_CLASSES_LISTED = 100  # a longer table is not read
_WEAKEST_LISTED = 5


@dataclass(frozen=True)
class JudgedRow:
    """What a model was judged on, and how it did.

    Attributes:
        data: Name of the data set.
        split: Its split.
        figures: Of `long_tail_map`: `map_total`, ..., `class_table`, `absent_classes`.
        chose_epoch: Whether these images chose the epoch.
        intervals: Figure -> (low, high).
        class_intervals: Class -> (low, high) of its average precision.
        confidence: Share of resamples within an interval.
        notes: How the intervals were made.
        recorded: mAP that the run itself wrote down for these images, if they were judged again.
    """

    data: str
    split: str
    figures: Mapping[str, Any]
    chose_epoch: bool
    intervals: Mapping[str, tuple[float, float]] = dataclasses.field(default_factory=dict)
    class_intervals: Mapping[str, tuple[float, float]] = dataclasses.field(default_factory=dict)
    confidence: float | None = None
    notes: tuple[str, ...] = ()
    recorded: float | None = None


def judged_rows(results: Mapping[str, Any] | None, record: Mapping[str, Any], config: CSSFEConfig) -> list[JudgedRow]:
    """Everything that the model was judged on; images that were judged again for the card stand there once."""
    rows = []
    if results is not None:
        data = name_of_data(results["recipe"]["data"])
        rows = [JudgedRow(data, results["chosen_on"], results["validation"], True)]
        if results.get("test") is not None:
            rows.append(JudgedRow(data, results["recipe"]["test_split"], results["test"], False))
    judged = record.get("judged")
    if judged is None:
        return rows
    same = next((row for row in rows if (row.data, row.split) == (judged["data"], judged["split"])), None)
    again = JudgedRow(
        data=judged["data"],
        split=judged["split"],
        figures=judged["figures"],
        chose_epoch=same is not None and same.chose_epoch,
        intervals={name: tuple(ends) for name, ends in judged["intervals"].items()},
        class_intervals={name: tuple(ends) for name, ends in judged["class_intervals"].items()},
        confidence=judged["confidence"],
        notes=tuple(judged["notes"]),
        recorded=None if same is None else same.figures["map_total"],
    )
    return [again if row is same else row for row in rows] + ([] if same else [again])


def glance_table(results: Mapping[str, Any] | None, config: CSSFEConfig, data: str | None) -> str:
    """The first table of a card."""
    known = results or {}
    parameters = known.get("num_parameters")
    rows = [
        ("task", "multi-label image classification"),
        ("labels", f"{config.num_labels}{_group_sizes(config)}"),
        ("image size", f"{config.image_size} px"),
        ("backbone", escape_markdown(config.backbone)),
        ("method", f"`{config.ablation}`, preset `{config.preset}`"),
        ("label embeddings", _embeddings(config)),
        ("trained on", UNKNOWN if data is None else escape_markdown(data)),
        ("parameters", UNKNOWN if parameters is None else f"{parameters / 1e6:.1f} million"),
    ]
    return markdown_table(rows[0], rows[1:])


def describe_data(results: Mapping[str, Any] | None, config: CSSFEConfig, data: str | None) -> dict[str, str]:
    """The section on the training data: `data` and `data_table`."""
    images = (results or {}).get("num_training_images") or config.num_samples
    counts = config.class_counts
    if counts is None:
        return {"data": f"Training images of each class: {UNKNOWN}.", "data_table": ""}
    name = "training data" if data is None else f"training split of {escape_markdown(data)}"
    text = f"The {name} has {UNKNOWN if images is None else f'{images:,}'} images"
    if images:
        text += f" with {sum(counts) / images:.1f} labels each on average"
    if min(counts) > 0:
        text += f"; the most frequent class has {max(counts) / min(counts):.0f} times the images of the rarest"
    text += f". Head classes have {config.head_min} images or more, tail classes fewer than {config.tail_max}."
    skipped = sum(len(names) for names in (results or {}).get("skipped_images", {}).values())
    if skipped:
        text += f" {skipped} images could not be read and were left out."
    rows = []
    for group in GROUPS:
        own = [n for n, other in zip(counts, config.groups, strict=True) if other == group]
        span = "-" if not own else str(min(own)) if min(own) == max(own) else f"{min(own)} to {max(own)}"
        rows.append((group, len(own), span, f"{sum(own):,}"))
    rows.append(("all", len(counts), f"{min(counts)} to {max(counts)}", f"{sum(counts):,}"))
    return {
        "data": text,
        "data_table": markdown_table(("group", "classes", "images of a class", "labels"), rows, numbers_from=1),
    }


def describe_figures(
    rows: Sequence[JudgedRow], results: Mapping[str, Any] | None, config: CSSFEConfig
) -> dict[str, Any]:
    """The section on figures: `judged_on`, `figures_table`, `figure_notes` and `class_table`."""
    if not rows:
        text = "No results were recorded with this model; `cssfe card --data` judges it."
        return {"judged_on": text, "figures_table": "", "figure_notes": [], "class_table": ""}
    text, notes = "Mean average precision in percent.", []
    if results is not None:
        text += f" The best epoch was chosen on `{results['chosen_on']}`"
        text += (
            f"; `{results['recipe']['test_split']}` was judged at the end." if results.get("test") is not None else "."
        )
        if results.get("test") is None:
            notes.append("No test split was judged: the figures of the split that chose the epoch are optimistic.")
        seed = results.get("seed", UNKNOWN)
        notes.append(
            f"One training run (seed {seed}); other seeds give other figures, on small tails by several points."
        )
    several = len({row.data for row in rows}) > 1
    table = [
        (
            escape_markdown(f"{row.data}, {row.split}" if several else row.split),
            f"{row.figures['num_images']:,}" if "num_images" in row.figures else "-",
            *(percent(row.figures.get(f"map_{part}"), row.intervals.get(f"map_{part}")) for part in PARTS),
        )
        for row in rows
    ]
    last = rows[-1]
    notes += [escape_markdown(note) for row in rows for note in row.notes]
    if not last.intervals:
        notes.append("No intervals were computed: the run keeps no scores; `cssfe card --data` adds them.")
    for row in rows:
        if row.recorded is not None and abs(row.recorded - row.figures["map_total"]) > 0.005:
            notes.append(
                f"Judged again for this card, on {row.split}; the run itself recorded {percent(row.recorded)} in "
                "total, so the images or the precision differ."
            )
    if absent := last.figures.get("absent_classes"):
        names = ", ".join(map(escape_markdown, absent))
        notes.append(f"Without a positive image in the judged split, and left out of all means: {names}.")
    if any(row.figures.get(f"map_{part}") is None for row in rows for part in PARTS):
        notes.append("-: the group has no class with a positive image.")
    return {
        "judged_on": text,
        "figures_table": markdown_table(("split", "images", *PARTS), table, numbers_from=1),
        "figure_notes": notes,
        "class_table": _class_table(last),
    }


def describe_thresholds(config: CSSFEConfig, thresholds: Mapping[str, Any] | None) -> dict[str, str]:
    """The section on thresholds: `thresholds` and `threshold_table`."""
    if config.thresholds is None:
        text = (
            "None were chosen: a label is decided on at .5, which is rarely right for the tail; see `cssfe thresholds`."
        )
        return {"thresholds": text, "threshold_table": ""}
    by_name = dict(zip(config.label_names, config.thresholds, strict=True))
    entries = {entry["name"]: entry for entry in (thresholds or {}).get("classes", [])}
    known = entries.keys() == by_name.keys()
    if (
        thresholds is None
        or not known
        or any(abs(entries[name]["threshold"] - by_name[name]) > 1e-9 for name in entries)
    ):
        text = "Decide on a label where its score is at or above its threshold. Where the thresholds come from: "
        table = [(escape_markdown(name), probability(value)) for name, value in _by_count(config, by_name)]
        return {
            "thresholds": text + f"{UNKNOWN}.",
            "threshold_table": markdown_table(("class", "threshold"), table, numbers_from=1),
        }
    wanted = {"f1": "F1"}.get(thresholds["objective"], thresholds["objective"]) + (
        f" {thresholds['target']:g}" if thresholds["target"] else ""
    )
    data = escape_markdown(name_of_data(thresholds["data"]))
    text = (
        f"Decide on a label where its score is at or above its threshold. Chosen for {wanted} on "
        f"{thresholds['num_images']:,} images, split `{thresholds['split']}` of {data}; the figures in this table are "
        "of the same images and flatter it."
    )
    held_out = thresholds.get("held_out_f1")
    if held_out:
        pairs = ", ".join(
            f"{part} {percent(held_out['at_half'][part])} → {percent(held_out['chosen'][part])}"
            for part in PARTS
            if held_out["chosen"].get(part) is not None
        )
        text += (
            f" On images that they were not chosen on ({held_out['num_folds']} folds), macro F1 in percent goes, "
            f"from .5 to the chosen thresholds: {pairs}."
        )
    if config.calibration:
        text += " The model also carries calibrated probabilities (temperature and bias of each group)."
    table = []
    for name, value in _by_count(config, by_name):
        entry = entries[name]
        few = f"{entry['num_positives']}{' (few)' if entry['few_positives'] else ''}"
        figures = (percent(entry[figure]) for figure in ("precision", "recall", "f1", "f1_at_half"))
        table.append((escape_markdown(name), entry["group"], few, probability(value), *figures))
    heads = ("class", "group", "positives", "threshold", "precision", "recall", "F1", "F1 at .5")
    return {"thresholds": text, "threshold_table": _first_rows(heads, table, 2, "thresholds.json")}


def describe_maps(record: Mapping[str, Any], config: CSSFEConfig) -> str:
    """The caption of the maps."""
    maps = record.get("pictures", {}).get("maps")
    if maps is None:
        return "No pictures were drawn, as no images were given: `cssfe card --data` adds them, `cssfe explain` others."
    examples = "; ".join(f"{entry['group']}: {escape_markdown(entry['label'])}" for entry in maps["examples"])
    if config.ablation == "net0":
        signs = "Red speaks for the label, blue against it: the logit is the mean of the map."
    elif config.map_pooling == "relu":
        signs = "Red is positive, blue negative; features of the label are gathered where its last map is red."
    else:
        signs = (
            "Red is positive, blue negative; either may stand on the object, the magnitude says where the model looks."
        )
    enhanced = ", before and after enhancement" if config.uses_enhancement else ""
    return (
        f"Class activation maps{enhanced}. {signs} Each map has its own scale. Rows: {examples}. They were not picked "
        "by hand: of each group the class with the median average precision, and of its images that of median score."
    )


def describe_limits(rows: Sequence[JudgedRow], config: CSSFEConfig, thresholds: Mapping[str, Any] | None) -> list[str]:
    """What to be careful about, with this model's own figures."""
    limits = []
    figures = rows[-1].figures if rows else {}
    tail = [name for name, group in zip(config.label_names, config.groups, strict=True) if group == "tail"]
    if tail:
        text = f"{len(tail)} labels were learned from fewer than {config.tail_max} images each"
        head, own = figures.get("map_head"), figures.get("map_tail")
        if head is not None and own is not None:
            text += f" (mean average precision of the tail {percent(own)}, of the head {percent(head)})"
        limits.append(text + "; their scores are less reliable than the head's.")
    table = [row for row in figures.get("class_table", []) if row["average_precision"] is not None]
    weakest = sorted(table, key=lambda row: row["average_precision"])[:_WEAKEST_LISTED]
    if weakest:
        named = ", ".join(
            f"{escape_markdown(row['name'])} {percent(row['average_precision'])} ({row['class_count']} training images)"
            for row in weakest
        )
        limits.append(f"Weakest by average precision: {named}.")
    few = [row for row in table if 0 < row["num_positives"] < 10]
    if few:
        named = ", ".join(f"{escape_markdown(row['name'])} ({row['num_positives']})" for row in few[:20])
        more = f" and {len(few) - 20} more" if len(few) > 20 else ""
        limits.append(f"Judged on fewer than 10 positive images, so hardly at all: {named}{more}.")
    uncertain = [entry["name"] for entry in (thresholds or {}).get("classes", []) if entry["few_positives"]]
    if uncertain:
        named = ", ".join(map(escape_markdown, uncertain[:20]))
        more = f" and {len(uncertain) - 20} more" if len(uncertain) > 20 else ""
        limits.append(f"Thresholds that rest mostly on the other classes of their group: {named}{more}.")
    limits.append(
        "A label that is not among those of the model is never found, and images unlike the training data may get high "
        "scores. Judge the model on your own images before relying on it."
    )
    return limits


def describe_training(
    results: Mapping[str, Any] | None, config: CSSFEConfig, emissions: Mapping[str, Any] | None
) -> dict[str, str | None]:
    """The section on training: `training_table` and `settings`."""
    known = results or {}
    recipe, environment = known.get("recipe", {}), known.get("environment", {})
    hardware = environment.get("accelerator") or (
        f"{environment['cores']} CPU cores"
        + (f" ({escape_markdown(environment['processor'])})" if environment.get("processor") else "")
        if environment.get("cores")
        else UNKNOWN
    )
    if (processes := known.get("num_processes", 1)) > 1:
        hardware += f", {processes} processes"
    epochs = f"{recipe['epochs']}, the best of them {known.get('best_epoch', UNKNOWN)}" if recipe else UNKNOWN
    seconds = known.get("wall_time_seconds")
    if first := known.get("first_phase"):
        epochs += f"; before them {recipe['first_phase'].get('epochs', recipe['epochs'])} in a first phase"
        seconds += first["wall_time_seconds"]
    co2 = "not measured (CodeCarbon's `emissions.csv` in the run's folder would be shown here)"
    if emissions:
        place = f", {escape_markdown(emissions['country'])}" if emissions.get("country") else ""
        co2 = f"{1000 * emissions['kg']:.3g} g CO2-equivalents for {emissions['kwh']:.3g} kWh{place}, by CodeCarbon"
    versions = [
        f"{name} {environment[name]}" for name in ("cssfe", "torch", "timm", "transformers") if environment.get(name)
    ]
    rows = [
        ("images", f"{known['num_training_images']:,}" if "num_training_images" in known else UNKNOWN),
        ("epochs", epochs),
        ("time", UNKNOWN if seconds is None else duration(seconds)),
        ("hardware", hardware),
        ("precision", {"no": "fp32"}.get(known.get("mixed_precision", UNKNOWN), known.get("mixed_precision", UNKNOWN))),
        ("energy and CO2", co2),
        ("software", ", ".join(versions) or UNKNOWN),
    ]
    return {
        "training_table": markdown_table(rows[0], rows[1:]),
        "settings": _non_default_settings(recipe, config) if recipe else None,
    }


def name_of_data(data: str) -> str:
    """What a data set is called: its Hub name, or the last part of a path."""
    return without_paths(os.fspath(data).rstrip("/\\")) or "data"


def _class_table(row: JudgedRow) -> str:
    entries = sorted(row.figures["class_table"], key=lambda entry: -entry["class_count"])
    table = [
        (
            escape_markdown(entry["name"]),
            entry["group"],
            f"{entry['class_count']:,}",
            f"{entry['num_positives']:,}",
            percent(entry["average_precision"], row.class_intervals.get(entry["name"])),
        )
        for entry in entries
    ]
    heads = ("class", "group", "training images", f"positives in {escape_markdown(row.split)}", "average precision")
    return _first_rows(heads, table, 2, "results.json")


def _first_rows(heads: Sequence[str], table: Sequence[Sequence[Any]], numbers_from: int, file: str) -> str:
    text = markdown_table(heads, table[:_MAX_CLASSES_LISTED], numbers_from)
    if len(table) > _MAX_CLASSES_LISTED:
        text += (
            f"\n\nThe {_MAX_CLASSES_LISTED} classes with the most training images of {len(table)}; all are in `{file}`."
        )
    return text


def _by_count(config: CSSFEConfig, values: Mapping[str, float]) -> list[tuple[str, float]]:
    counts = dict(zip(config.label_names, config.class_counts or [0] * config.num_labels, strict=True))
    return sorted(values.items(), key=lambda item: -counts[item[0]])


def _group_sizes(config: CSSFEConfig) -> str:
    if config.class_counts is None:
        return ""
    return f" ({', '.join(f'{config.groups.count(group)} {group}' for group in GROUPS)})"


def _embeddings(config: CSSFEConfig) -> str:
    if config.ablation == "net0":
        return "none"
    source = (config.label_embedding_provenance or {}).get("source")
    return UNKNOWN if not source else escape_markdown(without_paths(str(source)))


def _non_default_settings(recipe: Mapping[str, Any], config: CSSFEConfig) -> str:
    from ..recipes import Recipe

    defaults = dataclasses.asdict(Recipe())
    # A local path says something about somebody's disk and nothing about the model.
    changed = without_paths(
        {
            key: value
            for key, value in recipe.items()
            # The figures that a paper has published are no setting.
            if key != "published" and (key not in defaults or value != defaults[key])
        },
        config.label_names,
    )
    return yaml.safe_dump(changed, sort_keys=False, allow_unicode=True).strip() if changed else "# none"


__all__ = [
    "PARTS",
    "UNKNOWN",
    "JudgedRow",
    "describe_data",
    "describe_figures",
    "describe_limits",
    "describe_maps",
    "describe_thresholds",
    "describe_training",
    "glance_table",
    "judged_rows",
    "name_of_data",
]
