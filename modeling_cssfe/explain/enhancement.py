# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""The enhancement matrix M': which class gave to which (paper, section "PAE")."""

import csv
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ..common.figures import GROUP_COLORS, figure_style, new_figure, save_figure
from ..configuration_cssfe import GROUPS
from ..modeling_cssfe import CSSFEForImageClassification
from .gradient_maps import evaluation_mode


if TYPE_CHECKING:
    from matplotlib.axes import Axes

ENDINGS = (".png", ".svg", ".csv", ".json")
_NAMED_CLASSES = 100  # above it names are too small to read
_NUMBERED_CLASSES = 30
_SMALLEST_NUMBER = 0.05  # weights below it are not written into their cells
_MOST_DRAWN = 2000  # above it a cell is smaller than a pixel


@dataclass(frozen=True)
class EnhancementMatrix:
    """M' with what its rows and columns stand for.

    Args:
        label_names: Class names.
        groups: `"head"`, `"medium"` or `"tail"` of each class.
        class_counts: Training images of each class, or `None`.
        weights: `(C, C)` fp32. Row: receiving class. Column: giving class. The enhanced map of a class is the sum of
            the given maps with these weights, plus its own map where the configuration has a residual.
        masked: `(C, C)` bool: the mask stands here. With `mask_mode="multiply_scores"` (released code) weights under
            the mask are not 0, and with `"multiply_weights"` rows sum to less than 1.
        mask_mode: Of the configuration; `None` without mask (net2).
    """

    label_names: tuple[str, ...]
    groups: tuple[str, ...]
    class_counts: tuple[int, ...] | None
    weights: np.ndarray
    masked: np.ndarray
    mask_mode: str | None

    @property
    def order(self) -> list[int]:
        """Class ids by group, and within a group from the most training images to the fewest."""
        counts = self.class_counts or (0,) * len(self.groups)
        return sorted(range(len(self.groups)), key=lambda index: (GROUPS.index(self.groups[index]), -counts[index]))

    def received(self) -> np.ndarray:
        """What each class receives from head, medium and tail, `(C, 3)`."""
        groups = np.asarray(self.groups)
        return np.stack([self.weights[:, groups == group].sum(axis=1) for group in GROUPS], axis=1)


def compute_enhancement_matrix(model: CSSFEForImageClassification) -> EnhancementMatrix:
    """The enhancement matrix of a model; it depends on labels and weights alone, and is the same for every image.

    Args:
        model: A net2 or net3.

    Returns:
        The matrix, of any number of classes.

    Raises:
        ValueError: The model does not enhance maps.
    """
    config: Any = model.config
    if not config.uses_enhancement:
        raise ValueError(f"ablation {config.ablation!r} has no enhancement matrix; choose a net2 or net3.")
    network = model.cssfe
    with torch.no_grad(), evaluation_mode(model):
        tokens, weights = network.label_side()
        if weights is None:  # so many classes that the model itself never makes it whole
            weights = network.enhancement.rows(tokens, network.group_ranks, 0, config.num_labels)
    ranks = np.asarray(config.group_ranks)
    masked = ranks[None, :] > ranks[:, None]
    return EnhancementMatrix(
        label_names=tuple(config.label_names),
        groups=tuple(config.groups),
        class_counts=None if config.class_counts is None else tuple(config.class_counts),
        weights=weights.float().cpu().numpy(),
        masked=masked if config.uses_mask else np.zeros_like(masked),
        mask_mode=config.mask_mode if config.uses_mask else None,
    )


def check_matrix_path(path: str | os.PathLike) -> None:
    """Check the ending of a file for a matrix.

    Raises:
        ValueError: It is none of .png, .svg, .csv and .json.
    """
    if not os.fspath(path).lower().endswith(ENDINGS):
        raise ValueError(f"cannot write a matrix to {os.fspath(path)!r}; choose a file of {', '.join(ENDINGS)}.")


def write_enhancement_matrix(matrix: EnhancementMatrix, path: str | os.PathLike) -> None:
    """Draw the matrix, or write its numbers, by the ending of the file.

    `.csv` has a line for each pair: receiver, its group, giver, its group, weight, and whether the mask stands there.
    `.json` has the fields of `EnhancementMatrix`, rows and columns in the order of the class ids.

    Raises:
        ValueError: Another ending, or more classes than can be drawn.
        SavingError: The file cannot be written.
    """
    from ..common.files import write_whole

    check_matrix_path(path)
    ending = Path(path).suffix.lower()
    if ending == ".csv":
        write_whole(Path(path), lambda temporary: _write_csv(matrix, temporary))
    elif ending == ".json":
        content = {
            "label_names": matrix.label_names,
            "groups": matrix.groups,
            "class_counts": matrix.class_counts,
            "mask_mode": matrix.mask_mode,
            "weights": matrix.weights.tolist(),
            "masked": matrix.masked.tolist(),
        }
        write_whole(Path(path), lambda temporary: temporary.write_text(json.dumps(content) + "\n", encoding="utf-8"))
    else:
        draw_enhancement_matrix(matrix, path)


def _write_csv(matrix: EnhancementMatrix, path: Path) -> None:
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["receiver", "receiver_group", "giver", "giver_group", "weight", "masked"])
        for row in matrix.order:
            for column in matrix.order:
                writer.writerow(
                    [
                        matrix.label_names[row],
                        matrix.groups[row],
                        matrix.label_names[column],
                        matrix.groups[column],
                        repr(float(matrix.weights[row, column])),
                        int(matrix.masked[row, column]),
                    ]
                )


