# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""Figures that are written whole, as PNG or SVG, the same to the byte when drawn again."""

import os
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING


if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Of Okabe and Ito ("Color Universal Design", 2008), which colour-blind readers tell apart.
SERIES_COLORS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#000000")
GROUP_COLORS = {"head": "#0072B2", "medium": "#009E73", "tail": "#D55E00"}
SERIES_MARKS = ("o", "s", "^", "D", "v", "P", "X")


def check_figure_path(path: str | os.PathLike) -> None:
    """Check the ending of a figure's name, before work is done.

    Raises:
        ValueError: It is neither .png nor .svg.
    """
    if not os.fspath(path).lower().endswith((".png", ".svg")):
        raise ValueError(f"cannot draw to {os.fspath(path)!r}; choose a .png or .svg file.")


@contextmanager
def figure_style():
    """Settings that figures are made and saved under; they end with the block."""
    import matplotlib

    settings = {
        "text.parse_math": False,  # a class may be called "$x$"
        "text.usetex": False,
        "svg.hashsalt": "cssfe",  # random ids otherwise
    }
    with matplotlib.rc_context(settings):
        yield


def new_figure(width: float, height: float) -> "Figure":
    """An empty figure of a size in inches, outside pyplot's list of open figures."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def save_figure(figure: "Figure", path: str | os.PathLike, dpi: int = 110) -> None:
    """Write a figure, whole or not at all.

    Args:
        figure: The figure.
        path: `.png` or `.svg` file.
        dpi: Dots an inch of a PNG, and of photographs inside an SVG.

    Raises:
        ValueError: Another ending.
        SavingError: The file cannot be written.
    """
    from .files import write_whole

    check_figure_path(path)
    metadata = {"Date": None} if os.fspath(path).lower().endswith(".svg") else None
    write_whole(Path(path), lambda temporary: figure.savefig(temporary, dpi=dpi, metadata=metadata))


__all__ = [
    "GROUP_COLORS",
    "SERIES_COLORS",
    "SERIES_MARKS",
    "check_figure_path",
    "figure_style",
    "new_figure",
    "save_figure",
]
