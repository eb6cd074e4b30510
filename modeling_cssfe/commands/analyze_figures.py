# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""`cssfe analyze figures`: what each part of the method is worth, from runs or a table of trials."""

import argparse

from ._verbs import AddVerb


def register(add: AddVerb) -> None:
    """Declare `cssfe analyze figures`."""
    figures = add("analyze figures", _figures, "Draw mean average precision by group of runs with and without a part.")
    figures.add_argument("runs", nargs="+", help="folders that `cssfe train` wrote, or one .csv of trials")
    figures.add_argument("--by", default="ablation", help="what is compared: ablation or label_embeddings")
    figures.add_argument(
        "--rows", nargs="+", metavar="NAME=KEY", help="rows in their order: name, and ablation, embeddings or trial"
    )
    figures.add_argument("--title", help="above the figure")
    figures.add_argument("--output", required=True, help="PNG or SVG file")


def _figures(options: argparse.Namespace) -> None:
    from rich.table import Table

    from ..analysis.ablation_figure import draw_ablation, read_ablation
    from ..evaluation.weighted import MAP_FIGURES
    from ..explain.drawing import check_figure_path
    from ..training.report import show

    check_figure_path(options.output)
    named: dict[str, str] | None = None
    if options.rows:
        named = {}
        for entry in options.rows:
            name, sign, key = entry.rpartition("=")
            if (name or key) in named:
                raise ValueError(f"--rows names {name or key!r} twice; give each row a name of its own.")
            named[name if sign else key] = key
    rows, notes = read_ablation(options.runs, options.by, named)
    draw_ablation(rows, options.output, options.title)
    table = Table(title="Mean average precision, mean ± half of the 95 % interval over seeds", title_justify="left")
    for column in ("", "seeds", *(figure.removeprefix("map_") for figure in MAP_FIGURES)):
        table.add_column(column, justify="right" if column else "left")
    for row in rows:
        cells = []
        for figure in MAP_FIGURES:
            mean, half = row.mean(figure), row.half_interval(figure)
            cells.append(
                "-" if mean is None else f"{100 * mean:.2f}" + ("" if half is None else f" ± {100 * half:.2f}")
            )
        table.add_row(row.name, str(len(row.seeds)), *cells)
    show(table)
    for note in notes:
        print(f"note: {note}")
    print(options.output)


__all__ = ["register"]
