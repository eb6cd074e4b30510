# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""The report's pictures, each for a light and for a dark page.

Groups are told apart by colour and by marker or line style. The colours are from the palette of Okabe and Ito ("Color
Universal Design", 2008), which colour-blind readers tell apart.
"""

import io
import struct
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..common.figures import GROUP_COLORS, new_figure
from ..configuration_cssfe import GROUPS
from ..metrics.calibration import error_of_sums
from .measures import Judgement, recall_points


if TYPE_CHECKING:
    from matplotlib.figure import Figure

MAX_NAMED_POINTS = 30  # more names would cover each other
MAX_THIN_LINES = 60
MAX_HEAT_MAP_CLASSES = 40
_NAME_LENGTH = 22
_DPI = 150  # shown at 100 to the inch, so that a fine screen has something to show
_MARKERS = {"head": "o", "medium": "s", "tail": "^"}
_LINES = {"head": "-", "medium": "--", "tail": "-."}


@dataclass(frozen=True)
class Theme:
    """Colours of a page.

    Attributes:
        text: Of letters and axes.
        page: Behind everything.
        grid: Of grid lines.
        groups: Group -> colour.
        heat: From nothing to most, the first near `page`.
    """

    text: str
    page: str
    grid: str
    groups: Mapping[str, str]
    heat: tuple[str, ...]


LIGHT = Theme(
    text="#1f2933",
    page="#ffffff",
    grid="#d9dee4",
    groups=GROUP_COLORS,
    heat=("#f7fbff", "#6baed6", "#08306b"),
)
DARK = Theme(
    text="#dfe5ec",
    page="#1a212a",
    grid="#46525f",
    groups={"head": "#56B4E9", "medium": "#33C79A", "tail": "#F0893E"},
    heat=("#141a21", "#2f7fb5", "#d6edff"),
)

Intervals = Mapping[str, Any]


@dataclass(frozen=True)
class Picture:
    """A drawn picture.

    Attributes:
        name: Stem of its file name.
        title: Heading.
        caption: What it shows and how to read it.
        light: PNG for light pages and for print.
        dark: PNG for dark pages.
        width: In CSS pixels.
        height: In CSS pixels.
    """

    name: str
    title: str
    caption: str
    light: bytes
    dark: bytes
    width: int
    height: int


def draw_pictures(judgement: Judgement, intervals: Intervals | None = None) -> list[Picture]:
    """Draw every picture of a judged table.

    Args:
        judgement: From `judge`.
        intervals: Figure -> (low, high), with `per_class` name -> (low, high); None leaves the bars out.

    Returns:
        One entry a picture, in the order of the page.
    """
    pictures = []
    for name, title, draw, caption in _PICTURES:
        light, dark = (_render(draw, judgement, intervals, theme) for theme in (LIGHT, DARK))
        # Width and height follow the signature and the name of a PNG's first chunk.
        width, height = (round(side * 100 / _DPI) for side in struct.unpack(">II", light[16:24]))
        pictures.append(Picture(name, title, caption(judgement, intervals), light, dark, width, height))
    return pictures


def _render(draw: Callable, judgement: Judgement, intervals: Intervals | None, theme: Theme) -> bytes:
    import matplotlib

    settings = {
        "text.parse_math": False,  # a class may be called "$x$"
        "text.usetex": False,
        "font.size": 10,
        "text.color": theme.text,
        "axes.labelcolor": theme.text,
        "axes.edgecolor": theme.text,
        "axes.facecolor": theme.page,
        "figure.facecolor": theme.page,
        "savefig.facecolor": theme.page,
        "xtick.color": theme.text,
        "ytick.color": theme.text,
        "grid.color": theme.grid,
        "legend.facecolor": theme.page,
        "legend.edgecolor": theme.grid,
        "axes.spines.top": False,
        "axes.spines.right": False,
    }
    stream = io.BytesIO()
    with matplotlib.rc_context(settings), warnings.catch_warnings():
        # Matplotlib's font lacks many scripts and warns at each letter; the page's tables have every name in full.
        warnings.filterwarnings("ignore", message="Glyph .* missing", category=UserWarning)
        draw(judgement, intervals, theme).savefig(stream, format="png", dpi=_DPI)
    return stream.getvalue()


def short_name(name: str) -> str:
    """A class name as a picture can print it: one line, not too long, no characters without a shape."""
    shown = "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in name)
    return shown if len(shown) <= _NAME_LENGTH else shown[: _NAME_LENGTH - 1] + "\N{HORIZONTAL ELLIPSIS}"


def _draw_training_count(judgement: Judgement, intervals: Intervals | None, theme: Theme) -> "Figure":
    figure = new_figure(9, 5)
    axis = figure.subplots()
    table = judgement.figures["class_table"]
    ranges = (intervals or {}).get("per_class", {})
    for group in GROUPS:
        rows = [row for row in table if row["group"] == group and row["average_precision"] is not None]
        if not rows:
            continue
        counts = [row["class_count"] for row in rows]
        values = [100 * row["average_precision"] for row in rows]
        style: dict[str, Any] = {"color": theme.groups[group]}
        for row in rows:
            if row["name"] in ranges:
                low, high = ranges[row["name"]]
                axis.vlines(row["class_count"], 100 * low, 100 * high, linewidth=1.2, alpha=0.5, **style)
        axis.plot(counts, values, _MARKERS[group], label=f"{group} ({len(rows)})", markersize=6, **style)
        mean = 100 * judgement.figures[f"map_{group}"]
        axis.hlines(mean, min(counts) * 0.93, max(counts) * 1.07, linestyle=_LINES[group], linewidth=1.3, **style)
    _count_axis(axis, [row["class_count"] for row in table])
    axis.set_xlabel("training images of the class (logarithmic)")
    axis.set_ylabel("average precision (%)")
    axis.set_ylim(-2, 104)
    axis.grid(True, linewidth=0.6)
    if axis.get_legend_handles_labels()[0]:
        figure.legend(loc="outside upper center", ncols=3, frameon=False)
    if len(table) <= MAX_NAMED_POINTS:
        judged = [row for row in table if row["average_precision"] is not None]
        _name_points(axis, [(row["name"], row["class_count"], 100 * row["average_precision"]) for row in judged])
    return figure


def _name_points(axis: Any, points: list[tuple[str, float, float]]) -> None:
    """Write names beside points, each in the first of four corners where it covers no point and no other name."""
    axis.figure.draw_without_rendering()  # settles where the axes lie
    places = axis.transData.transform([point[1:] for point in points]) if points else np.empty((0, 2))
    marker = 4 * axis.figure.dpi / 72
    taken = [(x - marker, y - marker, x + marker, y + marker) for x, y in places]
    for name, count, value in points:
        text = axis.annotate(
            short_name(name), (count, value), xytext=(0, 0), textcoords="offset points", fontsize=7.5, alpha=0.9
        )
        options: list[tuple[Any, ...]] = []
        for across, up in ((1, 1), (1, -1), (-1, 1), (-1, -1)):
            text.set(ha="left" if across > 0 else "right", va="bottom" if up > 0 else "top", position=(5 * across, up))
            box = text.get_window_extent().extents
            covered = sum(a[0] < box[2] and box[0] < a[2] and a[1] < box[3] and box[1] < a[3] for a in taken)
            outside = box[2] > axis.bbox.x1 or box[0] < axis.bbox.x0
            options.append((covered + outside, len(options), text.get_ha(), text.get_va(), text.get_position(), box))
        _, _, ha, va, position, box = min(options, key=lambda option: option[:2])
        text.set(ha=ha, va=va, position=position)
        taken.append(tuple(box))


def _count_axis(axis: Any, counts: list[int]) -> None:
    from matplotlib.ticker import FuncFormatter, NullFormatter

    if min(counts) > 0:
        axis.set_xscale("log")
    else:
        axis.set_xscale("symlog", linthresh=1)  # a class without training images stands at 0
    # The default would write powers as mathematics, which is switched off.
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axis.xaxis.set_minor_formatter(NullFormatter())


def _draw_precision_recall(judgement: Judgement, _: Intervals | None, theme: Theme) -> "Figure":
    figure = new_figure(11, 4)
    recall = 100 * recall_points()
    for axis, group in zip(figure.subplots(1, len(GROUPS), sharey=True), GROUPS, strict=True):
        curves = judgement.curves[group]
        for curve in curves[_spread(len(curves), MAX_THIN_LINES)]:
            axis.plot(recall, 100 * curve, color=theme.groups[group], linewidth=0.7, alpha=0.35)
        if len(curves):
            axis.plot(recall, 100 * curves.mean(axis=0), color=theme.groups[group], linewidth=2.6)
            value = f"mAP {100 * judgement.figures[f'map_{group}']:.1f}"
            axis.set_title(f"{group}: {value}, {len(curves)} class{'es' if len(curves) > 1 else ''}", fontsize=11)
        else:
            _say_empty(axis, group)
        axis.set_xlabel("recall (%)")
        axis.set_xlim(0, 100)
        axis.set_ylim(0, 103)
        axis.grid(True, linewidth=0.6)
    figure.axes[0].set_ylabel("precision (%)")
    return figure


def _spread(length: int, most: int) -> np.ndarray:
    """At most `most` indices, evenly spread over `length`."""
    return np.arange(length) if length <= most else np.linspace(0, length - 1, most).round().astype(int)


def _say_empty(axis: Any, group: str) -> None:
    axis.set_title(group, fontsize=11)
    axis.text(0.5, 0.5, "no class with positives", transform=axis.transAxes, ha="center", va="center")


def _draw_confusion(judgement: Judgement, _: Intervals | None, theme: Theme) -> "Figure":
    from matplotlib.colors import LinearSegmentedColormap

    classes = heat_map_classes(judgement)
    names = [short_name(judgement.table.label_names[index]) for index in classes]
    rate = 100 * judgement.confusion.rate[np.ix_(classes, classes)]
    side = 2.9 + 0.24 * len(classes)
    figure = new_figure(max(side + 0.8, 5.5), max(side, 4.5))
    axis = figure.subplots()
    top = float(np.nanmax(rate)) if np.isfinite(rate).any() else 0.0
    colors = LinearSegmentedColormap.from_list("heat", theme.heat).with_extremes(bad=theme.grid)
    drawn = axis.imshow(rate, cmap=colors, vmin=0, vmax=max(top, 1.0), interpolation="nearest")
    axis.set_xticks(range(len(names)), names, rotation=90, fontsize=7.5)
    axis.set_yticks(range(len(names)), names, fontsize=7.5)
    axis.set_xlabel("absent label that is predicted")
    axis.set_ylabel("present label")
    axis.spines[:].set_visible(False)
    bar = figure.colorbar(drawn, ax=axis, fraction=0.04, pad=0.02)
    bar.set_label("share of images (%)")
    bar.outline.set_visible(False)
    return figure


def heat_map_classes(judgement: Judgement) -> list[int]:
    """Columns that the heat map shows, most frequent in training first: all, or those of the strongest pairs."""
    counts = judgement.table.class_counts
    chosen = list(range(len(counts)))
    if len(chosen) > MAX_HEAT_MAP_CLASSES:
        found = dict.fromkeys(index for pair in judgement.confusion.top_pairs(1000) for index in pair)
        by_count = sorted(chosen, key=lambda index: -counts[index])
        chosen = list(dict.fromkeys([*found, *by_count]))[:MAX_HEAT_MAP_CLASSES]
    return sorted(chosen, key=lambda index: (-counts[index], index))


def _draw_calibration(judgement: Judgement, _: Intervals | None, theme: Theme) -> "Figure":
    from matplotlib.ticker import FuncFormatter, NullLocator

    figure = new_figure(11, 5)
    axes = figure.subplots(2, len(GROUPS), sharex=True, sharey="row", height_ratios=[3, 1])
    for column, group in enumerate(GROUPS):
        upper, lower = axes[:, column]
        count, probability, positives = judgement.reliability[group]
        used = count > 0
        upper.plot([0, 100], [0, 100], color=theme.text, linewidth=0.9, linestyle=":")
        if used.any():
            upper.plot(
                100 * probability[used] / count[used],
                100 * positives[used] / count[used],
                marker=_MARKERS[group],
                linestyle=_LINES[group],
                color=theme.groups[group],
            )
            upper.set_title(f"{group}: error {100 * error_of_sums(judgement.reliability[group]):.1f}", fontsize=11)
        else:
            _say_empty(upper, group)
        width = 100 / len(count)
        lower.bar((np.arange(len(count)) + 0.5) * width, count, width * 0.9, color=theme.groups[group])
        lower.set_xlabel("predicted probability (%)")
        for axis in (upper, lower):
            axis.grid(True, linewidth=0.6)
            axis.set_axisbelow(True)
    axes[0, 0].set_ylabel("share of positives (%)")
    axes[0, 0].set_xlim(0, 100)
    axes[0, 0].set_ylim(0, 103)
    lower = axes[1, 0]
    lower.set_yscale("symlog", linthresh=1)
    largest = max(float(sums[0].max()) for sums in judgement.reliability.values())
    powers = [0] + [10**power for power in range(0, 12, 2) if 10**power <= max(largest, 1)]
    lower.set_yticks(powers)
    lower.yaxis.set_minor_locator(NullLocator())
    lower.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    lower.set_ylim(0, max(largest, 1) * 3)
    lower.set_ylabel("labels")
    return figure


def _caption_training_count(judgement: Judgement, intervals: Intervals | None) -> str:
    bars = (
        "Vertical bars are the intervals."
        if (intervals or {}).get("per_class")
        else "Intervals were not computed, so there are no bars."
    )
    many = len(judgement.table.label_names) > MAX_NAMED_POINTS
    names = f" Names are left out, as there are more than {MAX_NAMED_POINTS} classes." if many else ""
    return f"One point a class; the horizontal line of a group is its mean. {bars}{names}"


def _caption_precision_recall(judgement: Judgement, _: Intervals | None) -> str:
    larger = [group for group in GROUPS if len(judgement.curves[group]) > MAX_THIN_LINES]
    some = f" Of {' and '.join(larger)}, {MAX_THIN_LINES} classes spread evenly are drawn." if larger else ""
    return (
        "The thick line is the mean of the classes' precision at equal recall, so the area under it is the group's "
        f"mAP; each thin line is one class.{some}"
    )


def _caption_confusion(judgement: Judgement, _: Intervals | None) -> str:
    classes = len(judgement.table.label_names)
    some = (
        f" The {MAX_HEAT_MAP_CLASSES} of {classes:,} classes with the surest confusions are shown."
        if classes > MAX_HEAT_MAP_CLASSES
        else ""
    )
    return (
        "Row: a label that is present. Column: a label that is absent. The colour is the share of these images on "
        f"which the absent label is predicted at its threshold; grey where there is no such image.{some}"
    )


def _caption_calibration(judgement: Judgement, _: Intervals | None) -> str:
    return (
        "Above: of the labels predicted with some probability, how many are there; on the dotted diagonal the two "
        "agree. Below: how many labels each point stands for. The error is the expected calibration error of the "
        "group's labels together, which easy absent labels dominate; the table of groups has the mean over classes."
    )


_PICTURES = (
    ("training_count", "Average precision against training images", _draw_training_count, _caption_training_count),
    ("precision_recall", "Precision and recall", _draw_precision_recall, _caption_precision_recall),
    ("confusion", "Confusion between co-occurring labels", _draw_confusion, _caption_confusion),
    ("calibration", "Calibration", _draw_calibration, _caption_calibration),
)
PICTURE_NAMES = tuple(entry[0] for entry in _PICTURES)


__all__ = ["PICTURE_NAMES", "Picture", "draw_pictures", "heat_map_classes", "short_name"]
