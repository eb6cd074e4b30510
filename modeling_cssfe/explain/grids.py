# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""Grids of maps: a row for each label of each image, a column for each kind of map and model.

With one model and the kinds `cam` and `enhanced` that is the layout of the paper's Figure 5 (image, without and with
enhancement). The supplement's Figure 2 (with and without mask) is a grid of two trained models, a net3 and a net2, and
the kind `enhanced`; the kind `unmasked` of one model is a quick look at the same question, see `kinds`.
"""

import itertools
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ..common.figures import check_figure_path, figure_style, new_figure, save_figure
from .kinds import available_kinds, check_layer_use, explain_batch, get_map_kind
from .maps import find_label
from .overlays import check_alignment, describe_emptiness, draw_overlay, largest_magnitude, resize_maps


if TYPE_CHECKING:
    from PIL import Image

DEFAULT_KINDS = ("cam", "enhanced")
ROWS_PER_PAGE = 12  # more would make a picture that few programs show


@dataclass(frozen=True)
class Panel:
    """A map of a row.

    Args:
        model: Name of the model.
        kind: Name of the kind.
        score: The model's probability of the label, in [0, 1].
        values: `(H, W)` at the resolution of its layer, fp32.
    """

    model: str
    kind: str
    score: float
    values: torch.Tensor


@dataclass(frozen=True)
class GridRow:
    """A label of an image.

    Args:
        number: Of the image, from 0 on.
        name: Of the image.
        image: The photograph.
        label: Class name.
        panels: Its maps, in the order of the columns.
    """

    number: int
    name: str
    image: "Image.Image"
    label: str
    panels: tuple[Panel, ...]


def explain_images(
    models: Mapping[str, tuple[Any, Any]],
    images: Iterable[tuple[str, "Image.Image"]],
    labels: Sequence[str] | None = None,
    top_k: int = 3,
    kinds: Sequence[str] | None = None,
    layer: str | None = None,
    batch_size: int = 8,
) -> Iterator[GridRow]:
    """Maps of labels on any number of images, a batch in memory at a time.

    Args:
        models: Name -> (model, image processor). Labels are chosen by the first; classes are matched by name.
        images: (name, RGB image).
        labels: Class names; `None` takes the `top_k` highest scores of the first model for each image.
        top_k: How many labels without `labels`.
        kinds: Names of `MAP_KINDS`; `None` for `cam` and, where the model makes them, `enhanced`. A kind that a model
            does not have is left out of its columns if another model has it.
        layer: Of the kinds by gradients, in every model; `None` for the last feature map.
        batch_size: Images in a pass.

    Yields:
        A row for each label of each image, in their order.

    Raises:
        ValueError: No model, an unknown label, kind or layer, or a processor that crops.
    """
    columns = _choose_kinds(models, kinds)
    check_layer_use(layer, [kind for chosen in columns.values() for kind in chosen])
    # Here, not at the first row: a mistake is named before anything is decoded.
    for model, processor in models.values():
        check_alignment(processor)
        for label in labels or ():
            find_label(label, model.config.label_names)
    if top_k < 1:
        raise ValueError(f"top_k is {top_k}; give a number >= 1.")
    return _explain_batches(models, columns, iter(images), labels, top_k, layer, batch_size)


def _choose_kinds(models: Mapping[str, tuple[Any, Any]], kinds: Sequence[str] | None) -> dict[str, list[str]]:
    if not models:
        raise ValueError("there are no models; give at least one.")
    available = {name: available_kinds(model) for name, (model, _) in models.items()}
    wanted = DEFAULT_KINDS if kinds is None else [get_map_kind(kind).name for kind in dict.fromkeys(kinds)]
    for kind in wanted:
        if kinds is not None and not any(kind in names for names in available.values()):
            first, names = next(iter(available.items()))
            raise ValueError(f"model {first!r} has no maps {kind!r}; choose among {', '.join(names)}.")
    return {name: [kind for kind in wanted if kind in names] for name, names in available.items()}


def _explain_batches(models, columns, images, labels, top_k, layer, batch_size) -> Iterator[GridRow]:
    done = 0
    while batch := list(itertools.islice(images, batch_size)):
        chosen: list[list[str]] = [list(labels)] * len(batch) if labels is not None else []
        panels: list[list[list[Panel]]] = []
        for name, (model, processor) in models.items():
            known = model.config.label_names
            pixels = processor(images=[image for _, image in batch], return_tensors="pt")["pixel_values"]
            targets = [[find_label(label, known) for label in row] for row in chosen] or None
            kinds = columns[name]
            weighed = any(get_map_kind(kind).weigh is not None for kind in kinds)
            found = explain_batch(
                model,
                pixels.to(model.device),
                kinds,
                None if targets is None else torch.tensor(targets),
                layer if weighed else None,
                top_k,
            )
            scores = found.logits.sigmoid().gather(1, found.targets).cpu()
            maps = {kind: values.cpu() for kind, values in found.maps.items()}
            if not chosen:
                chosen = [[known[target] for target in row] for row in found.targets.tolist()]
            for index, row in enumerate(chosen):
                if len(panels) == index:
                    panels.append([[] for _ in row])
                for place in range(len(row)):
                    panels[index][place] += [
                        Panel(name, kind, scores[index, place].item(), maps[kind][index, place]) for kind in kinds
                    ]
        for index, (title, image) in enumerate(batch):
            for label, entries in zip(chosen[index], panels[index], strict=True):
                yield GridRow(done + index, title, image, label, tuple(entries))
        done += len(batch)


def draw_grid(
    rows: Iterable[GridRow],
    path: str | os.PathLike,
    shared_scale: bool = False,
    rows_per_page: int = ROWS_PER_PAGE,
) -> tuple[list[Path], list[str]]:
    """Draw rows, page by page, so that their number is not limited by memory.

    Each map has its own scale, drawn beside it. With `shared_scale` the signed maps of a row have one scale, and so
    have those of each kind by gradients: what is stronger then looks stronger.

    Args:
        rows: From `explain_images`.
        path: `.png` or `.svg`; further pages get `-2`, `-3`, ... before the ending.
        shared_scale: Whether the models and kinds of a row can be compared by colour.
        rows_per_page: Rows of a picture, >= 1.

    Returns:
        The files written, and a line for each map that is 0 everywhere or has values that are not finite.

    Raises:
        ValueError: Another ending, no rows, or `rows_per_page` below 1.
        SavingError: A file cannot be written.
    """
    check_figure_path(path)
    if rows_per_page < 1:
        raise ValueError(f"rows_per_page is {rows_per_page}; give a number >= 1.")
    path, waiting = Path(path), iter(rows)
    files: list[Path] = []
    notes: list[str] = []
    while page := list(itertools.islice(waiting, rows_per_page)):
        target = path if not files else path.with_name(f"{path.stem}-{len(files) + 1}{path.suffix}")
        _draw_page(page, target, shared_scale)
        files.append(target)
        for row in page:
            for panel in row.panels:
                empty = describe_emptiness(panel.values.numpy())
                if empty is not None:
                    notes.append(f"{row.name}, {row.label}: {panel.kind} of {panel.model} is {empty}")
    if not files:
        raise ValueError("there is nothing to draw; give at least one image and one label.")
    return files, notes


def _draw_page(rows: Sequence[GridRow], path: Path, shared_scale: bool) -> None:
    many_models = len({panel.model for panel in rows[0].panels}) > 1
    columns = 1 + len(rows[0].panels)
    width = 3.3
    heights = [width * 0.8 * min(max(row.image.height / row.image.width, 0.3), 2.5) + 0.45 for row in rows]
    with figure_style():
        figure = new_figure(width * columns, sum(heights) + 0.3)
        axes = figure.subplots(len(rows), columns, squeeze=False, height_ratios=heights)
        for number, (row, places) in enumerate(zip(rows, axes, strict=True)):
            places[0].imshow(row.image)
            places[0].set_axis_off()
            places[0].set_title(f"{row.name}\n{row.label}: {row.panels[0].score:.2f}", fontsize=10)
            tops = row_scales(row, shared_scale)
            seen: set[str] = set()
            for panel, axis, top in zip(row.panels, places[1:], tops, strict=True):
                kind = get_map_kind(panel.kind)
                # Colour what is drawn, by the scale of what was computed: bilinear values never go beyond it.
                values = resize_maps(panel.values[None], (row.image.height, row.image.width))[0]
                draw_overlay(axis, row.image, values, kind.signed, top)
                lines = [kind.title] if number == 0 else []
                if many_models:
                    lines = ([panel.model] if number == 0 else []) + lines
                    lines += [] if panel.model in seen else [f"{row.label}: {panel.score:.2f}"]
                seen.add(panel.model)
                axis.set_title("\n".join(lines), fontsize=10)
        save_figure(figure, path)


def row_scales(row: GridRow, shared: bool) -> list[float]:
    """The largest magnitude on the colour scale of each panel; see `draw_grid`."""
    own = [largest_magnitude(panel.values.numpy()) for panel in row.panels]
    if not shared:
        return own
    families = ["signed" if get_map_kind(panel.kind).signed else panel.kind for panel in row.panels]
    return [
        float(np.max([top for top, other in zip(own, families, strict=True) if other == family])) for family in families
    ]


__all__ = ["DEFAULT_KINDS", "GridRow", "Panel", "draw_grid", "explain_images", "row_scales"]