def draw_enhancement_matrix(matrix: EnhancementMatrix, path: str | os.PathLike) -> None:
    """Draw the matrix as a heat map, classes ordered and bordered by head, medium and tail.

    Masked cells are hatched where their weight is 0; a weight that is not 0 under the mask shows its colour, hatched
    too. Beside it: what each class receives from head, medium and tail together.

    Args:
        matrix: From `compute_enhancement_matrix`.
        path: `.png` or `.svg` file; written whole or not at all.

    Raises:
        ValueError: Another ending, or more classes than can be drawn.
        SavingError: The file cannot be written.
    """
    from matplotlib.patches import Patch, Rectangle

    classes = len(matrix.label_names)
    if classes > _MOST_DRAWN:
        raise ValueError(f"{classes} classes cannot be drawn, at most {_MOST_DRAWN}; choose a .csv or .json file.")
    named = classes <= _NAMED_CLASSES
    side = max(4.5, 0.24 * classes) if named else 13.0
    order = matrix.order
    weights = matrix.weights[np.ix_(order, order)].astype(float)
    masked = matrix.masked[np.ix_(order, order)]
    with figure_style():
        figure = new_figure(1.4 * side + 3.4, side + 2.2)
        heat, bars = figure.subplots(1, 2, sharey=True, width_ratios=[side, max(1.6, 0.35 * side)])
        shown = np.where(masked & (weights == 0), np.nan, weights)
        heat.set_facecolor("0.9")
        drawn: Any = heat.imshow(shown, cmap="viridis", vmin=0, aspect="auto", interpolation="nearest")
        if masked.any():
            for row, own in enumerate(masked):
                columns = np.flatnonzero(own)
                if len(columns):  # by the order of the groups, masked cells of a row lie together
                    hatched: Any = {"hatch": "////", "fill": False, "edgecolor": "0.55", "linewidth": 0}
                    heat.add_patch(Rectangle((columns[0] - 0.5, row - 0.5), len(columns), 1, **hatched))
            words = "masked: passes nothing" if not (masked & (weights != 0)).any() else "masked, yet passes a weight"
            patch = Patch(facecolor="0.9", edgecolor="0.45", hatch="////", label=words)
            heat.legend(handles=[patch], loc="lower right", bbox_to_anchor=(1, 1.0), fontsize=8, frameon=False)
        figure.colorbar(drawn, ax=heat, location="bottom", shrink=0.7, pad=0.02, label="weight of the giver's map")
        if classes <= _NUMBERED_CLASSES:
            _write_numbers(heat, weights)
        names = [matrix.label_names[index] for index in order]
        _label_classes(heat, names if named else None, classes)
        groups = [matrix.groups[index] for index in order]
        borders = [index + 0.5 for index in range(classes - 1) if groups[index] != groups[index + 1]]
        for border in borders:
            heat.axhline(border, color="white", linewidth=1.6)
            heat.axvline(border, color="white", linewidth=1.6)
            bars.axhline(border, color="black", linewidth=0.6)
        heat.set_title("Which class gives to which", loc="left")
        _draw_received(bars, matrix.received()[order])
        _mark_groups(bars, groups)
        save_figure(figure, path)


def _write_numbers(axis: "Axes", weights: np.ndarray) -> None:
    for row, column in np.argwhere(weights >= _SMALLEST_NUMBER):
        value = weights[row, column]
        color = "black" if value > 0.6 * weights.max() else "white"
        axis.text(column, row, f"{value:.2f}".lstrip("0"), ha="center", va="center", fontsize=6.5, color=color)


def _label_classes(axis: "Axes", names: list[str] | None, classes: int) -> None:
    axis.set_xlabel("giving class")
    axis.set_ylabel("receiving class")
    if names is None:
        axis.set_xlabel(f"giving class, {classes} by group and number of images")
        axis.set_ylabel("receiving class")
        return
    size = 9.0 if classes <= 40 else 7.5
    axis.set_xticks(range(classes), names, rotation=90, fontsize=size)
    axis.set_yticks(range(classes), names, fontsize=size)


def _draw_received(axis: "Axes", received: np.ndarray) -> None:
    places = np.arange(len(received))
    left = np.zeros(len(received))
    for column, (group, color) in enumerate(GROUP_COLORS.items()):
        axis.barh(places, received[:, column], left=left, color=color, height=0.85, label=group)
        left = left + received[:, column]
    axis.set_xlim(0, max(1.0, float(left.max())))
    axis.set_xlabel("received from")
    axis.tick_params(axis="y", left=False, labelleft=False)
    axis.legend(loc="lower left", bbox_to_anchor=(0, 1.0), fontsize=8, frameon=False, ncols=3, handlelength=1)


def _mark_groups(axis: "Axes", groups: list[str]) -> None:
    for group in GROUPS:
        members = [index for index, own in enumerate(groups) if own == group]
        if members:
            middle = (members[0] + members[-1]) / 2
            axis.text(1.03, middle, group, rotation=270, va="center", ha="left", transform=axis.get_yaxis_transform())


__all__ = [
    "EnhancementMatrix",
    "check_matrix_path",
    "compute_enhancement_matrix",
    "draw_enhancement_matrix",
    "write_enhancement_matrix",
]
