# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""Folds of validation images, and what thresholds are worth on images that they were not chosen on."""

from typing import Any

import numpy as np

from ..data.stratification import stratified_split
from .score_table import ScoreTable
from .thresholds import choose_thresholds


def deal_into_folds(table: ScoreTable, num_folds: int, seed: int) -> list[np.ndarray]:
    """Row numbers of folds in which every class keeps its share.

    Raises:
        ValueError: `num_folds` is below 2 or above the number of images.
    """
    num_images = len(table.image_ids)
    if not 2 <= num_folds <= num_images:
        raise ValueError(f"num_folds is {num_folds} for {num_images} image(s); give 2 up to the number of images.")
    sizes = [len(part) for part in np.array_split(np.arange(num_images), num_folds)]
    return stratified_split(table.labels, sizes, seed)


def held_out_f1(
    table: ScoreTable, *, num_folds: int = 5, seed: int = 0, **options: Any
) -> tuple[list[float | None], list[float | None]]:
    """F1 of each class at .5, and at thresholds that were chosen without the images they are judged on.

    The images are dealt into folds in which every class keeps its share; the thresholds for one fold are chosen on the
    others, and the decisions of all folds are counted together.

    Args:
        table: As in `choose_thresholds`.
        num_folds: Number of folds, at least 2 and at most the number of images.
        seed: Of the folds.
        **options: Of `choose_thresholds`.

    Returns:
        Two lists of C fractions, None for a class without positives.

    Raises:
        ValueError: As `choose_thresholds`, or `num_folds` is out of range.
    """
    thresholds = np.full(table.scores.shape, 0.5)
    for fold in deal_into_folds(table, num_folds, seed):
        rest = table.select(np.setdiff1d(np.arange(len(table.image_ids)), fold))
        if (rest.labels == 1).any():  # where all positives lie in one fold, nothing can be chosen for it
            thresholds[fold] = choose_thresholds(rest, **options, num_resamples=0).thresholds
    positive, known = table.labels == 1, table.labels >= 0

    def f1_of(decided: np.ndarray) -> list[float | None]:
        positives = positive.sum(axis=0)
        f1 = 2 * (decided & positive).sum(axis=0) / np.maximum((decided & known).sum(axis=0) + positives, 1)
        return [float(value) if count else None for value, count in zip(f1, positives, strict=True)]

    return f1_of(table.scores >= 0.5), f1_of(table.scores >= thresholds)


__all__ = ["deal_into_folds", "held_out_f1"]
