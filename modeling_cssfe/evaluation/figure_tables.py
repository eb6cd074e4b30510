# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""Tables of figures, one row a model, for a terminal, a README, a paper or a spreadsheet."""

import csv
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..common.tables import TextTable, text_table
from ..metrics.inputs import check_choice
from ..metrics.long_tail import MAP_FIGURES


if TYPE_CHECKING:
    from .bootstrap import BootstrapResult
    from .comparison import Comparison

DASH = "-: the group has no class with a positive image."
FORMATS = ("table", "markdown", "latex", "csv")
_LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    **{character: "\\" + character for character in "&%$#_{}"},
}


@dataclass(frozen=True)
class Cell:
    """One figure as a fraction, with at most one kind of uncertainty.

    Attributes:
        value: None where there is none.
        std: Standard deviation, for `value +- std`.
        interval: `(low, high)`.
        mark: Stars of significance.
    """

    value: float | None
    std: float | None = None
    interval: tuple[float, float] | None = None
    mark: str = ""


@dataclass(frozen=True)
class FigureTable:
    """Rows of figures.

    Attributes:
        title: What was judged.
        columns: Names of the figures; `map_total` is headed `total`.
        rows: Name -> a cell a column.
        notes: How to read the cells, a sentence each.
        digits: After the decimal point, of percent.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, tuple[Cell, ...]], ...]
    notes: tuple[str, ...] = ()
    digits: int = 1


def results_table(
    title: str,
    results: Mapping[str, Mapping[str, Any]],
    intervals: "Mapping[str, BootstrapResult]",
    comparisons: "Mapping[str, Comparison]",
) -> FigureTable:
    """The mAPs of models with their intervals; what is absent and what is real stands in the notes.

    Args:
        title: What was judged.
        results: Row name -> result of `long_tail_map`.
        intervals: Row name -> result of `bootstrap`; empty for none.
        comparisons: Row name -> result of `compare`; empty for none.
    """
    rows = []
    for row, result in results.items():
        entries = intervals[row].intervals if row in intervals else {}
        cells = []
        for name in MAP_FIGURES:
            entry = entries.get(name)
            limits = None if entry is None or entry.low is None or entry.high is None else (entry.low, entry.high)
            cells.append(Cell(result[name], interval=limits))
        rows.append((row, tuple(cells)))
    notes = []
    if intervals:
        drawn = next(iter(intervals.values()))
        notes.append(f"[low, high]: {drawn.describe()}")
        if drawn.lost_classes:
            lost = ", ".join(f"{name} ({times})" for name, times in drawn.lost_classes.items())
            notes.append(f"Without a positive in some resamples (how many), and left out of their means: {lost}.")
    absent = dict.fromkeys(name for result in results.values() for name in result["absent_classes"])
    if absent:
        notes.append(f"No positive image, left out of all means: {', '.join(absent)}.")
    if any(result[name] is None for result in results.values() for name in MAP_FIGURES):
        notes.append(DASH)
    moved = _classes_of_other_groups(list(results.values()))
    if moved:
        notes.append(
            f"Rows do not agree which classes are head, medium and tail ({', '.join(moved)}): but for the total, they "
            "do not compare. Give --class_counts, --head_min and --tail_max."
        )
    return FigureTable(title, MAP_FIGURES, tuple(rows), (*notes, *describe_comparisons(comparisons)))


def _classes_of_other_groups(results: Sequence[Mapping[str, Any]]) -> list[str]:
    """Classes that are in one group by one result and in another by the next."""
    groups: dict[str, set[str]] = {}
    for result in results:
        for row in result["class_table"]:
            groups.setdefault(row["name"], set()).add(row["group"])
    return [name for name, found in groups.items() if len(found) > 1]


def describe_comparisons(comparisons: "Mapping[str, Comparison]") -> list[str]:
    """Whether the differences are real, a sentence a figure, and what the tests leave out; nothing for no comparison.

    Args:
        comparisons: Row name -> result of `compare`.
    """
    sentences = [comparison.sentence(name) for comparison in comparisons.values() for name in MAP_FIGURES]
    if sentences:
        sentences.append(
            f"{len(sentences)} tests, each on its own: of every 20 where nothing differs, one is called real. They are "
            "about these weights; whether the methods differ takes several training seeds."
        )
    return sentences


def format_table(table: FigureTable, format: str) -> str:
    """Write a table as text.

    Args:
        table: The table.
        format: `"markdown"`; `"latex"` (a `tabular` for the package booktabs); or `"csv"` (fractions with all digits,
            uncertainties in columns of their own, neither title nor notes). `"table"` is that of a terminal.

    Returns:
        The text, ending with a line break. Names are escaped: none is read as markup.

    Raises:
        ValueError: The format is unknown.
    """
    check_choice("format", format, FORMATS)
    if format == "csv":
        return _csv(table)
    if format == "table":
        from rich.console import Console

        console = Console(width=160, file=io.StringIO())
        console.print(rich_table(table))
        return console.file.getvalue()  # type: ignore[attr-defined]
    heads = [column.removeprefix("map_") for column in table.columns]
    if format == "markdown":
        lines = [f"{_markdown(table.title)}", ""]
        lines += [_markdown_row(["mAP (%)", *map(_markdown, heads)]), "|---|" + "---:|" * len(heads)]
        lines += [
            _markdown_row([_markdown(name), *(_text(cell, table.digits, "±").replace("*", r"\*") for cell in cells)])
            for name, cells in table.rows
        ]
        lines += ["", *(_markdown(note) for note in table.notes)] if table.notes else []
        return "\n".join(lines) + "\n"
    lines = [f"% {_one_line(text)}" for text in (table.title, *table.notes, "needs \\usepackage{booktabs}")]
    lines += [rf"\begin{{tabular}}{{l{'r' * len(heads)}}}", r"\toprule"]
    lines += [" & ".join([r"mAP (\%)", *map(escape_latex, heads)]) + r" \\", r"\midrule"]
    lines += [
        " & ".join([escape_latex(name), *(_latex_cell(cell, table.digits) for cell in cells)]) + r" \\"
        for name, cells in table.rows
    ]
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}"]) + "\n"


def rich_table(table: FigureTable) -> TextTable:
    """A table for a terminal."""
    drawn = text_table(table.title, "mAP (%)", *(name.removeprefix("map_") for name in table.columns), numbers_from=1)
    for name, cells in table.rows:
        drawn.add_row(name, *(_text(cell, table.digits, "±") for cell in cells))
    return drawn


def escape_latex(text: str) -> str:
    """Text in which LaTeX finds no command."""
    return "".join(_LATEX.get(character, character) for character in _one_line(text))


def _markdown(text: str) -> str:
    # Without a bracket before it, a parenthesis or an exclamation mark is itself.
    return re.sub(r"([\\`*_{}\[\]<>#+|~&])", r"\\\1", _one_line(text))


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _markdown_row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _text(cell: Cell, digits: int, plus_minus: str) -> str:
    if cell.value is None:
        return "-"
    text = f"{100 * cell.value:.{digits}f}"
    if cell.std is not None:
        text += f" {plus_minus} {100 * cell.std:.{digits}f}"
    if cell.interval is not None:
        text += f" [{100 * cell.interval[0]:.{digits}f}, {100 * cell.interval[1]:.{digits}f}]"
    return text + cell.mark


def _latex_cell(cell: Cell, digits: int) -> str:
    text = _text(Cell(cell.value, cell.std, cell.interval), digits, r"$\pm$")
    return text if cell.value is None or not cell.mark else f"{text}$^{{{cell.mark}}}$"


def _csv(table: FigureTable) -> str:
    cells = [cell for _, row in table.rows for cell in row]
    kinds = [
        kind
        for kind, used in (
            ("std", any(cell.std is not None for cell in cells)),
            ("low", any(cell.interval for cell in cells)),
            ("high", any(cell.interval for cell in cells)),
            ("mark", any(cell.mark for cell in cells)),
        )
        if used
    ]
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(
        ["model", *(name for column in table.columns for name in (column, *(f"{column}_{k}" for k in kinds)))]
    )
    for name, row in table.rows:
        values: list[object] = [name]
        for cell in row:
            low, high = cell.interval or (None, None)
            found = {"std": cell.std, "low": low, "high": high, "mark": cell.mark}
            values += [cell.value, *(found[kind] for kind in kinds)]
        writer.writerow(["" if value is None else value for value in values])
    return file.getvalue()


__all__ = [
    "DASH",
    "FORMATS",
    "Cell",
    "FigureTable",
    "describe_comparisons",
    "escape_latex",
    "format_table",
    "results_table",
    "rich_table",
]
