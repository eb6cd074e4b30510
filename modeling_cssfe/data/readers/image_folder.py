# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""An image folder: image files and a table, `metadata.jsonl` or `metadata.csv`, that names them and their labels.

The table stands in the folder itself or in its sub-folders train, validation and test; the column `file_name` holds
paths relative to the table's own folder. One table for all splits says the split in a column `split`, or by paths that
begin with a split's folder (below folders that all share, such as `images/train/a.jpg`).
"""

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from .labels import LabelOptions, pick_labels
from .records import ImageRecord, existing_image, folder_inside
from .splits import split_of


METADATA_NAMES = ("metadata.jsonl", "metadata.csv")
_FILE_COLUMNS = ("file_name", "image", "path", "filename")
_ID_COLUMNS = ("image_id", "id")


def metadata_files(root: Path) -> list[Path]:
    """Return the metadata tables of an image folder: its own, else those of its split sub-folders.

    Raises:
        ValueError: One folder holds two of them.
    """
    found = []
    for folder in (root, *sorted(path for path in root.iterdir() if path.is_dir())):
        here = [folder / name for name in METADATA_NAMES if (folder / name).is_file()]
        if folder != root and (not here or split_of(folder.name) is None):
            continue
        if len(here) > 1:
            raise ValueError(f"{folder} holds both {' and '.join(METADATA_NAMES)}; keep one of the two.")
        found += here
        if here and folder == root:
            break
    return found


def read_image_folder(
    root: Path,
    tables: Sequence[Path],
    options: LabelOptions,
    image_column: str | None = None,
    id_column: str | None = None,
) -> tuple[dict[str, list[ImageRecord]], list[str] | None]:
    """Read an image folder's tables.

    Args:
        root: The folder, resolved.
        tables: Its metadata tables, as `metadata_files` gives them.
        options: How labels are read.
        image_column: Column of file names; by default `file_name`, `image`, `path` or `filename`.
        id_column: Column of image ids; by default `image_id` or `id`, else the file name is the id.

    Returns:
        The images of each split, and the label names in the order of their columns if labels are columns.

    Raises:
        ValueError: A table cannot be read, or names something outside the folder.
        FileNotFoundError: An image that a table names does not exist.
    """
    records: dict[str, list[ImageRecord]] = {}
    declared: list[str] | None = None
    for table in tables:
        folder = folder_inside(root, table.parent)
        columns = _read_table(table)
        where = str(table)
        file_column = _pick(columns, image_column, _FILE_COLUMNS)
        if file_column is None:
            raise ValueError(
                f"{where} has no column {image_column or 'file_name'!r}; its columns are {', '.join(columns)}."
            )
        own_ids = _pick(columns, id_column, _ID_COLUMNS)
        if id_column is not None and own_ids is None:
            raise ValueError(f"{where} has no column {id_column!r}; its columns are {', '.join(columns)}.")
        apart = {file_column, own_ids, "split"}
        candidates = {name: cells for name, cells in columns.items() if name not in apart}
        labels, order = pick_labels(candidates, options, where)
        if order is not None and declared is not None and order != declared:
            raise ValueError(
                f"{where} has the label columns {', '.join(order)}, another split {', '.join(declared)}; make them the "
                "same, in one order."
            )
        declared = order or declared
        files = [str(name) if name is not None else "" for name in columns[file_column]]
        ids = columns[own_ids] if own_ids is not None else files
        for index, split in enumerate(_splits(table, root, columns.get("split"), files)):
            path = existing_image(folder, files[index], f"{where}, row {index}")
            records.setdefault(split, []).append(ImageRecord(str(ids[index]), path, labels[index]))
    return records, declared


def _splits(table: Path, root: Path, column: Sequence[Any] | None, files: Sequence[str]) -> list[str]:
    if column is not None:
        named = {str(cell): split_of(str(cell)) for cell in column}
        for cell, split in named.items():
            if split is None:
                raise ValueError(f"{table}: split {cell!r} is none of train, validation and test; correct the cell.")
        return [named[str(cell)] or "train" for cell in column]
    if table.parent != root:
        return [split_of(table.parent.name) or "train"] * len(files)
    folders = [PurePosixPath(file.replace("\\", "/")).parts[:-1] for file in files]
    while len(shared := {parts[:1] for parts in folders}) == 1 and (first := shared.pop()) and not split_of(first[0]):
        folders = [parts[1:] for parts in folders]
    of_folder = {parts[:1]: split_of(parts[0]) if parts else None for parts in folders}
    if None not in of_folder.values():
        return [of_folder[parts[:1]] or "train" for parts in folders]
    # A single one may be a class (photographs of trains), but train and test side by side are splits, and the images
    # beside them would turn test into training data.
    if len(set(of_folder.values()) - {None}) > 1:
        odd = next(file for file, parts in zip(files, folders, strict=True) if of_folder[parts[:1]] is None)
        raise ValueError(
            f"{table}: {odd!r} is in no split's folder, but other images are; add a column 'split', or move the image."
        )
    return ["train"] * len(files)


def _pick(columns: dict[str, list], asked: str | None, usual: Sequence[str]) -> str | None:
    return next((name for name in ((asked,) if asked is not None else usual) if name in columns), None)


def _read_table(table: Path) -> dict[str, list]:
    """Return the table's columns; missing cells of JSON lines are None, of CSV empty text."""
    try:
        text = table.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise ValueError(f"{table} is not UTF-8 text; save it as UTF-8.") from None
    rows = _json_rows(text, table) if table.suffix == ".jsonl" else _csv_rows(text, table)
    if not rows:
        raise ValueError(f"{table} has no rows; list one image a row.")
    names = list(dict.fromkeys(name for row in rows for name in row))
    return {name: [row.get(name) for row in rows] for name in names}


def _json_rows(text: str, table: Path) -> list[dict[str, Any]]:
    rows = []
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{table}, line {number} is no JSON ({error}); write one JSON object a line.") from None
        if not isinstance(row, dict):
            raise ValueError(f"{table}, line {number} is no JSON object; write one JSON object a line.")
        rows.append(row)
    return rows


def _csv_rows(text: str, table: Path) -> list[dict[str, Any]]:
    try:
        lines = list(csv.reader(io.StringIO(text, newline=""), strict=True))
    except csv.Error as error:
        raise ValueError(f"{table} cannot be read as CSV ({error}); separate cells by commas and quote text.") from None
    lines = [line for line in lines if any(cell.strip() for cell in line)]
    if not lines:
        return []
    header = [name.strip() for name in lines[0]]
    for name in header:
        if header.count(name) > 1:
            raise ValueError(f"{table} has two columns named {name!r}; rename one.")
    for number, line in enumerate(lines[1:], start=1):
        if len(line) != len(header):
            raise ValueError(
                f"{table}, row {number} has {len(line)} cells, the header {len(header)}; quote cells that hold commas."
            )
    return [dict(zip(header, line, strict=True)) for line in lines[1:]]


__all__ = ["METADATA_NAMES", "metadata_files", "read_image_folder"]
