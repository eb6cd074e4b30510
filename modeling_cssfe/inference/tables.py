# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""Predictions as tables, and tables as files.

One row an image, in the order asked for:

| column | holds |
|---|---|
| `image` | its file; bytes of a name that are no UTF-8 stand as `\\xNN` |
| `error` | why it cannot be read; empty if it can. All other columns are empty then |
| `width`, `height` | pixels of the upright image |
| `labels` | names of the labels whose score reaches the threshold, highest score first |
| `score:NAME` | fp32 sigmoid probability, a column for each class |
| `probability:NAME` | calibrated probability, likewise, if the model has a calibration |
| `boxes` | if asked for: `label`, `x_min`, `y_min`, `x_max`, `y_max` in pixels, for labels that have one |

Parquet has lists and structures for what needs them, and its metadata carry class counts, bounds and thresholds, so
that `cssfe evaluate` judges the file as it judges the model; in CSV `labels` and `boxes` are JSON. A line of JSONL has
`scores` and `probabilities` by name, highest score first, instead of columns, and leaves out what is empty.
"""

import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.csv
import pyarrow.parquet

from .files import printable
from .predictor import PredictedBatch


SCORE, PROBABILITY = "score:", "probability:"
_CORNERS = ("x_min", "y_min", "x_max", "y_max")
_BOX = pyarrow.struct([("label", pyarrow.string()), *((corner, pyarrow.float64()) for corner in _CORNERS)])


def prediction_schema(label_names: Sequence[str], calibrated: bool, boxes: bool) -> pyarrow.Schema:
    """Columns of the table, as this module's docstring lists them."""
    fields = [("image", pyarrow.string()), ("error", pyarrow.string())]
    fields += [("width", pyarrow.int32()), ("height", pyarrow.int32()), ("labels", pyarrow.list_(pyarrow.string()))]
    fields += [(SCORE + name, pyarrow.float32()) for name in label_names]
    fields += [(PROBABILITY + name, pyarrow.float64()) for name in label_names if calibrated]
    return pyarrow.schema(fields + ([("boxes", pyarrow.list_(_BOX))] if boxes else []))


def batches_to_table(
    batches: Sequence[PredictedBatch], label_names: Sequence[str], thresholds: np.ndarray
) -> pyarrow.Table:
    """One table of several batches; at least one."""
    scores = np.concatenate([batch.scores for batch in batches])
    sizes = np.concatenate([batch.sizes for batch in batches])
    errors = [None if error is None else printable(error) for batch in batches for error in batch.errors]
    failed = np.array([error is not None for error in errors])
    columns: list[Any] = [[printable(image) for batch in batches for image in batch.images], errors]
    columns += [pyarrow.array(sizes[:, 0], mask=failed), pyarrow.array(sizes[:, 1], mask=failed)]
    columns.append(
        [None if broken else _labels(row, thresholds, label_names) for row, broken in zip(scores, failed, strict=True)]
    )
    columns += [pyarrow.array(np.ascontiguousarray(column), mask=failed) for column in scores.T]
    calibrated = batches[0].probabilities is not None
    if calibrated:
        probabilities = np.concatenate([batch.probabilities for batch in batches if batch.probabilities is not None])
        columns += [pyarrow.array(np.ascontiguousarray(column), mask=failed) for column in probabilities.T]
    boxed = batches[0].boxes is not None
    if boxed:
        found = [boxes for batch in batches for boxes in batch.boxes or ()]
        columns.append(
            [
                None
                if broken
                else [{"label": label} | dict(zip(_CORNERS, box, strict=True)) for label, box in boxes.items() if box]
                for boxes, broken in zip(found, failed, strict=True)
            ]
        )
    schema = prediction_schema(label_names, calibrated, boxed)
    arrays = [
        pyarrow.array(column, field.type) if isinstance(column, list) else column
        for column, field in zip(columns, schema, strict=True)
    ]
    return pyarrow.Table.from_arrays(arrays, schema=schema)


def _labels(scores: np.ndarray, thresholds: np.ndarray, label_names: Sequence[str]) -> list[str]:
    order = np.argsort(-scores, kind="stable")
    return [label_names[index] for index in order[(scores >= thresholds)[order]]]


def write_parquet(tables: Iterable[pyarrow.Table], path: Path, top_k: int | None = None) -> None:
    """Write tables of one schema as row groups of a Parquet file."""
    writer = None
    try:
        for table in tables:
            if writer is None:
                writer = pyarrow.parquet.ParquetWriter(path, table.schema)
            writer.write_table(table)
    finally:
        if writer is not None:
            writer.close()


def write_csv(tables: Iterable[pyarrow.Table], path: Path, top_k: int | None = None) -> None:
    """Write tables of one schema to a CSV file with a header."""
    with open(path, "wb") as file:
        for number, table in enumerate(tables):
            for name in ("labels", "boxes"):
                if name in table.column_names:
                    cells = [None if cell is None else _json(cell) for cell in table[name].to_pylist()]
                    index = table.column_names.index(name)
                    table = table.set_column(index, name, pyarrow.array(cells, pyarrow.string()))
            pyarrow.csv.write_csv(table, file, pyarrow.csv.WriteOptions(include_header=number == 0))


def write_jsonl(tables: Iterable[pyarrow.Table], path: Path, top_k: int | None = None) -> None:
    """Write tables of one schema as lines of JSON, with the `top_k` highest scores of each image or all of them."""
    with open(path, "w", encoding="utf-8", newline="\n") as file:
        for table in tables:
            names = [name for name in table.column_names if not name.startswith((SCORE, PROBABILITY))]
            scored = [name for name in table.column_names if name.startswith(SCORE)]
            calibrated = [name for name in table.column_names if name.startswith(PROBABILITY)]
            scores, probabilities = _matrix(table, scored), _matrix(table, calibrated)
            labels = [name.removeprefix(SCORE) for name in scored]
            for row, entry in enumerate(table.select(names).to_pylist()):
                entry = {key: value for key, value in entry.items() if value is not None}
                if "error" not in entry:
                    order = np.argsort(-scores[row], kind="stable")[:top_k]
                    entry["scores"] = {labels[index]: scores[row, index].item() for index in order}
                    if calibrated:
                        entry["probabilities"] = {labels[index]: probabilities[row, index].item() for index in order}
                file.write(_json(entry) + "\n")


def _matrix(table: pyarrow.Table, names: Sequence[str]) -> np.ndarray:
    # (rows, classes); what is empty becomes NaN
    return np.stack([table[name].to_numpy() for name in names], axis=1) if names else np.empty((len(table), 0))


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


Writer = Callable[[Iterable[pyarrow.Table], Path, int | None], None]
WRITERS: dict[str, Writer] = {".parquet": write_parquet, ".csv": write_csv, ".jsonl": write_jsonl}


__all__ = [
    "PROBABILITY",
    "SCORE",
    "WRITERS",
    "batches_to_table",
    "prediction_schema",
    "write_csv",
    "write_jsonl",
    "write_parquet",
]
