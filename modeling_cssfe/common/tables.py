# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""Tables for people, in a terminal."""

from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from .markdown import percent


def text_table(title: str | None, *columns: str, numbers_from: int | None = None) -> "TextTable":
    """An empty table whose title, heads and cells stand for themselves.

    Args:
        title: Heading, or none.
        columns: Heads.
        numbers_from: Columns from this one on are aligned to the right.
    """
    table = TextTable(title=None if title is None else Text(title), title_justify="left")
    for number, head in enumerate(columns):
        table.add_column(Text(head), justify="right" if numbers_from is not None and number >= numbers_from else "left")
    return table


class TextTable(Table):
    """A table in which a class or a file may be called `[red]apple`, which rich would take for markup."""

    def add_row(self, *cells: Any, **options: Any) -> None:
        """Add a row of texts, numbers or things that rich draws."""
        texts = (Text(str(cell)) if isinstance(cell, str | int | float) else cell for cell in cells)
        super().add_row(*texts, **options)


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


__all__ = ["TextTable", "percent", "show", "text_table"]
