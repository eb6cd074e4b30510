# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""Scores in files, so that any model of any framework can be judged: CSV, Parquet and npz without pickle.

| file | holds |
|---|---|
| CSV, Parquet, scores alone | `image_id` and one column a class, named after it, with its probability in [0, 1] |
| CSV, Parquet, labels alone | the same with 1, 0, and -1 or an empty cell (NaN) for unknown |
| CSV, Parquet, both | `image_id`, `score:NAME` and `label:NAME` for each class |
| npz | the arrays `image_ids` (N,), `label_names` (C,), and `scores` (N, C), `labels` (N, C) or both; |
|     | if known, also `class_counts` (C,), `thresholds` (C,), `head_min`, `tail_max` |
| CSV, Parquet, JSON Lines | what `cssfe predict` writes, see `modeling_cssfe.evaluation.prediction_files` |

Rows and columns may stand in any order: scores and labels are brought together by image id and by class name, and
refused where one has an image or a class that the other lacks. Parquet and npz files that `write_scores` wrote also
carry counts, bounds and thresholds, and so do the Parquet files of `cssfe predict`; a CSV file does not.
"""

import csv
import json
import os
import re
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..common.names import name_some, require_distinct
from ..data import label_matrix, label_names_of
from ..metrics.inputs import check_choice
from .class_counts import align_class_counts, require_file
from .prediction_files import (
    Predictions,
    are_predictions,
    predictions_from_arrow,
    read_csv_predictions,
    read_jsonl_predictions,
)
from .score_metadata import METADATA_KEY, score_metadata
from .score_table import ScoreTable
from .splits import JudgedSplit


if TYPE_CHECKING:
    import datasets

SCORE_SUFFIXES = (".csv", ".parquet", ".npz")
_READ_SUFFIXES = (*SCORE_SUFFIXES, ".jsonl")
ID_COLUMN = "image_id"
_SCORE, _LABEL = "score:", "label:"
_PANDAS_INDEX = re.compile(r"__index_level_\d+__")


@dataclass
class _Content:
    """What a file holds: columns by class name, in the file's order."""

    where: str
    image_ids: list[str]
    scores: dict[str, np.ndarray] = field(default_factory=dict)
    labels: dict[str, np.ndarray] = field(default_factory=dict)
    plain: dict[str, np.ndarray] = field(default_factory=dict)
    extras: dict[str, Any] = field(default_factory=dict)
    predictions: Predictions | None = None


def is_score_file(path: str | os.PathLike) -> bool:
    """Whether the name ends as that of a score file does, be there such a file or not."""
    return Path(path).suffix.lower() in _READ_SUFFIXES


