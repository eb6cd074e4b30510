# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""A run's curves as PNG files: loss, mAP by group, and the probabilities of positives and negatives by group."""

import io
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..common.figures import GROUP_COLORS, new_figure
from ..configuration_cssfe import GROUPS


if TYPE_CHECKING:
    from matplotlib.figure import Figure

_COLORS = {"total": "#1f2933", **GROUP_COLORS}
_MARKERS = {"total": "D", "head": "o", "medium": "s", "tail": "^"}
_DPI = 120


def read_log(file: str | os.PathLike) -> list[dict[str, Any]]:
    """The entries of a `log.jsonl`, one an epoch.

    Raises:
        ValueError: A line is not JSON.
    """
    entries = []
    for number, line in enumerate(Path(file).read_text(encoding="utf-8").splitlines(), start=1):
        try:
            entries.append(json.loads(line))
        except json.JSONDecodeError as error:
            raise ValueError(f"{os.fspath(file)!r} line {number} is no JSON ({error.msg}); restore the log.") from error
    return entries


def draw_curves(entries: Sequence[Mapping[str, Any]]) -> dict[str, bytes]:
    """Draw the curves of a run.

    Args:
        entries: Lines of `log.jsonl`. What they do not hold is not drawn.

    Returns:
        File name -> PNG: `loss.png`, `map.png` and `probabilities.png`, each if there is something to draw.
    """
    drawn = {"loss.png": _loss(entries), "map.png": _maps(entries), "probabilities.png": _probabilities(entries)}
    return {name: _png(figure) for name, figure in drawn.items() if figure is not None}


def _loss(entries: Sequence[Mapping[str, Any]]) -> "Figure | None":
    epochs, losses = _series(entries, "loss")
    if not epochs:
        return None
    figure, (axes,) = _panels(1)
    axes.plot(epochs, losses, color=_COLORS["total"], marker=".")
    axes.set(xlabel="epoch", ylabel="training loss", title="Loss")
    if min(losses) > 0 and max(losses) > 20 * min(losses):
        axes.set_yscale("log")
    return figure


def _maps(entries: Sequence[Mapping[str, Any]]) -> "Figure | None":
    figure, (axes,) = _panels(1)
    drawn = False
    for name in ("total", *GROUPS):
        epochs, values = _series(entries, f"map_{name}")
        if epochs:
            drawn = True
            _plot(axes, epochs, [100 * value for value in values], name, name)
    if not drawn:
        return None
    epochs, totals = _series(entries, "map_total")
    if epochs:
        best = epochs[totals.index(max(totals))]
        axes.axvline(best, color=_COLORS["total"], linestyle=":", linewidth=1, label=f"best epoch ({best})")
    axes.set(xlabel="epoch", ylabel="mAP (%)", title="Validation mAP by group")
    _legend_beside(axes)
    return figure


def _probabilities(entries: Sequence[Mapping[str, Any]]) -> "Figure | None":
    panels = [
        (title, key)
        for title, key in (("training batches", "training_probabilities"), ("validation", "validation_probabilities"))
        if any(key in entry for entry in entries)
    ]
    if not panels:
        return None
    figure, all_axes = _panels(len(panels))
    for axes, (title, key) in zip(all_axes, panels, strict=True):
        for group in GROUPS:
            for kind, line in (("positive", "-"), ("negative", "--")):
                epochs, values = _series(entries, key, group, kind)
                if epochs:
                    _plot(axes, epochs, values, group, f"{group}, {kind}s", line)
        axes.set(xlabel="epoch", ylabel="mean predicted probability", title=f"Probabilities, {title}", ylim=(0, 1))
    _legend_beside(all_axes[-1])
    return figure


def _plot(axes: Any, epochs: Sequence[int], values: Sequence[float], name: str, label: str, line: str = "-") -> None:
    hollow = {"markerfacecolor": "none"} if line != "-" else {}
    axes.plot(
        epochs,
        values,
        line,
        color=_COLORS[name],
        marker=_MARKERS[name],
        markersize=4,
        markevery=max(1, len(epochs) // 20),
        label=label,
        **hollow,
    )


def _legend_beside(axes: Any) -> None:
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)


def _series(entries: Sequence[Mapping[str, Any]], *keys: str) -> tuple[list[int], list[float]]:
    """Epochs and values of a nested key, where it has a number."""
    points = []
    for entry in entries:
        value: Any = entry
        for key in keys:
            value = value.get(key) if isinstance(value, Mapping) else None
        if value is not None:
            points.append((entry["epoch"], value))
    return [epoch for epoch, _ in points], [value for _, value in points]


def _panels(num_panels: int) -> "tuple[Figure, Sequence[Any]]":
    from matplotlib.ticker import MaxNLocator

    figure = new_figure(6.4 * num_panels + 1, 4)
    all_axes = figure.subplots(1, num_panels, squeeze=False)[0]
    for axes in all_axes:
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    return figure, all_axes


def _png(figure: "Figure") -> bytes:
    stream = io.BytesIO()
    # Without the version of Matplotlib in it, equal logs give equal files.
    figure.savefig(stream, format="png", dpi=_DPI, metadata={"Software": None})
    return stream.getvalue()


__all__ = ["draw_curves", "read_log"]
