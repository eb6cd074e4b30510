# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""The pictures of a model card: average precision by class, and maps on images that a fixed rule picks."""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..configuration_cssfe import GROUPS


if TYPE_CHECKING:
    from PIL import Image

    from ..evaluation.score_table import ScoreTable

MAX_NAMED_CLASSES = 60  # more names would make a picture of several screens
_MARKERS = {"head": "o", "medium": "s", "tail": "^"}


@dataclass(frozen=True)
class Example:
    """An image that shows what the model looks at.

    Attributes:
        row: Of the image in the table.
        group: Of the label.
        label: Class name.
        score: The model's probability of it.
    """

    row: int
    group: str
    label: str
    score: float


def choose_examples(table: "ScoreTable", average_precision: Mapping[str, float | None]) -> list[Example]:
    """An image for each group of classes: neither the best nor the worst, and nobody's choice.

    Of the group's classes that have positives, the one with the median average precision (the lower of two); of its
    positive images, the one with the median score (the lower of two).

    Args:
        table: Scores and labels.
        average_precision: Class name -> average precision, None for a class without positives.

    Returns:
        One entry for each group that has a class with a positive image.
    """
    examples = []
    for group in GROUPS:
        judged = sorted(
            (value, column)
            for column, name in enumerate(table.label_names)
            if table.groups[column] == group and (value := average_precision[name]) is not None
        )
        if not judged:
            continue
        column = judged[(len(judged) - 1) // 2][1]
        rows = np.flatnonzero(table.labels[:, column] == 1)
        row = rows[np.argsort(table.scores[rows, column], kind="stable")[(len(rows) - 1) // 2]]
        examples.append(Example(int(row), group, table.label_names[column], float(table.scores[row, column])))
    return examples


def draw_average_precision(
    class_table: Sequence[Mapping[str, Any]],
    path: Path,
    title: str,
    intervals: Mapping[str, tuple[float, float]] | None = None,
) -> None:
    """Draw the average precision of each class, classes with many training images first.

    Up to 60 classes have a row with their name; of more there are points over their training images.

    Args:
        class_table: Of `long_tail_map`: `name`, `group`, `class_count`, `average_precision`.
        path: `.png` or `.svg` file; written whole or not at all.
        title: What was judged.
        intervals: Class -> (low, high).

    Raises:
        ValueError: Another ending.
        SavingError: The file cannot be written.
    """
    from ..common.figures import figure_style, new_figure, save_figure

    entries = sorted(class_table, key=lambda entry: -entry["class_count"])
    named = len(entries) <= MAX_NAMED_CLASSES
    with figure_style():
        figure = new_figure(7.2, 1.3 + 0.21 * len(entries) if named else 4.2)
        axis = figure.subplots()
        if named:
            _draw_rows(axis, entries, intervals or {})
        else:
            _draw_points(axis, entries, intervals or {})
        axis.set_title(title, loc="left", fontsize=10)
        if axis.get_legend_handles_labels()[0]:
            figure.legend(loc="outside lower center", ncols=3, fontsize=8, frameon=False)
        for side in ("top", "right"):
            axis.spines[side].set_visible(False)
        save_figure(figure, path, dpi=130)


def draw_maps(
    model: Any, processor: Any, examples: Sequence[Example], images: Sequence["Image.Image"], path: Path
) -> None:
    """Draw the maps of each example, before and after enhancement where the model enhances them.

    Args:
        model: A CSSFE model.
        processor: Its image processor.
        examples: What to draw.
        images: Their images.
        path: `.jpg` file.
    """
    import tempfile

    from PIL import Image

    from ..explain import draw_grid, explain_images

    rows = [
        row
        for example, image in zip(examples, images, strict=True)
        for row in explain_images({"model": (model, processor)}, [(example.group, image)], [example.label])
    ]
    with tempfile.TemporaryDirectory(prefix="cssfe-card-") as temporary:
        files, _ = draw_grid(rows, Path(temporary) / "maps.png")
        with Image.open(files[0]) as drawn:  # photographs take a tenth of the bytes
            path.write_bytes(encode_jpeg(drawn.convert("RGB")))


def encode_jpeg(image: "Image.Image") -> bytes:
    """An RGB image as a JPEG file, without metadata."""
    stream = io.BytesIO()
    image.save(stream, format="JPEG", quality=88, optimize=True)
    return stream.getvalue()


def _draw_rows(axis: Any, entries: Sequence[Mapping[str, Any]], intervals: Mapping[str, tuple[float, float]]) -> None:
    for place, entry in enumerate(entries):
        if entry["average_precision"] is None:
            axis.text(1, place, "no positive image", va="center", fontsize=7, color="#5b6875")
    for group in GROUPS:
        own = [
            (place, 100 * entry["average_precision"], intervals.get(entry["name"]))
            for place, entry in enumerate(entries)
            if entry["group"] == group and entry["average_precision"] is not None
        ]
        if not own:
            continue
        color, places = _colors()[group], [place for place, _, _ in own]
        mean = float(np.mean([value for _, value, _ in own]))
        axis.plot([mean, mean], [min(places) - 0.4, max(places) + 0.4], color=color, linestyle=":", linewidth=1.2)
        for place, _, ends in own:
            if ends is not None:
                axis.plot([100 * ends[0], 100 * ends[1]], [place, place], color=color, linewidth=1.4, alpha=0.7)
        axis.plot(
            [value for _, value, _ in own], places, _MARKERS[group], color=color, markersize=5.5,
            label=f"{group}, mean {mean:.1f}",
        )  # fmt: skip
    axis.set_yticks(range(len(entries)), [f"{_short(entry['name'])} ({entry['class_count']:,})" for entry in entries])
    axis.tick_params(axis="y", length=0, labelsize=8)
    axis.set_ylim(len(entries) - 0.4, -0.6)
    axis.set_xlim(0, 100)
    axis.grid(axis="x", color="#d9dee4", linewidth=0.6)
    axis.set_axisbelow(True)
    drawn = "average precision (%); dotted: mean of the group" + ("; lines: 95 % intervals" if intervals else "")
    axis.set_xlabel(drawn, fontsize=9)
    axis.set_ylabel("class (training images)", fontsize=9)
    axis.tick_params(axis="x", labelsize=8)


def _draw_points(axis: Any, entries: Sequence[Mapping[str, Any]], intervals: Mapping[str, tuple[float, float]]) -> None:
    for group in GROUPS:
        own = [entry for entry in entries if entry["group"] == group and entry["average_precision"] is not None]
        if not own:
            continue
        color = _colors()[group]
        places = [max(entry["class_count"], 0.5) for entry in own]  # a class without images, on a logarithmic axis
        values = [100 * entry["average_precision"] for entry in own]
        for place, entry in zip(places, own, strict=True):
            if entry["name"] in intervals:
                low, high = intervals[entry["name"]]
                axis.plot([place, place], [100 * low, 100 * high], color=color, linewidth=0.8, alpha=0.35)
        label = f"{group}, mean {np.mean(values):.1f}"
        axis.plot(places, values, _MARKERS[group], color=color, markersize=4, alpha=0.85, label=label)
    axis.set_xscale("log")
    axis.invert_xaxis()
    axis.set_ylim(0, 100)
    axis.grid(color="#d9dee4", linewidth=0.6)
    axis.set_xlabel("training images of the class", fontsize=9)
    axis.set_ylabel("average precision (%)" + (" with 95 % intervals" if intervals else ""), fontsize=9)
    axis.tick_params(labelsize=8)


def _colors() -> Mapping[str, str]:
    from ..report.figures import LIGHT

    return LIGHT.groups


def _short(name: str) -> str:
    return name if len(name) <= 28 else name[:27] + "…"


__all__ = ["Example", "choose_examples", "draw_average_precision", "draw_maps", "encode_jpeg"]