def read_scores(
    path: str | os.PathLike,
    labels: "str | os.PathLike | datasets.Dataset | JudgedSplit | None" = None,
    *,
    class_counts: Sequence[int] | Mapping[str, int] | str | os.PathLike | None = None,
    head_min: int | None = None,
    tail_max: int | None = None,
    thresholds: Sequence[float] | None = None,
    name: str | None = None,
) -> ScoreTable:
    """Read a file of scores; this module's docstring shows the layouts.

    Args:
        path: CSV, Parquet or npz file, or what `cssfe predict` wrote.
        labels: Where the labels are: a second file, a data set of `load_images`, or what `load_split` gave. None: in
            the same file.
        class_counts: Training images of each class: a sequence in the file's order of classes, a mapping by name, or a
            file of `read_class_counts`. By default the file's own, else those of the labels' training split.
        head_min: Smallest count of a head class; by default the file's own, else 100.
        tail_max: Counts below it are tail; by default the file's own, else 20.
        thresholds: One a class in the file's order; by default the file's own.
        name: Of the table; by default the path.

    Returns:
        The table, with classes in the order of the scores and images in the order of the labels.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is of another kind or layout; a score is NaN or outside [0, 1]; a label is none of 1, 0,
            -1; ids or names repeat, differ between scores and labels, or differ in number; or there are no counts.
    """
    content = _read(path)
    if not content.scores and content.plain:
        content.scores = content.plain
    if not content.scores:
        raise ValueError(f"{content.where} holds no scores; add a column {_SCORE}NAME for each class.")
    names = list(content.scores)
    if labels is None:
        if not content.labels:
            raise ValueError(f"{content.where} holds scores alone; name a file or data set with the labels as well.")
        found = content
    else:
        found = _read_labels(labels)
        if content.predictions is not None:
            _require_same(list(found.labels), names, "classes", found.where, content.where)
            # Lines of JSON have labels in an order of their own.
            names = list(found.labels) if Path(path).suffix.lower() == ".jsonl" else names
            rows_of_images = content.predictions.rows_of(found.image_ids, found.where)
            content.scores = {key: column[rows_of_images] for key, column in content.scores.items()}
            content.image_ids = found.image_ids
        _require_same(found.image_ids, content.image_ids, "images", found.where, content.where)
    _require_same(list(found.labels), names, "classes", found.where, content.where)
    rows = {image: row for row, image in enumerate(content.image_ids)}
    order = [rows[image] for image in found.image_ids]
    scores = np.stack([content.scores[key] for key in names], axis=1)[order]
    _require_no_nan(scores, found.image_ids, names, content.where)
    matrix = np.stack([found.labels[key] for key in names], axis=1).astype(np.float32)

    extras = {**found.extras, **content.extras}
    given = class_counts if class_counts is not None else extras.get("class_counts")
    if given is None:
        raise ValueError(
            f"{content.where} does not say how many training images each class has; give class_counts "
            "(--class_counts FILE) or data with a split 'train'."
        )
    limits = thresholds if thresholds is not None else extras.get("thresholds")
    if isinstance(limits, dict):
        limits = [limits[key] for key in names]
    return ScoreTable(
        name=os.fspath(path) if name is None else name,
        image_ids=tuple(found.image_ids),
        label_names=tuple(names),
        scores=scores,
        labels=np.where(np.isnan(matrix), np.float32(-1), matrix),
        class_counts=tuple(align_class_counts(given, names)),
        head_min=int(extras.get("head_min", 100) if head_min is None else head_min),
        tail_max=int(extras.get("tail_max", 20) if tail_max is None else tail_max),
        thresholds=None if limits is None else tuple(float(limit) for limit in limits),
    )


def write_scores(table: ScoreTable, path: str | os.PathLike) -> None:
    """Write a table, scores and labels in one file, whole or not at all; `read_scores` gives the same table back.

    Args:
        table: What to write. Scores keep all their digits.
        path: A `.csv`, `.parquet` or `.npz` file. CSV has no place for counts, bounds and thresholds.

    Raises:
        ValueError: Another ending.
        SavingError: The file cannot be written.
    """
    from ..common.files import write_whole

    path = Path(path)
    suffix = _suffix(path)
    if suffix == ".npz":
        arrays: dict[str, Any] = {
            "image_ids": np.array(table.image_ids, dtype=np.str_),
            "label_names": np.array(table.label_names, dtype=np.str_),
            "scores": table.scores,
            "labels": table.labels.astype(np.int8),
            "class_counts": np.array(table.class_counts, dtype=np.int64),
            "head_min": np.array(table.head_min),
            "tail_max": np.array(table.tail_max),
        }
        if table.thresholds is not None:
            arrays["thresholds"] = np.array(table.thresholds, dtype=np.float64)

        def save(file: Path) -> None:
            with open(file, "wb") as stream:  # by its name, savez would add a second ending to "scores.NPZ"
                np.savez(stream, **arrays)

        write_whole(path, save)
        return
    import pyarrow
    import pyarrow.csv
    import pyarrow.parquet

    columns = {ID_COLUMN: pyarrow.array(table.image_ids, pyarrow.string())}
    for index, key in enumerate(table.label_names):
        columns[_SCORE + key] = pyarrow.array(np.ascontiguousarray(table.scores[:, index]))
    for index, key in enumerate(table.label_names):
        columns[_LABEL + key] = pyarrow.array(table.labels[:, index].astype(np.int8))
    arrow = pyarrow.table(columns)
    if suffix == ".csv":
        write_whole(path, lambda file: pyarrow.csv.write_csv(arrow, file))
        return
    arrow = arrow.replace_schema_metadata(
        score_metadata(table.label_names, table.class_counts, table.head_min, table.tail_max, table.thresholds)
    )
    write_whole(path, lambda file: pyarrow.parquet.write_table(arrow, file))


