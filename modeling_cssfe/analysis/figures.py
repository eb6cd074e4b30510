# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""The study's figures.

Colours are from the palette of Okabe and Ito ("Color Universal Design", 2008), which colour-blind readers tell apart;
groups and measures also differ by hatching, marker or line.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..common.figures import GROUP_COLORS, new_figure
from ..configuration_cssfe import GROUPS
from .streamed_means import Summary
from .study import MODELS, StudyResult


if TYPE_CHECKING:
    from matplotlib.figure import Figure

_GROUP_MARKERS = {"head": "o", "medium": "s", "tail": "^"}
_BAR_COLORS = ("#0072B2", "#E69F00", "#999999")
_HATCHES = ("", "//", "..")
_MODEL_TITLES = {"balanced": "trained on balanced data", "long_tailed": "trained on the long tail"}
_MAX_NAMED_CLASSES = 40
# Figure -> part of an entry of the history, and what of it is drawn, solid and dashed.
_CURVES = {
    "probabilities": ("probabilities", ("positive", "negative")),
    "gradients": ("gradients", ("positives", "negatives")),
    "gradient_signs": ("gradients", ("push_down",)),
}


def draw_study(
    result: StudyResult,
    history: Mapping[str, Sequence[Mapping[str, Any]]],
    final_gradients: Mapping[str, Mapping[str, Summary]] | None = None,
) -> "dict[str, Figure]":
    """Draw everything that there is to draw.

    Args:
        result: Of `compare_networks`.
        history: `balanced` and `long_tailed` -> entries of `training_history`; empty ones are not drawn.
        final_gradients: `balanced` and `long_tailed` -> figures of `measure_gradients`.

    Returns:
        `correlation`, `attenuation`, `drift`, and, with histories, `probabilities`, `gradients` and, of runs that
        recorded them, `gradient_signs`; with final gradients, `final_gradients`.
    """
    drawn = {
        "correlation": _by_group_and_class(
            result,
            {
                "same image": "spearman",
                "another image of the class": "spearman_other_image",
                "Gaussian noise": "spearman_noise",
            },
            "Spearman correlation with the balanced network's map",
            "Where both networks look",
        ),
        "attenuation": _by_group_and_class(
            result,
            {"rise above the lowest value": "attenuation_contrast", "positive values": "attenuation_positive"},
            "attenuation over the top 50 %",
            "How much weaker the long-tailed network attends",
            # Of positive values it may be many times as large, and would hide the other.
            apart=True,
        ),
        "drift": _drift(result),
    }
    for name, (kind, figures) in _CURVES.items():
        curves = _curves(history, kind, figures)
        if curves is not None:
            drawn[name] = curves
    if final_gradients:
        drawn["final_gradients"] = _final_gradients(result, final_gradients)
    return drawn


def _new_axes(width: float, height: float, columns: int, ratios: Sequence[float] | None = None):
    figure = new_figure(width, height)
    axes = figure.subplots(1, columns, squeeze=False, width_ratios=ratios)[0]
    for axis in axes:
        axis.grid(axis="y", alpha=0.3)
        axis.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _groups_of(result: StudyResult) -> list[str]:
    return [group for group in GROUPS if group in result.groups.values()]


def _bars(axis: Any, result: StudyResult, figures: Mapping[str, Summary]) -> None:
    """Bars by group with their intervals, one colour a figure."""
    groups = _groups_of(result)
    width = 0.8 / len(figures)
    for number, (title, summary) in enumerate(figures.items()):
        style = {"color": _BAR_COLORS[number], "hatch": _HATCHES[number], "edgecolor": "white", "label": title}
        for place, group in enumerate(groups):
            entry = summary.groups[group]
            if entry.value is None:
                continue
            at = place + (number - (len(figures) - 1) / 2) * width
            axis.bar(at, entry.value, width, **(style if place == 0 else {**style, "label": None}))
            if entry.low is not None and entry.high is not None:
                axis.plot([at, at], [entry.low, entry.high], color="#1f2933", linewidth=1.2)
    axis.set_xticks(range(len(groups)), groups)
    axis.axhline(0, color="#1f2933", linewidth=0.8)
    handles, labels = axis.get_legend_handles_labels()
    if handles:
        axis.legend(handles, labels, fontsize=8)


