# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""Tables of text out of CSV and Excel files, by column."""

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any


def read_table(file: Path) -> dict[str, list[str]]:
    """Read a table whose first row names the columns.

    Args:
        file: `.csv` (UTF-8, commas) or `.xlsx` (its first sheet; needs openpyxl).

    Returns:
        The cells of each column as text, stripped; empty cells are `""`. Rows without any text are left out.

    Raises:
        FileNotFoundError: There is no such file.
        ImportError: It is an Excel file, and openpyxl is not installed.
        ValueError: It is no such table, is empty, or names two columns alike.
    """
    if not file.is_file():
        raise FileNotFoundError(f"there is no table {str(file)!r}; check the path.")
    rows = [row for row in _excel_rows(file) if any(row)] if file.suffix.lower() == ".xlsx" else _csv_rows(file)
    if len(rows) < 2:
        raise ValueError(f"{file} has no rows below its column names; download or export it again.")
    names = rows[0]
    while names and not names[-1]:
        names = names[:-1]
    for index, name in enumerate(names):
        if not name:
            raise ValueError(f"{file}: column {index + 1} has no name; name or remove it.")
        if name in names[:index]:
            raise ValueError(f"{file} has two columns named {name!r}; rename one.")
    for number, row in enumerate(rows[1:], start=2):
        if len(row) < len(names) or any(row[len(names) :]):
            raise ValueError(f"{file}, row {number} has {len(row)} cells, expected {len(names)}; correct the row.")
    return {name: [row[index] for row in rows[1:]] for index, name in enumerate(names)}


def require_columns(table: dict[str, list[str]], names: Iterable[str], file: Path) -> None:
    """Check that a table has columns.

    Raises:
        ValueError: One is missing; the message lists those that are there.
    """
    missing = [name for name in names if name not in table]
    if missing:
        raise ValueError(f"{file} has no column {missing[0]!r}; its columns are {', '.join(table)}.")


def first_column(table: dict[str, list[str]], asked: str | None, usual: Sequence[str], file: Path) -> str | None:
    """Return the column asked for, else the first usual one that the table has, else None."""
    if asked is not None:
        require_columns(table, [asked], file)
        return asked
    return next((name for name in usual if name in table), None)


def _csv_rows(file: Path) -> list[list[str]]:
    try:
        with file.open(encoding="utf-8-sig", newline="") as content:
            rows = [[cell.strip() for cell in row] for row in csv.reader(content, strict=True)]
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{file} is no CSV file in UTF-8 ({error}); export it again.") from None
    return [row for row in rows if any(row)]


def _excel_rows(file: Path) -> list[list[str]]:
    try:
        import openpyxl
    except ImportError:
        raise ImportError(f"reading {file.name} needs openpyxl; pip install openpyxl, or save it as CSV.") from None
    import zipfile

    try:
        book = openpyxl.load_workbook(file, read_only=True, data_only=True)
    except (zipfile.BadZipFile, KeyError, ValueError, OSError, openpyxl.utils.exceptions.InvalidFileException) as error:
        raise ValueError(f"{file} is no Excel file ({error}); download it again.") from None
    try:
        rows = [[_text(cell) for cell in row] for row in book.worksheets[0].iter_rows(values_only=True)]
    finally:
        book.close()
    width = max((len(row) for row in rows), default=0)
    return [row + [""] * (width - len(row)) for row in rows]


def _text(cell: Any) -> str:
    if cell is None:
        return ""
    # Excel knows no whole numbers: an id 12 may come as 12.0.
    return str(int(cell) if isinstance(cell, float) and cell.is_integer() else cell).strip()


__all__ = ["first_column", "read_table", "require_columns"]