def _read_labels(labels: Any) -> _Content:
    if isinstance(labels, (str, os.PathLike)):
        content = _read(labels)
        if not content.labels:
            content.labels = content.plain
        if not content.labels:
            raise ValueError(f"{content.where} holds no labels; add a column a class with 1, 0 or -1.")
        return content
    extras = {}
    if isinstance(labels, JudgedSplit):
        if labels.class_counts is not None:
            extras["class_counts"] = labels.class_counts
        labels = labels.dataset
    ids = [str(image) for image in labels["image_id"]]
    require_distinct(ids, "image id", "the data set")
    matrix = label_matrix(labels)
    columns = {name: matrix[:, i] for i, name in enumerate(label_names_of(labels))}
    return _Content("the data set", ids, labels=columns, extras=extras)


def _read(path: str | os.PathLike) -> _Content:
    path = Path(path)
    suffix = _suffix(path, _READ_SUFFIXES)
    require_file(path)
    if suffix == ".npz":
        content = _read_npz(path)
    elif suffix == ".jsonl":
        content = _from_predictions(read_jsonl_predictions(path))
    else:
        content = _read_columns(path, suffix)
    if not content.image_ids:
        raise ValueError(f"{path} holds no images; give a row for each.")
    require_distinct(content.image_ids, "image id", content.where)
    return content


def _read_npz(path: Path) -> _Content:
    where = str(path)
    if not zipfile.is_zipfile(path):  # numpy would take it for a pickle and advise to load that
        raise ValueError(f"{where} is no npz file; write it with numpy.savez.")
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {key: file[key] for key in file.files}
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{where} is no npz file of plain arrays ({reason}); write it with numpy.savez.") from error
    for key in ("image_ids", "label_names"):
        if key not in arrays or arrays[key].ndim != 1:
            raise ValueError(
                f"{where} needs the one-dimensional array {key!r}; it holds {', '.join(arrays) or 'none'}."
            )
    ids, names = _texts(arrays["image_ids"], where), _texts(arrays["label_names"], where)
    require_distinct(names, "label name", where)
    content = _Content(where, ids)
    for key in ("scores", "labels"):
        if key not in arrays:
            continue
        array = arrays[key]
        if array.shape != (len(ids), len(names)) or array.dtype.kind not in "biuf":
            raise ValueError(
                f"{where}: {key} is {array.dtype} {array.shape}, but there are {len(ids)} image_ids and {len(names)} "
                "label_names; give a matrix of numbers, images x classes."
            )
        setattr(content, key, {name: array[:, i].astype(np.float64) for i, name in enumerate(names)})
    for key in ("class_counts", "thresholds"):
        if key in arrays:
            if arrays[key].shape != (len(names),):
                raise ValueError(
                    f"{where}: {key} has shape {arrays[key].shape} for {len(names)} classes: give one number each."
                )
            content.extras[key] = dict(zip(names, arrays[key].tolist(), strict=True))
    for key in ("head_min", "tail_max"):
        if key in arrays:
            if arrays[key].shape != () or arrays[key].dtype.kind not in "iu":
                raise ValueError(f"{where}: {key} is {arrays[key].tolist()!r}; give one whole number.")
            content.extras[key] = int(arrays[key])
    return content


def _from_predictions(predictions: Predictions, extras: dict[str, Any] | None = None) -> _Content:
    images = list(predictions.images)
    return _Content(
        predictions.where, images, scores=dict(predictions.scores), extras=extras or {}, predictions=predictions
    )


def _texts(array: np.ndarray, where: str) -> list[str]:
    """Ids or names as text, from an array of text, of bytes in UTF-8 or of numbers."""
    if array.dtype.kind != "S":
        return [str(value) for value in array]
    try:
        return np.char.decode(array, "utf-8").tolist()
    except UnicodeDecodeError as error:
        raise ValueError(f"{where}: ids or names are bytes that are no UTF-8; save them as text.") from error


