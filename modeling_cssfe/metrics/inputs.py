# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""Scores and labels of a multi-label evaluation: checked once, then walked class by class or image by image.

Letters: N images, C classes. A label is 1 (positive), 0 (negative), or -1 / NaN (unknown). An unknown label takes no
part in any figure.

A score matrix can be larger than what is left of the memory (1,000,000 x 1,000 in fp32 is 4 GB), so nothing here copies
it. `map_columns` copies a few classes at a time, `map_rows` a few images at a time.
"""

import difflib
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np


Result = TypeVar("Result")
Piece = TypeVar("Piece")

# 16 fp32 columns are 64 bytes of a row, one cache line: fewer would read every line several times.
_CLASSES_AT_A_TIME = 16
# Rows that are transposed together. 4,096 cache lines stay in a second-level cache.
_ROWS_TO_TRANSPOSE = 4096
# Cells of a block of images. The temporary arrays of a ranking stay in the cache and never matter for the memory.
_CELLS_AT_A_TIME = 1 << 17


@dataclass(frozen=True)
class ScoredLabels:
    """Scores and references that have passed `check_scored_labels`.

    Attributes:
        scores: `(N, C)`, fp32 or fp64, finite.
        references: `(N, C)`, any integer, bool or float dtype, with 1, 0, and -1 or NaN for unknown.
        label_names: C distinct names.
        lowest: Smallest score.
        highest: Largest score.
        num_unknown: Number of unknown labels.
    """

    scores: np.ndarray
    references: np.ndarray
    label_names: tuple[str, ...]
    lowest: float
    highest: float
    num_unknown: int

    @property
    def num_images(self) -> int:
        """N."""
        return self.scores.shape[0]

    @property
    def num_classes(self) -> int:
        """C."""
        return self.scores.shape[1]

    @property
    def are_probabilities(self) -> bool:
        """Whether every score lies in [0, 1]."""
        return self.lowest >= 0 and self.highest <= 1

    def map_columns(
        self, function: Callable[[np.ndarray, np.ndarray], Result], num_workers: int | None = 1
    ) -> list[Result]:
        """Call `function(scores, positive)` for every class with the images whose label is known.

        Args:
            function: Takes the contiguous scores `(n,)` of one class and a boolean `(n,)`, and must not keep them.
            num_workers: Threads; `None` takes one a core. Each holds 16 classes at a time.

        Returns:
            One result a class, in the order of the classes and independent of `num_workers`.
        """

        def run(first: int) -> list[Result]:
            last = min(first + _CLASSES_AT_A_TIME, self.num_classes)
            scores = np.empty((last - first, self.num_images), dtype=self.scores.dtype)
            positive = np.empty(scores.shape, dtype=bool)
            known = np.empty(scores.shape, dtype=bool)
            for start in range(0, self.num_images, _ROWS_TO_TRANSPOSE):
                rows = slice(start, start + _ROWS_TO_TRANSPOSE)
                scores[:, rows] = self.scores[rows, first:last].T
                labels = self.references[rows, first:last].T
                positive[:, rows] = labels == 1
                known[:, rows] = labels >= 0  # False for NaN as well
            results = []
            for index in range(last - first):
                mask = known[index]
                if mask.all():
                    results.append(function(scores[index], positive[index]))
                else:
                    results.append(function(scores[index][mask], positive[index][mask]))
            return results

        chunks = _map(run, range(0, self.num_classes, _CLASSES_AT_A_TIME), num_workers)
        return [result for chunk in chunks for result in chunk]

    def map_rows(
        self, function: Callable[[np.ndarray, np.ndarray, np.ndarray], Result], num_workers: int | None = 1
    ) -> list[Result]:
        """Call `function(scores, positive, known)` for blocks of images, each argument `(rows, C)`.

        Args:
            function: Must not change its arguments.
            num_workers: Threads; `None` takes one a core.

        Returns:
            One result a block, in the order of the images and independent of `num_workers`.
        """

        def run(rows: slice) -> Result:
            labels = self.references[rows]
            return function(self.scores[rows], labels == 1, labels >= 0)

        return list(_map(run, _row_blocks(self.scores.shape), num_workers))


def check_scored_labels(scores: Any, references: Any, label_names: Sequence[str] | None = None) -> ScoredLabels:
    """Check scores and references and bring them to arrays, without a copy where the input is an array already.

    Args:
        scores: `(N, C)` array, torch tensor on any device, or nested lists; any real dtype. Half precision is widened.
        references: `(N, C)`, the same kinds; 1, 0, and -1 or NaN (None in a list) for unknown.
        label_names: C distinct names; `LABEL_0`, `LABEL_1`, ... without them, as `transformers` names classes.

    Returns:
        The checked pair.

    Raises:
        ValueError: Shapes differ or are not `(N, C)`, there is no image or no class, a score is NaN or infinite, a
            label is none of 0, 1 and unknown, or the names do not fit.
        TypeError: The input does not consist of numbers, or a name is no string.
    """
    score_array = _as_array(scores, "scores")
    if score_array.dtype == np.float16:
        score_array = score_array.astype(np.float32)
    elif score_array.dtype not in (np.float32, np.float64):
        score_array = score_array.astype(np.float64)
    label_array = _as_array(references, "references")
    if score_array.ndim != 2 or score_array.shape != label_array.shape:
        raise ValueError(
            f"scores and references must both be (images, classes), got {score_array.shape} and {label_array.shape}; "
            "pass one row an image and one column a class."
        )
    if 0 in score_array.shape:
        raise ValueError(f"scores are empty, shape {score_array.shape}; pass at least one image and one class.")
    names = check_label_names(label_names, score_array.shape[1])
    lowest, highest, num_unknown = _scan(score_array, label_array, names)
    return ScoredLabels(score_array, label_array, names, lowest, highest, num_unknown)


def check_label_names(label_names: Sequence[str] | None, num_classes: int) -> tuple[str, ...]:
    """Return the names, or `LABEL_0`, `LABEL_1`, ... in place of None.

    Raises:
        ValueError: There are not `num_classes` names, or one stands there twice.
        TypeError: A name is no string.
    """
    if label_names is None:
        return tuple(f"LABEL_{index}" for index in range(num_classes))
    if isinstance(label_names, str):
        raise TypeError(f"label_names must be a list of names, got the single string {label_names!r}.")
    names = tuple(label_names)
    for name in names:
        if not isinstance(name, str):
            raise TypeError(f"label_names must be strings, got {name!r}; convert it with str().")
    if len(names) != num_classes:
        raise ValueError(
            f"label_names has {len(names)} names but scores have {num_classes} columns; pass one name a column."
        )
    if len(set(names)) != len(names):
        repeated = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"label_names holds {repeated!r} more than once; give every class a name of its own.")
    return names


def check_choice(name: str, value: str, choices: Sequence[str]) -> str:
    """Return `value` if it is one of `choices`.

    Raises:
        ValueError: It is not; the message lists the choices and suggests the nearest.
    """
    if value in choices:
        return value
    near = difflib.get_close_matches(str(value), choices, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    raise ValueError(f"unknown {name} {value!r}; choose one of {', '.join(map(repr, choices))}.{hint}")


def check_positive_integer(name: str, value: Any) -> int:
    """Return `value` as an int if it is a whole number of at least 1.

    Raises:
        TypeError: It is no whole number.
        ValueError: It is below 1.
    """
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise TypeError(f"{name} must be a whole number, got {value!r}.")
    if value < 1:
        raise ValueError(f"{name} must be at least 1, got {value}.")
    return int(value)


def mean_or_none(values: np.ndarray) -> float | None:
    """Mean of the values that are not NaN as a Python float, or None where there is none."""
    kept = values[~np.isnan(values)]
    return float(kept.mean()) if kept.size else None


def _as_array(values: Any, what: str) -> np.ndarray:
    """An array of a real dtype from an array, a torch tensor or nested lists."""
    if hasattr(values, "detach"):  # a torch tensor, recognised without importing torch
        values = values.detach().cpu()
        # numpy has no bfloat16, and float16 sorts slowly.
        values = (values.float() if values.is_floating_point() and values.element_size() < 4 else values).numpy()
    elif isinstance(values, (list, tuple)) and len(values) > 0 and hasattr(values[0], "detach"):
        values = [_as_array(value, what) for value in values]
    try:
        # asarray would drop the mask of a masked array without a word.
        array = np.ma.filled(values.astype(np.float64), np.nan) if np.ma.isMaskedArray(values) else np.asarray(values)
        if array.dtype == object:  # None among numbers becomes NaN
            array = array.astype(np.float64)
    except (TypeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        kind = TypeError if isinstance(error, TypeError) else ValueError
        raise kind(
            f"{what} cannot be read as a matrix of numbers ({reason}); pass an array, a tensor or rows of equal length."
        ) from error
    if array.dtype.kind not in "biuf":
        raise TypeError(f"{what} must be real numbers, got dtype {array.dtype}; pass an array of floats or integers.")
    return array


def _scan(scores: np.ndarray, references: np.ndarray, names: tuple[str, ...]) -> tuple[float, float, int]:
    """One pass over all cells: smallest and largest score and the number of unknown labels."""
    lowest, highest, num_unknown = np.inf, -np.inf, 0
    for rows in _row_blocks(scores.shape):
        block = scores[rows]
        low, high = float(block.min()), float(block.max())  # both are NaN if one score is
        if not (np.isfinite(low) and np.isfinite(high)):
            image, index = np.argwhere(~np.isfinite(block))[0]
            raise ValueError(
                f"the score of image {rows.start + image} for class {index} ({names[index]}) is "
                f"{block[image, index]}; scores must be finite, so look for the cause in the model or drop the image."
            )
        lowest, highest = min(lowest, low), max(highest, high)
        labels = references[rows]
        unknown = (labels == -1) | (labels != labels)
        invalid = ~(unknown | (labels == 0) | (labels == 1))
        if invalid.any():
            image, index = np.argwhere(invalid)[0]
            raise ValueError(
                f"the label of image {rows.start + image} for class {index} ({names[index]}) is "
                f"{labels[image, index]}; expected 1 or 0, or -1 or NaN for unknown."
            )
        num_unknown += int(unknown.sum())
    return lowest, highest, num_unknown


def _row_blocks(shape: tuple[int, ...]) -> Iterator[slice]:
    step = max(1, _CELLS_AT_A_TIME // shape[1])
    return (slice(start, min(start + step, shape[0])) for start in range(0, shape[0], step))


def _map(
    function: Callable[[Piece], Result], pieces: Iterator[Piece] | Sequence[Piece], num_workers: int | None
) -> Iterator[Result] | list[Result]:
    """`map` over threads: numpy releases the interpreter's lock in sorts, copies and sums."""
    workers = (os.cpu_count() or 1) if num_workers is None else check_positive_integer("num_workers", num_workers)
    if workers == 1:
        return [function(piece) for piece in pieces]
    with ThreadPoolExecutor(workers) as pool:
        return list(pool.map(function, pieces))
