# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""What `cssfe predict` wrote, as scores: its columns, and its image files as the image ids of a data set.

Predictions know files, data sets know ids. A file and an id are the same image if their names agree without folders and
without the ending of an image; where several files have that name, the ending and then the folders of the id decide.
"""

import json
import os
import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..common.names import name_some, require_distinct
from ..data.readers.records import IMAGE_SUFFIXES


IMAGE, ERROR, SCORE = "image", "error", "score:"
_SEPARATORS = re.compile("[/" + re.escape(os.sep) + "]")


class Predictions:
    """Scores of image files.

    Args:
        where: The file they were read from.
        images: The image files.
        errors: Why an image has no scores, or None.
        scores: Class name -> a score an image.

    Raises:
        ValueError: A file is there twice, or there are no scores.
    """

    def __init__(self, where: str, images: Sequence[str], errors: Sequence[str | None], scores: dict[str, np.ndarray]):
        require_distinct(images, "image", where)
        if not scores:
            raise ValueError(f"{where} holds no scores; write it with `cssfe predict MODEL IMAGES --output FILE`.")
        self.where, self.images, self.errors, self.scores = where, images, errors, scores

    def rows_of(self, image_ids: Sequence[str], labels: str) -> list[int]:
        """The row of each image of a data set, one to one.

        Args:
            image_ids: Of the data set.
            labels: Its name, for errors.

        Raises:
            ValueError: An image has no row, several or another's, its row has an error, or a row belongs to no image.
        """
        files = defaultdict(list)
        for row, image in enumerate(self.images):
            files[_stem(image)].append(row)
        found = [self._choose(image_id, files[_stem(image_id)]) for image_id in image_ids]
        missing = [image_id for image_id, row in zip(image_ids, found, strict=True) if row is None]
        if missing:
            raise ValueError(
                f"{self.where} has no scores of {len(missing):,} of the {len(image_ids):,} images of {labels}: "
                f"{name_some(missing)}; predict them too: a file's name, without folder and ending, must be the "
                "image's id."
            )
        rows = [row for row in found if row is not None]
        owner: dict[int, str] = {}
        for image_id, row in zip(image_ids, rows, strict=True):
            if row in owner:
                raise ValueError(
                    f"{self.images[row]!r} in {self.where} may be the image {owner[row]!r} or {image_id!r} of "
                    f"{labels}; give the files names of their own."
                )
            owner[row] = image_id
        broken = [self.images[row] for row in rows if self.errors[row]]
        if broken:
            raise ValueError(
                f"{len(broken):,} of the {len(rows):,} images of {labels} could not be read when {self.where} was "
                f"written: {name_some(broken)}; mend and predict them again, or leave them out of the labels."
            )
        # Files that could not be read and are not judged either are no matter.
        others = [image for row, image in enumerate(self.images) if row not in owner and not self.errors[row]]
        if others:
            raise ValueError(
                f"{self.where} has {len(others):,} images that {labels} lacks: {name_some(others)}; predict the judged "
                "images alone, or name their split with --split."
            )
        return rows

    def _choose(self, image_id: str, rows: list[int]) -> int | None:
        """The row of an image among those of its name."""
        for agrees in (_same_name, _same_place):
            if len(rows) > 1:
                rows = [row for row in rows if agrees(self.images[row], image_id)] or rows
        if len(rows) > 1:
            raise ValueError(
                f"the image {image_id!r} may be any of {name_some([self.images[row] for row in rows])} in "
                f"{self.where}; give the files names of their own."
            )
        return rows[0] if rows else None


def are_predictions(header: Sequence[str]) -> bool:
    """Whether columns are those that `cssfe predict` writes."""
    return IMAGE in header and ERROR in header and any(key.startswith(SCORE) for key in header)


def predictions_from_arrow(table: Any, where: str) -> Predictions:
    """Predictions from a table with the columns that `cssfe predict` writes; others are passed over."""
    scores = {
        # fp32, as they were computed: CSV has them in decimals.
        key.removeprefix(SCORE): np.asarray(table[key].cast("float32").to_numpy(), dtype=np.float64)
        for key in table.column_names
        if key.startswith(SCORE)
    }
    images = table[IMAGE].cast("string").to_pylist()
    return Predictions(where, images, table[ERROR].cast("string").to_pylist(), scores)


def read_csv_predictions(path: Path, header: Sequence[str]) -> Predictions:
    """Predictions from a CSV file."""
    import pyarrow
    import pyarrow.csv

    wanted = [key for key in header if key in (IMAGE, ERROR) or key.startswith(SCORE)]
    types = {key: pyarrow.float32() if key.startswith(SCORE) else pyarrow.string() for key in wanted}
    table = pyarrow.csv.read_csv(
        path,
        parse_options=pyarrow.csv.ParseOptions(newlines_in_values=True),
        convert_options=pyarrow.csv.ConvertOptions(column_types=types, include_columns=wanted),
    )
    return predictions_from_arrow(table, str(path))


def read_jsonl_predictions(path: Path) -> Predictions:
    """Predictions from lines of JSON.

    Raises:
        ValueError: A line is not one of `cssfe predict`, or has other labels than the first, as with `--top_k`.
    """
    images: list[str] = []
    errors: list[str | None] = []
    entries: list[dict[str, float] | None] = []
    names: list[str] | None = None
    with open(path, encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            try:
                entry = json.loads(line)
                images.append(str(entry["image"]))
                errors.append(entry.get("error"))
                entries.append(None if errors[-1] else {key: float(value) for key, value in entry["scores"].items()})
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise ValueError(
                    f"line {number} of {path} is none that `cssfe predict` writes into .jsonl (image, scores by label "
                    "or an error); write the file with it, or give CSV, Parquet or npz."
                ) from error
            scores = entries[-1]
            if scores is None:
                continue
            names = sorted(scores) if names is None else names
            if sorted(scores) != names:
                raise ValueError(
                    f"line {number} of {path} has scores of other labels than the first; predict without --top_k, "
                    "which leaves scores out."
                )
    columns = {
        name: np.array([np.nan if scores is None else scores[name] for scores in entries]) for name in names or ()
    }
    return Predictions(str(path), images, errors, columns)


def _parts(name: str) -> list[str]:
    """Folders and name, the ending of an image left out."""
    *folders, last = _SEPARATORS.split(name)
    stem, suffix = os.path.splitext(last)
    return [*folders, stem if suffix.lower() in IMAGE_SUFFIXES else last]


def _stem(name: str) -> str:
    return _parts(name)[-1]


def _same_name(file: str, image_id: str) -> bool:
    return _SEPARATORS.split(file)[-1] == _SEPARATORS.split(image_id)[-1]


def _same_place(file: str, image_id: str) -> bool:
    wanted = _parts(image_id)
    return _parts(file)[-len(wanted) :] == wanted


__all__ = [
    "Predictions",
    "are_predictions",
    "predictions_from_arrow",
    "read_csv_predictions",
    "read_jsonl_predictions",
]