def _read_columns(path: Path, suffix: str) -> _Content:
    import pyarrow
    import pyarrow.csv
    import pyarrow.parquet

    where, extras = str(path), {}
    try:
        if suffix == ".csv":
            with open(path, newline="", encoding="utf-8-sig") as file:
                header = next(csv.reader(file), [])
            if ID_COLUMN not in header and are_predictions(header):
                return _from_predictions(read_csv_predictions(path, header))
            _require_header(header, where)
            types = {key: pyarrow.string() if key == ID_COLUMN else pyarrow.float64() for key in header}
            table = pyarrow.csv.read_csv(
                path,
                parse_options=pyarrow.csv.ParseOptions(newlines_in_values=True),
                convert_options=pyarrow.csv.ConvertOptions(column_types=types),
            )
        else:
            table = pyarrow.parquet.ParquetFile(path).read()
            # What pandas adds for the row numbers of a frame that was shuffled or filtered.
            table = table.drop_columns([key for key in table.column_names if _PANDAS_INDEX.fullmatch(key)])
            extras = json.loads((table.schema.metadata or {}).get(METADATA_KEY, b"{}"))
            if ID_COLUMN not in table.column_names and are_predictions(table.column_names):
                return _from_predictions(predictions_from_arrow(table, where), extras)
            _require_header(table.column_names, where)
        ids = table[ID_COLUMN].cast(pyarrow.string()).to_pylist()
        values = {
            key: np.asarray(table[key].cast(pyarrow.float64()).to_numpy(), dtype=np.float64)
            for key in table.column_names
            if key != ID_COLUMN
        }
    except (pyarrow.ArrowException, UnicodeDecodeError, csv.Error) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{where} cannot be read: {reason}; cells must be numbers, and ids text.") from error
    if None in ids:
        raise ValueError(f"{where}: row {ids.index(None)} has no {ID_COLUMN}; give every image an id.")
    content = _Content(where, ids, extras=extras)
    if not any(key.startswith((_SCORE, _LABEL)) for key in values):
        content.plain = values
        return content
    for key, column in values.items():
        if key.startswith(_SCORE):
            content.scores[key.removeprefix(_SCORE)] = column
        elif key.startswith(_LABEL):
            content.labels[key.removeprefix(_LABEL)] = column
        else:
            raise ValueError(f"{where}: the column {key!r} is neither {_SCORE}NAME nor {_LABEL}NAME; remove it.")
    return content


def _require_header(header: Sequence[str], where: str) -> None:
    if ID_COLUMN not in header:
        raise ValueError(
            f"{where} has no column {ID_COLUMN!r}; its columns are {name_some(header)}: add the images' ids, or give "
            "what `cssfe predict` wrote."
        )
    require_distinct(header, "column", where)


def _suffix(path: Path, suffixes: Sequence[str] = SCORE_SUFFIXES) -> str:
    return check_choice("kind of score file", path.suffix.lower(), suffixes)


def _require_same(first: Sequence[str], second: Sequence[str], what: str, where: str, other: str) -> None:
    only_first, only_second = [sorted(set(a) - set(b)) for a, b in ((first, second), (second, first))]
    if only_first or only_second:
        raise ValueError(
            f"scores and labels have different {what} ({len(second)} and {len(first)}): only the scores ({other}) have "
            f"{name_some(only_second)}, only the labels ({where}) have {name_some(only_first)}; give the same {what} "
            "in both."
        )


def _require_no_nan(scores: np.ndarray, image_ids: Sequence[str], names: Sequence[str], where: str) -> None:
    if np.isnan(scores).any():
        row, column = np.argwhere(np.isnan(scores))[0]
        raise ValueError(
            f"{where}: the score of image {image_ids[row]!r} for {names[column]!r} is NaN or missing; give a number in "
            "[0, 1], or leave the image out of scores and labels."
        )


__all__ = [
    "ID_COLUMN",
    "SCORE_SUFFIXES",
    "is_score_file",
    "read_scores",
    "write_scores",
]
