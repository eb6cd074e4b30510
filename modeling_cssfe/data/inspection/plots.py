# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""An inspection as one picture: the long tail, labels per image, and which classes occur together."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...common.figures import GROUP_COLORS, new_figure
from .inspect import Inspection


if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_SPLIT_MARKS = ("o", "^", "s", "D")
_NAMED_CLASSES = 100  # above it names are too small to read
_CELLS = 300  # of the heat map above that number, a side


def draw_inspection(inspection: Inspection, path: str | os.PathLike) -> None:
    """Draw an inspection.

    Above: images of each class in the training split as bars, coloured by group, and in the other splits as marks, on a
    logarithmic scale. Middle: classes and labels by group; images by number of labels. Below: of the images of the
    row's class, the share that has the column's; classes are in the order of the bars. Beyond 100 classes, names are
    left out, and beyond 300 one cell shows the largest share of several classes.

    Args:
        inspection: From `inspect_images`.
        path: `.png` or `.svg` file; written whole or not at all.

    Raises:
        ValueError: Another file ending.
        SavingError: The file cannot be written.
    """
    from ...common.files import write_whole

    check_picture_path(path)
    order = np.argsort(-np.asarray(inspection.group_counts), kind="stable")
    classes = len(order)
    named = classes <= _NAMED_CLASSES
    width = max(10.0, 0.2 * classes + 3) if named else 15.0
    heat = width * 0.85
    figure = new_figure(width, 7.5 + heat)
    grid = figure.add_gridspec(3, 2, height_ratios=(4.5, 3.0, heat))
    _draw_counts(figure.add_subplot(grid[0, :]), inspection, order, named)
    _draw_groups(figure.add_subplot(grid[1, 0]), inspection)
    _draw_labels_per_image(figure.add_subplot(grid[1, 1]), inspection)
    _draw_co_occurrence(figure, figure.add_subplot(grid[2, :]), inspection, order, named)
    write_whole(Path(path), lambda temporary: figure.savefig(temporary, dpi=110))


def check_picture_path(path: str | os.PathLike) -> None:
    """Check the ending of a picture's name, before the work of hours.

    Raises:
        ValueError: It is neither .png nor .svg.
    """
    if not os.fspath(path).lower().endswith((".png", ".svg")):
        raise ValueError(f"cannot draw to {os.fspath(path)!r}; choose a .png or .svg file.")


def _names(inspection: Inspection, order: np.ndarray) -> list[str]:
    # A dollar sign would begin a formula.
    return [inspection.label_names[index].replace("$", r"\$") for index in order]


def _draw_counts(axis: "Axes", inspection: Inspection, order: np.ndarray, named: bool) -> None:
    positions = np.arange(len(order))
    counts = np.asarray(inspection.group_counts)[order]
    groups = np.asarray(inspection.groups)[order]
    for group, color in GROUP_COLORS.items():
        mine = groups == group
        if not mine.any():
            continue
        label = f"{inspection.group_split}: {group} ({mine.sum()} classes)"
        axis.bar(positions[mine], counts[mine], color=color, label=label, width=0.85 if named else 1.0)
    others = [split for split in inspection.splits if split != inspection.group_split]
    for mark, split in zip(_SPLIT_MARKS, others, strict=False):
        own = np.asarray(inspection.splits[split].class_counts)[order]
        size = 4 if named else 2
        axis.plot(positions, own, mark, ms=size, mfc="none", mec="black", mew=0.7, label=split)
    axis.set_yscale("symlog", linthresh=1)  # logarithmic from 1 on, and 0 has a place
    most = max(max(entry.class_counts) for entry in inspection.splits.values())
    axis.set_ylim(0, 6 * max(1, most, *inspection.group_counts))  # room for the legend
    axis.set_xlim(-0.7, len(order) - 0.3)
    axis.set_ylabel("images (log scale)")
    axis.set_title("Images of each class")
    axis.grid(axis="y", alpha=0.3)
    axis.legend(fontsize=8, loc="upper right", ncols=2)
    if named:
        axis.set_xticks(positions, _names(inspection, order), rotation=90, fontsize=_font(len(order)))
    else:
        axis.set_xlabel(f"{len(order)} classes by number of images in {inspection.group_split}")