def _by_group_and_class(
    result: StudyResult, figures: Mapping[str, str], label: str, title: str, apart: bool = False
) -> "Figure":
    """Bars by group, a panel for all figures or (`apart`) for each; and the first figure's classes beside them."""
    names = [name for group in GROUPS for name, own in result.groups.items() if own == group]
    panels = [{key: name} for key, name in figures.items()] if apart else [figures]
    figure, axes = _new_axes(12 + 2 * (len(panels) - 1), 4.6, len(panels) + 1, [1] * len(panels) + [1.6])
    for axis, own in zip(axes, panels, strict=False):
        _bars(axis, result, {key: result.figures[name] for key, name in own.items()})
        axis.set(ylabel=label)
    figure.suptitle(title)
    first_title, first = next(iter(figures.items()))
    _points(axes[-1], result.figures[first], names, result.groups)
    axes[-1].set_title(f"Classes: {first_title}", fontsize=10)
    return figure


def _points(axis: Any, summary: Summary, names: Sequence[str], groups: Mapping[str, str]) -> None:
    """A marker a class, with its interval."""
    labelled = set()
    for place, name in enumerate(names):
        entry, group = summary.per_class[name], groups[name]
        if entry.value is None:
            continue
        color = GROUP_COLORS[group]
        if entry.low is not None and entry.high is not None:
            axis.plot([place, place], [entry.low, entry.high], color=color, linewidth=1.2)
        label = None if group in labelled else group
        axis.plot(place, entry.value, _GROUP_MARKERS[group], color=color, label=label, linestyle="none")
        labelled.add(group)
    axis.axhline(0, color="#1f2933", linewidth=0.8)
    if len(names) <= _MAX_NAMED_CLASSES:
        axis.set_xticks(range(len(names)), names, rotation=60, ha="right", fontsize=8)
    else:
        axis.set_xlabel("classes, by group")
    if labelled:
        axis.legend(fontsize=8)


def _drift(result: StudyResult) -> "Figure":
    figure, axes = _new_axes(11, 4.2, 2)
    for axis, measure in zip(axes, ("logit", "probability"), strict=True):
        _bars(
            axis,
            result,
            {
                title: result.figures[f"{measure}_drift_{sign}"]
                for title, sign in (("images with the class", "positive"), ("images without it", "negative"))
            },
        )
        axis.set(ylabel=f"{measure}: long-tailed minus balanced", title=f"Drift of the {measure}")
    return figure


def _final_gradients(result: StudyResult, gradients: Mapping[str, Mapping[str, Summary]]) -> "Figure":
    figure, axes = _new_axes(14, 4.2, 3)
    panels = {
        "positives": "mean gradient, images with the class",
        "negatives": "mean gradient, images without it",
        "push_down": "share that pushes down",
    }
    for axis, (name, label) in zip(axes, panels.items(), strict=True):
        _bars(axis, result, {_MODEL_TITLES[model]: own[name] for model, own in gradients.items()})
        axis.set(ylabel=label)
    figure.suptitle("Gradients on the logits of the training images, at the final weights")
    return figure


def _curves(history: Mapping[str, Sequence[Mapping[str, Any]]], kind: str, figures: Sequence[str]) -> "Figure | None":
    """One panel a network: a line a group for each figure over epochs; None where no run has the first of them."""
    from matplotlib.ticker import MaxNLocator

    shown = [
        name
        for name in MODELS
        if any(figures[0] in own for entry in history.get(name, ()) for own in (entry[kind] or {}).values())
    ]
    if not shown:
        return None
    figure, axes = _new_axes(5.6 * len(shown), 4.2, len(shown))
    for axis, name in zip(axes, shown, strict=True):
        for group in GROUPS:
            for part, line in zip(figures, ("-", "--"), strict=False):
                points = [
                    (entry["epoch"], entry[kind][group][part])
                    for entry in history[name]
                    if (entry[kind] or {}).get(group, {}).get(part) is not None
                ]
                if points:
                    label = group if len(figures) == 1 else f"{group}, {part.rstrip('s')}s"
                    axis.plot(*zip(*points, strict=True), line, color=GROUP_COLORS[group], label=label,
                              marker=_GROUP_MARKERS[group], markersize=4)  # fmt: skip
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        what = "mean probability in training"
        if kind == "gradients":
            signs = figures[0] == "push_down"
            what = "share that pushes down" if signs else "mean gradient on the logit"
            what += f" ({history[name][-1]['gradients_of']})"
            axis.axhline(0.5 if signs else 0, color="#1f2933", linewidth=0.8)
        axis.set(xlabel="epoch", ylabel=what, title=f"Network {_MODEL_TITLES[name]}")
        axis.legend(fontsize=8)
    return figure


__all__ = ["draw_study"]
