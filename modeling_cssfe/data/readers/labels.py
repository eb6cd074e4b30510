# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""Label cells of any supported form to label names, and names to class ids.

Every reader of a file format yields names; ids are given once, here, in one order: that of the source where it has one
(`ClassLabel` names, COCO categories by id, label columns), and sorted names otherwise.
"""

import ast
import difflib
import json
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any


# Tried in this order when no delimiter is given. Spaces are not: label names hold them ("traffic light").
_DELIMITERS = ("|", ";", ",")
EMPTY_CELL_RULES = ("error", "unknown", "negative")


@dataclass(frozen=True)
class RowLabels:
    """What a data set says of one image: the labels it has, and those of which nothing is known."""

    present: tuple[Any, ...] = ()
    unknown: tuple[Any, ...] = ()


@dataclass(frozen=True)
class LabelOptions:
    """How label cells are read; see `load_images` for the meaning of each field."""

    labels_column: str | None = None
    label_columns: tuple[str, ...] | None = None
    delimiter: str | None = None
    empty_cells: str = "error"

    def __post_init__(self) -> None:
        """Check the values."""
        if self.empty_cells not in EMPTY_CELL_RULES:
            raise ValueError(f"empty_cells must be one of {', '.join(EMPTY_CELL_RULES)}, got {self.empty_cells!r}.")
        if self.labels_column is not None and self.label_columns is not None:
            raise ValueError("labels_column and label_columns exclude each other; pass the one that the data has.")


# "Nothing is known of any label of this image", before all names are known. Compared by identity: a label may be
# called "*".
ALL_UNKNOWN = RowLabels(unknown=("*",))


def check_label_names(names: Iterable[Any], where: str) -> list[str]:
    """Return the names as a list of text.

    Raises:
        ValueError: There is none, one is empty or holds control characters, or two are the same.
    """
    listed = [str(name) for name in names]
    if not listed:
        raise ValueError(f"{where} has no label names; give every class a name.")
    for index, name in enumerate(listed):
        if not name.strip():
            raise ValueError(f"{where}: the name of label {index} is empty; give every class a name.")
        # Controls (a quote that is not closed puts a line break into a name) and halves of characters.
        if any(unicodedata.category(character) in ("Cc", "Cs") for character in name):
            raise ValueError(f"{where}: the label name {name!r} holds a character that no text has; correct the name.")
    seen: set[str] = set()
    for name in listed:
        if name in seen:
            raise ValueError(f"{where} has two labels named {name!r}; rename one or merge the two.")
        seen.add(name)
    return listed


def label_ids(rows: Sequence[RowLabels], names: Sequence[str], where: str) -> tuple[list[list[int]], list[list[int]]]:
    """Replace label names by their positions in `names`; the ids of a row are sorted and appear once.

    Returns:
        The ids of the present and of the unknown labels of each row.

    Raises:
        ValueError: A label is not among the names, or is both present and unknown.
    """
    position = {name: index for index, name in enumerate(names)}
    present, unknown = [], []
    for index, row in enumerate(rows):
        try:
            has = {position[label] for label in row.present}
            maybe = set(range(len(names))) if row is ALL_UNKNOWN else {position[label] for label in row.unknown}
        except KeyError as error:
            raise ValueError(f"{where}, row {index}: {unknown_label_message(error.args[0], names)}") from None
        if has & maybe:
            label = names[min(has & maybe)]
            raise ValueError(
                f"{where}, row {index}: label {label!r} is both present and unknown; remove one of the two."
            )
        present.append(sorted(has))
        unknown.append(sorted(maybe))
    return present, unknown


def sorted_names(rows: Iterable[RowLabels], where: str) -> list[str]:
    """Return every name that the rows mention, sorted: the order for sources that have none of their own.

    Raises:
        ValueError: The rows hold numbers, whose names are not known, or no label at all.
    """
    names: set[Any] = set()
    for row in rows:
        names.update(row.present)
        if row is not ALL_UNKNOWN:
            names.update(row.unknown)
    numbers = [name for name in names if not isinstance(name, str)]
    if numbers:
        raise ValueError(f"{where}: label {numbers[0]!r} is a number without a name; pass label_names=[...].")
    if not names:
        raise ValueError(f"{where}: no image has a label; check the labels, or pass label_names=[...].")
    return check_label_names(sorted(names), where)


def are_multi_hot(rows: Iterable[RowLabels], num_names: int) -> bool:
    """Whether the rows are multi-hot vectors: one number a name, 1 present, 0 absent, -1 or NaN unknown.

    They are if every row that is not empty has that form and one at least is not the list of all ids in order, 0 to
    `num_names` - 1: such rows alone say that every image has every label. Ask for all splits at once; the rows of one
    may fit both forms.
    """
    every_id = tuple(range(num_names))
    found = False
    for row in rows:
        if not row.present:
            continue
        if len(row.present) != num_names or not all(
            not isinstance(value, str) and (value in (1, 0, -1) or value != value) for value in row.present
        ):
            return False
        found = found or row.present != every_id
    return found


def name_numbers(rows: Sequence[RowLabels], names: Sequence[str], where: str, multi_hot: bool) -> list[RowLabels]:
    """Replace numbers among the labels by the names at these positions, or by those that vectors mark.

    Args:
        rows: Labels by name or number.
        names: The label names.
        where: The source, for errors.
        multi_hot: Whether rows that are not empty are multi-hot vectors; see `are_multi_hot`.

    Raises:
        ValueError: A number is out of range.
    """
    if all(isinstance(label, str) for row in rows for label in (*row.present, *row.unknown)):
        return list(rows)
    if multi_hot:
        return [_of_vector(row.present, names) if row.present else row for row in rows]

    def name(label: Any, index: int) -> str:
        if isinstance(label, str):
            return label
        if not float(label).is_integer() or not 0 <= label < len(names):  # nor NaN and infinity
            raise ValueError(
                f"{where}, row {index}: label id {label} is out of range; with {len(names)} label names ids run from "
                f"0 to {len(names) - 1}."
            )
        return names[int(label)]

    return [
        row
        if row is ALL_UNKNOWN
        else RowLabels(
            tuple(name(label, index) for label in row.present), tuple(name(label, index) for label in row.unknown)
        )
        for index, row in enumerate(rows)
    ]


def _of_vector(vector: Sequence[Any], names: Sequence[str]) -> RowLabels:
    marked = list(zip(names, vector, strict=True))
    return RowLabels(
        tuple(name for name, value in marked if value == 1),
        tuple(name for name, value in marked if value not in (1, 0)),
    )


def unknown_label_message(label: str, names: Sequence[str]) -> str:
    """Say that a label is not among the names, with the nearest one and the mend."""
    near = difflib.get_close_matches(label, names, n=1)
    listed = ", ".join(names[:10]) + (", ..." if len(names) > 10 else "")
    hint = f", did you mean {near[0]!r}?" if near else ";"
    return f"unknown label {label!r}{hint} The label names are {listed}; correct the label or add it to label_names."


def parse_label_list(cells: Sequence[Any], options: LabelOptions, where: str) -> list[RowLabels]:
    """Read a column whose cell lists the labels of one image.

    A cell is a list; text that holds a list (`["cat", "dog"]`); text with names between delimiters; or one name or
    number. None is, by `options.empty_cells`, an error, an image of whose labels nothing is known (`ALL_UNKNOWN`), or
    one without labels. Empty text, which in a CSV file may mean either, is an image without labels unless
    `empty_cells` is `"unknown"`; an empty list is always one.

    Raises:
        ValueError: A None that the options do not allow, or text whose delimiter is not clear.
    """
    delimiter = options.delimiter or _guess_delimiter(cells, where)
    rows = []
    for index, cell in enumerate(cells):
        if cell is None or (isinstance(cell, str) and not cell.strip() and options.empty_cells == "unknown"):
            if options.empty_cells == "error":
                raise ValueError(f"{where}: {_empty_cell_message(f'row {index}')}")
            rows.append(ALL_UNKNOWN if options.empty_cells == "unknown" else RowLabels())
        elif isinstance(cell, str):
            rows.append(RowLabels(tuple(_split_text(cell, delimiter, f"{where}: row {index}"))))
        elif isinstance(cell, list | tuple):
            rows.append(RowLabels(tuple(_checked(label, f"{where}: row {index}") for label in cell)))
        elif isinstance(cell, int | float) and not isinstance(cell, bool):
            rows.append(RowLabels((cell,)))
        else:
            raise ValueError(
                f"{where}: row {index} has {cell!r} for labels; give a list of names, or names between delimiters."
            )
    return rows


def parse_label_columns(columns: Mapping[str, Sequence[Any]], options: LabelOptions, where: str) -> list[RowLabels]:
    """Read one column a label: 1 or true is present, 0 or false absent, -1 unknown; `options` decide on empty cells.

    Raises:
        ValueError: A cell that is none of these, or an empty one that the options do not allow.
    """
    names = list(columns)
    states = {name: [_state(cell) for cell in cells] for name, cells in columns.items()}
    for name in names:
        for index, state in enumerate(states[name]):
            if state == "bad":
                raise ValueError(
                    f"{where}: column {name!r}, row {index} is {columns[name][index]!r}; a label column holds 1, 0 or "
                    "-1 (unknown). Pass label_columns=[...] if this is no label."
                )
            if state == "empty" and options.empty_cells == "error":
                raise ValueError(f"{where}: {_empty_cell_message(f'column {name!r}, row {index}')}")
    unknown_states = ("unknown", "empty") if options.empty_cells == "unknown" else ("unknown",)
    return [
        RowLabels(
            tuple(name for name, state in zip(names, row, strict=True) if state == "present"),
            tuple(name for name, state in zip(names, row, strict=True) if state in unknown_states),
        )
        for row in zip(*states.values(), strict=True)
    ]


def pick_labels(
    columns: Mapping[str, Sequence[Any]], options: LabelOptions, where: str
) -> tuple[list[RowLabels], list[str] | None]:
    """Find the labels among the columns of a table and read them.

    That is the column or the columns that the options name; else the column `labels` or `label`; else all columns, if
    each holds nothing but 1, 0, -1 and empty cells.

    Returns:
        The labels of each row, and the label names in the order of their columns (None for a column of lists).

    Raises:
        ValueError: There are no such columns, or a cell cannot be read.
    """
    asked = [options.labels_column] if options.labels_column is not None else list(options.label_columns or ())
    for name in asked:
        if name not in columns:
            near = difflib.get_close_matches(name, columns, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise ValueError(f"{where} has no column {name!r}; its columns are {', '.join(columns) or 'none'}.{hint}")
    list_column = options.labels_column
    if list_column is None and options.label_columns is None:
        list_column = next((name for name in ("labels", "label") if name in columns), None)
    if list_column is not None:
        return parse_label_list(columns[list_column], options, f"{where}, column {list_column!r}"), None
    chosen = {name: columns[name] for name in (options.label_columns or columns)}
    if options.label_columns is None:
        for name, cells in chosen.items():
            if any(_state(cell) == "bad" for cell in cells):
                raise ValueError(
                    f"{where} has no column 'labels', and column {name!r} is no label column of 1, 0 and -1; name the "
                    "columns with labels_column=... or label_columns=[...]."
                )
    if not chosen:
        raise ValueError(f"{where} has no labels; add a column 'labels', or one column of 1 and 0 a label.")
    return parse_label_columns(chosen, options, where), check_label_names(chosen, where)


def _state(cell: Any) -> str:
    if cell is None or (isinstance(cell, str) and not cell.strip()) or cell != cell:  # NaN differs from itself
        return "empty"
    try:
        return {1.0: "present", 0.0: "absent", -1.0: "unknown"}[float(cell)]
    except (TypeError, ValueError, KeyError):
        pass
    return {"true": "present", "false": "absent"}.get(str(cell).strip().lower(), "bad")


def _checked(label: Any, where: str) -> Any:
    """A label of a list: a name, without spaces around it, or a number, which is an id or a place of a vector."""
    label = label.strip() if isinstance(label, str) else label
    if label is None or label == "":
        raise ValueError(f"{where} lists an empty label; remove it.")
    if isinstance(label, Real | str):
        return label
    raise ValueError(f"{where} lists {label!r} for a label; give names, or class ids.")


def _split_text(cell: str, delimiter: str | None, where: str) -> list[Any]:
    if cell.lstrip().startswith("["):
        return [_checked(label, where) for label in _listed(cell)]
    parts = cell.split(delimiter) if delimiter else [cell]
    return [part.strip() for part in parts if part.strip()]


def _listed(cell: str) -> list:
    try:
        return json.loads(cell)
    except (ValueError, RecursionError):
        pass
    try:
        # The form in which pandas writes a column of lists; literal_eval builds constants and runs nothing.
        value = ast.literal_eval(cell)
    except (ValueError, SyntaxError, RecursionError, MemoryError):  # the last two: brackets nested without end
        raise ValueError(f'the label cell {cell[:60]!r} begins like a list but is none; write ["a", "b"].') from None
    return list(value)


def _guess_delimiter(cells: Sequence[Any], where: str) -> str | None:
    texts = [cell for cell in cells if isinstance(cell, str) and not cell.lstrip().startswith("[")]
    found = [mark for mark in _DELIMITERS if any(mark in text for text in texts)]
    if len(found) > 1:
        raise ValueError(
            f"{where}: the label column holds {' and '.join(map(repr, found))}; say with delimiter=... which of them "
            "separates labels."
        )
    return found[0] if found else None


def _empty_cell_message(place: str) -> str:
    return (
        f"{place} is empty; say with empty_cells='unknown' or empty_cells='negative' what that means, or fill the cell."
    )


__all__ = [
    "ALL_UNKNOWN",
    "EMPTY_CELL_RULES",
    "LabelOptions",
    "RowLabels",
    "are_multi_hot",
    "check_label_names",
    "label_ids",
    "name_numbers",
    "parse_label_columns",
    "parse_label_list",
    "pick_labels",
    "sorted_names",
    "unknown_label_message",
]