def _draw_groups(axis: "Axes", inspection: Inspection) -> None:
    groups = np.asarray(inspection.groups)
    rows = {"classes": np.ones(len(groups))}
    rows |= {f"labels of {split}": np.asarray(entry.class_counts) for split, entry in inspection.splits.items()}
    for row, values in enumerate(rows.values()):
        start, total = 0.0, max(float(values.sum()), 1.0)
        for group, color in GROUP_COLORS.items():
            amount = float(values[groups == group].sum())
            axis.barh(row, amount / total, left=start, color=color)
            if amount / total > 0.06:
                text = f"{amount:,.0f}"
                text_color = "white" if group == "head" else "black"
                axis.text(start + amount / total / 2, row, text, ha="center", va="center", fontsize=8, color=text_color)
            start += amount / total
    axis.set_yticks(range(len(rows)), list(rows))
    axis.invert_yaxis()
    axis.set_xlim(0, 1)
    axis.set_xlabel("share")
    axis.set_title("Head, medium and tail")


def _draw_labels_per_image(axis: "Axes", inspection: Inspection) -> None:
    from matplotlib.ticker import MaxNLocator

    splits = inspection.splits
    width = 0.8 / len(splits)
    shades = ("0.2", "0.5", "0.75", "0.9")
    for number, (split, entry) in enumerate(splits.items()):
        shares = np.asarray(entry.labels_per_image) / entry.num_images
        places = np.arange(len(shares)) + (number - (len(splits) - 1) / 2) * width
        label = f"{split} ({entry.num_images:,} images)"
        axis.bar(places, shares, width, color=shades[number % 4], edgecolor="black", linewidth=0.4, label=label)
    axis.set_xlabel("labels of an image")
    axis.set_ylabel("share of images")
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.set_title("Labels per image")
    axis.legend(fontsize=8)


def _draw_co_occurrence(figure: "Figure", axis: "Axes", inspection: Inspection, order: np.ndarray, named: bool) -> None:
    split = inspection.group_split if inspection.group_split in inspection.splits else next(iter(inspection.splits))
    matrix = inspection.splits[split].co_occurrence()[np.ix_(order, order)]
    np.fill_diagonal(matrix, np.nan)  # a class is always with itself
    step = 1 if len(order) <= _CELLS else -(-len(order) // _CELLS)
    if step > 1:
        padded = np.full((-(-len(order) // step) * step,) * 2, -1.0)
        padded[: len(order), : len(order)] = np.nan_to_num(matrix, nan=-1.0)
        blocks = padded.reshape(len(padded) // step, step, -1, step).max(axis=(1, 3))
        matrix = np.where(blocks < 0, np.nan, blocks)
    extent = (-0.5, matrix.shape[1] * step - 0.5, matrix.shape[0] * step - 0.5, -0.5)
    axis.set_facecolor("0.85")  # where there is no image of the row's class, and the diagonal
    drawn: Any = axis.imshow(matrix, cmap="viridis", vmin=0, vmax=1, extent=extent, interpolation="nearest")
    figure.colorbar(drawn, ax=axis, fraction=0.03, pad=0.01, label="share of the row's images with the column's class")
    title = f"Classes that occur together in {split}"
    axis.set_title(title if step == 1 else f"{title} (a cell: the largest of {step} x {step} classes)")
    if named:
        names, size = _names(inspection, order), _font(len(order))
        axis.set_xticks(range(len(order)), names, rotation=90, fontsize=size)
        axis.set_yticks(range(len(order)), names, fontsize=size)
    groups = np.asarray(inspection.groups)[order]
    for border in np.flatnonzero(groups[1:] != groups[:-1]) + 0.5:
        axis.axhline(border, color="white", linewidth=0.8)
        axis.axvline(border, color="white", linewidth=0.8)
    if not inspection.splits[split].pairs:
        axis.text(0.5, 0.5, "no two classes occur together", transform=axis.transAxes, ha="center", color="white")


def _font(classes: int) -> float:
    return 9.0 if classes <= 40 else 7.5 if classes <= 70 else 6.5


__all__ = ["check_picture_path", "draw_inspection"]
