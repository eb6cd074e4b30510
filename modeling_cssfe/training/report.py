# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""Tables for people: head / medium / tail mAP of one or several results, and average precision by class."""

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table


COLUMNS = ("map_total", "map_head", "map_medium", "map_tail")


def percent(value: float | None) -> str:
    """A fraction as the papers print it (times 100, one digit), or a dash where there is none."""
    return "-" if value is None else f"{100 * value:.1f}"


def group_table(results: Mapping[str, Mapping[str, Any]], title: str) -> Table:
    """mAP of several results side by side, one row each.

    Args:
        results: Row name -> result of `long_tail_map`.
        title: Heading of the table.
    """
    table = Table(title=title, title_justify="left")
    table.add_column("mAP (%)")
    for column in COLUMNS:
        table.add_column(column.removeprefix("map_"), justify="right")
    for name, result in results.items():
        table.add_row(escape(name), *(percent(result.get(column)) for column in COLUMNS))
    return table


def class_table(result: Mapping[str, Any], title: str) -> Table:
    """Average precision, F1 and counts of each class, most frequent first."""
    table = Table(title=title, title_justify="left")
    table.add_column("class")
    table.add_column("group")
    for column in ("training images", "positives", "AP", "F1"):
        table.add_column(column, justify="right")
    for row in sorted(result["class_table"], key=lambda row: -row["class_count"]):
        table.add_row(
            escape(row["name"]),  # a name such as "[red]apple" is no markup
            row["group"],
            str(row["class_count"]),
            str(row["num_positives"]),
            percent(row["average_precision"]),
            percent(row["f1"]),
        )
    return table


def published_row(published: Mapping[str, Any]) -> str:
    """Name of the row that a recipe's `published` figures form."""
    return f"published on {published['data']}" if "data" in published else "published"


class _Output(Console):
    def on_broken_pipe(self) -> None:
        """Leave a reader who has left to the command line; rich would end the process with exit code 1."""
        raise BrokenPipeError


def show(*tables: Table) -> None:
    """Print tables to standard output; wide enough not to break names when output goes to a file.

    Raises:
        BrokenPipeError: Nobody reads it any more.
    """
    console = _Output(width=None if Console().is_terminal else 120)
    for table in tables:
        console.print(table)


__all__ = ["class_table", "group_table", "percent", "published_row", "show"]
