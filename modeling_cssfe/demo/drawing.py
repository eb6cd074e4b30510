# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""The parts of the page as HTML. Pictures and tables are inside it, so that none is ever a file.

Names of labels and of files come from strangers: all of them are escaped.
"""

import base64
import csv
import io
from collections.abc import Sequence
from html import escape
from typing import Any

import numpy as np
from PIL import Image

from ..configuration_cssfe import GROUPS
from ..explain import LabelMaps


MAX_ROWS = 200  # bars that are sent to a browser at a time; the search reaches the others
MAX_SIDE = 900  # pixels of the photograph that is shown
_STRONGEST = 0.75  # opacity of a map's largest magnitude


def shrink(image: Image.Image) -> Image.Image:
    """A copy for the page, at most `MAX_SIDE` pixels in width and height."""
    small = image.copy()
    small.thumbnail((MAX_SIDE, MAX_SIDE))
    return small


def draw_legend(*marks: str) -> str:
    """What colours mean, and marks of other kinds."""
    keys = "".join(f'<span class="key {name}">{name}</span>' for name in (*GROUPS, *marks))
    return f'<div class="legend">{keys}</div>'


def draw_bars(entries: Sequence[dict[str, Any]], search: str = "", chosen: str | None = None) -> str:
    """One bar a label, as buttons; `data-label` is the label's name.

    Args:
        entries: From `Classifier.describe`.
        search: Only labels that contain these words, in any case.
        chosen: The label whose maps are shown.
    """
    words = search.casefold().split()
    found = [entry for entry in entries if all(word in entry["label"].casefold() for word in words)]
    if not found:
        return f'<p class="note">No label contains “{escape(search)}”.</p>'
    rows = "".join(_bar(entry, entry["label"] == chosen) for entry in found[:MAX_ROWS])
    hidden = len(found) - MAX_ROWS
    more = f'<p class="note">{hidden:,} more with lower scores: search for their names.</p>' if hidden > 0 else ""
    return f'{draw_legend("threshold")}<div class="bars">{rows}</div>{more}'


def _bar(entry: dict[str, Any], chosen: bool) -> str:
    label, group = escape(entry["label"]), entry["group"]
    score, limit = 100 * entry["score"], 100 * entry["threshold"]
    side = "above" if entry["above_threshold"] else "below"
    told = f"{label}, {group}: {score:.1f} %, {side} its threshold of {limit:.1f} %"
    if "probability" in entry:
        told += f"; calibrated probability {100 * entry['probability']:.1f} %"
    return (
        f'<button type="button" class="bar {group} {side}" data-label="{label}" aria-pressed="{str(chosen).lower()}" '
        f'title="{told}" aria-label="{told}"><span class="label">{label}</span><span class="group">{group}</span>'
        f'<span class="track"><span class="fill" style="width:{score:.2f}%"></span>'
        f'<span class="mark" style="left:{limit:.2f}%"></span></span><span class="score">{score:.1f}</span></button>'
    )


def draw_maps(image: Image.Image, maps: LabelMaps, name: str) -> str:
    """The photograph, and the maps of a label over it before and after enhancement.

    Colours and opacity are those of `modeling_cssfe.explain.draw_label_maps`.
    """
    figures = [_figure(image, escape(name), "photograph")]
    for values, title in ((maps.before, "before enhancement"), (maps.after, "after enhancement")):
        if values is not None:
            top = float(np.abs(values).max())
            told = f"{title}, strongest {top:.3g}"
            figures.append(_figure(lay_over(image, values), told, f"{title}, {maps.label}"))
    return (
        f'<h3 class="shown">Where the model looks for “{escape(maps.label)}” ({100 * maps.score:.1f} %)</h3>'
        f'<div class="maps">{"".join(figures)}</div>'
        '<div class="scale"><span>negative</span><i></i><span>positive</span></div>'
    )


def lay_over(image: Image.Image, values: np.ndarray) -> Image.Image:
    """A map over the grey photograph: red above 0, blue below, the fainter the nearer to 0.

    Args:
        image: `width` x `height` pixels.
        values: `(height, width)`.
    """
    from matplotlib import colormaps

    share = values / max(float(np.abs(values).max()), 1e-6)
    colours = colormaps["RdBu_r"]((share + 1) / 2)[..., :3] * 255
    opacity = (np.abs(share) * _STRONGEST)[..., None]
    grey = np.asarray(image.convert("L"), dtype=np.float64)[..., None]
    return Image.fromarray((grey * (1 - opacity) + colours * opacity).round().astype(np.uint8))


def _figure(image: Image.Image, caption: str, alt: str) -> str:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=88)
    uri = f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode('ascii')}"
    return f'<figure><img src="{uri}" alt="{escape(alt)}"><figcaption>{caption}</figcaption></figure>'


def draw_table(rows: Sequence[tuple[str, list[dict[str, Any]] | str]]) -> str:
    """Labels of many photographs, and a link that saves all scores as CSV.

    Args:
        rows: Name of each file, with its entries from `Classifier.describe` or the reason why it has none.
    """
    failed = sum(isinstance(result, str) for _, result in rows)
    body = "".join(f'<tr><th scope="row">{escape(name)}</th><td>{_cell(result)}</td></tr>' for name, result in rows)
    link = f"data:text/csv;charset=utf-8;base64,{base64.b64encode(write_csv(rows).encode('utf-8')).decode('ascii')}"
    note = f", {failed} could not be read" if failed else ""
    return (
        f'<p class="note">{len(rows)} files{note}. <a class="save" download="scores.csv" href="{link}">Save all scores '
        f"as CSV</a></p>{draw_legend()}"
        f'<table class="many"><thead><tr><th scope="col">file</th><th scope="col">labels above their thresholds</th>'
        f"</tr></thead><tbody>{body}</tbody></table>"
    )


def _cell(result: list[dict[str, Any]] | str) -> str:
    if isinstance(result, str):
        return f'<span class="failed">{escape(result)}</span>'
    chips = "".join(
        f'<span class="chip {entry["group"]}">{escape(entry["label"])} {100 * entry["score"]:.1f}</span>'
        for entry in result
        if entry["above_threshold"]
    )
    first = result[0]
    return chips or f'<span class="note">none; highest: {escape(first["label"])} {100 * first["score"]:.1f}</span>'


def write_csv(rows: Sequence[tuple[str, list[dict[str, Any]] | str]]) -> str:
    """The table with the columns `file`, `error`, `labels` (above their thresholds) and one score a label."""
    names = sorted({entry["label"] for _, result in rows if not isinstance(result, str) for entry in result})
    file = io.StringIO(newline="")
    writer = csv.writer(file)
    writer.writerow(map(_harmless, ["file", "error", "labels", *names]))
    for name, result in rows:
        entries = {} if isinstance(result, str) else {entry["label"]: entry for entry in result}
        above = "; ".join(label for label, entry in entries.items() if entry["above_threshold"])
        scores = [f"{entries[label]['score']:.6f}" if entries else "" for label in names]
        error = result if isinstance(result, str) else ""
        writer.writerow([*map(_harmless, (name, error, above)), *scores])
    return file.getvalue()


def _harmless(text: str) -> str:
    # A spreadsheet would run what begins so as a formula.
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r")) else text


__all__ = [
    "MAX_ROWS",
    "draw_bars",
    "draw_legend",
    "draw_maps",
    "draw_table",
    "lay_over",
    "shrink",
    "write_csv",
]
