# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""Splits of a multi-label set in which every class keeps its share, and small subsets that cover every class.

Labels are `(images, classes)`: 1 present, 0 absent, -1 or NaN unknown, as an array or as a scipy.sparse matrix. Unknown
labels count as absent here. A million images with a thousand classes are no problem as a sparse matrix: work and memory
grow with the number of present labels, not with images times classes.

The same labels and seed give the same rows on every machine: the only random numbers are the raw 64-bit integers of a
PCG64 generator, whose stream numpy keeps fixed, and all sums and comparisons are of whole numbers.
"""

import itertools
import math
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import numpy as np
from scipy import sparse


# Dense labels are turned into sparse ones in blocks of about this many cells, so that nothing of their size is copied.
_BLOCK_CELLS = 1 << 24


def stratified_split(labels: Any, sizes: Sequence[float], seed: int = 0) -> list[np.ndarray]:
    """Split images so that each class is shared out in proportion to the subsets' sizes.

    Iterative stratification: the class with the fewest images left is dealt out first, image by image, each to the
    subset that still wants most of the class, among equals to the one that wants most images. Images without labels
    fill what is left.

    Source: K. Sechidis, G. Tsoumakas, I. Vlahavas, "On the Stratification of Multi-label Data", ECML PKDD 2011,
    algorithm 1. Two things differ: subsets have exactly the size asked for (one that is full takes no more, where the
    paper lets sizes drift), and images not asked for are one more subset, which is not returned.

    Args:
        labels: `(N, C)` array or sparse matrix of 1, 0 and -1.
        sizes: Images of each subset: whole numbers whose sum is at most N, or fractions (floats) whose sum is at most
            1. Fractions become whole numbers by rounding where each subset ends, so fractions that sum to 1 use all.
        seed: Of the order in which images of a class are dealt, >= 0.

    Returns:
        Row numbers of each subset, int64, ascending; the subsets are disjoint.

    Raises:
        ValueError: The labels are not a matrix of 1, 0 and -1, the sizes do not fit, or the seed is negative.
        TypeError: Whole numbers and fractions are mixed.
    """
    present = present_labels(labels)
    num_images, num_classes = present.shape
    wanted = _whole_sizes(sizes, num_images)
    wanted.append(num_images - sum(wanted))
    order = random_order(num_images, seed)
    present = present[order]
    columns = present.tocsc()
    subset_of = np.full(num_images, -1, dtype=np.int16 if len(wanted) < 1 << 15 else np.int64)
    room = list(wanted)
    left = np.diff(columns.indptr).astype(np.int64)
    # How many more images of a class a subset wants, times the number of images, so that all of it is whole numbers.
    desire = np.array(wanted, dtype=np.int64)[:, None] * left
    for _ in range(num_classes):
        open_classes = np.flatnonzero(left)
        if not open_classes.size:
            break
        label = open_classes[np.argmin(left[open_classes])]
        rows = columns.indices[columns.indptr[label] : columns.indptr[label + 1]]
        rows = np.sort(rows[subset_of[rows] < 0])
        chosen = _deal(len(rows), desire[:, label].tolist(), room, num_images)
        subset_of[rows] = chosen
        for subset in range(len(wanted)):
            dealt = class_totals(present, rows[chosen == subset])
            desire[subset] -= num_images * dealt
            left -= dealt
    unlabeled = np.flatnonzero(subset_of < 0)
    subset_of[unlabeled] = np.repeat(np.arange(len(wanted)), room)
    return [np.sort(order[subset_of == subset]) for subset in range(len(wanted) - 1)]


def sample_covering(labels: Any, min_positives: int, seed: int = 0) -> np.ndarray:
    """Pick few images such that each class has a number of positives, or all that it has.

    Classes are served in iterative stratification's order, the rarest first; see `stratified_split`. Each takes the
    images that carry most of the labels still wanted, at random among equals; at last, images that turned out not to
    be needed are taken away. That is the greedy method for set multi-cover: no image of the result can be left out,
    but a smaller set may exist. The classes are nearly balanced in it, whatever their shares in the data, and images
    with several labels are more frequent than in the data; `stratified_split` keeps the shares instead.

    Args:
        labels: `(N, C)` array or sparse matrix of 1, 0 and -1.
        min_positives: Positives that each class must have, >= 1.
        seed: Of the choice among equals, >= 0.

    Returns:
        Row numbers, int64, ascending.

    Raises:
        ValueError: The labels are not a matrix of 1, 0 and -1, `min_positives` is below 1, or the seed is negative.
    """
    if min_positives < 1:
        raise ValueError(f"min_positives must be >= 1, got {min_positives}.")
    present = present_labels(labels)
    order = random_order(present.shape[0], seed)
    present = present[order]
    columns = present.tocsc()
    available = np.diff(columns.indptr).astype(np.int64)
    wanted = np.minimum(available, min_positives)
    reached = np.zeros_like(wanted)
    taken = np.zeros(present.shape[0], dtype=bool)
    picked: list[int] = []
    for label in np.argsort(available, kind="stable"):
        if reached[label] >= wanted[label]:
            continue
        rows = columns.indices[columns.indptr[label] : columns.indptr[label + 1]]
        rows = np.sort(rows[~taken[rows]])
        candidates = present[rows]
        stale = True
        while reached[label] < wanted[label]:
            if stale:
                lacking = reached < wanted
                gains = candidates @ lacking.astype(np.int64)
                gains[taken[rows]] = -1
            best = int(np.argmax(gains))
            gains[best] = -1
            taken[rows[best]] = True
            picked.append(int(rows[best]))
            classes = candidates.indices[candidates.indptr[best] : candidates.indptr[best + 1]]
            reached[classes] += 1
            stale = bool((lacking[classes] & (reached[classes] >= wanted[classes])).any())
    for row in picked:
        classes = present.indices[present.indptr[row] : present.indptr[row + 1]]
        if (reached[classes] > wanted[classes]).all():
            taken[row] = False
            reached[classes] -= 1
    return np.sort(order[taken])


def present_labels(labels: Any) -> sparse.csr_matrix:
    """Return which labels are present as a sparse matrix of ones.

    Args:
        labels: `(N, C)` array or sparse matrix of 1, 0 and -1 or NaN.

    Returns:
        `(N, C)` int64 in CSR form with sorted indices and without stored zeros.

    Raises:
        ValueError: The labels are not two-dimensional, or hold another value.
    """
    if sparse.issparse(labels) and labels.ndim == 2:
        matrix = labels.tocsr(copy=True)
        matrix.sum_duplicates()
        _check_values(matrix.data)
        matrix.data = (matrix.data == 1).astype(np.int64)
        matrix.eliminate_zeros()
        return sparse.csr_matrix(matrix)
    labels = np.asarray(labels)
    if labels.ndim != 2:
        raise ValueError(f"labels must be (images, classes), got the shape {labels.shape}; pass a multi-hot matrix.")
    step = max(1, _BLOCK_CELLS // max(1, labels.shape[1]))
    blocks = []
    for start in range(0, len(labels), step):
        block = labels[start : start + step]
        _check_values(block)
        blocks.append(sparse.csr_matrix((block == 1).astype(np.int8)))
    if not blocks:
        return sparse.csr_matrix(labels.shape, dtype=np.int64)
    return sparse.csr_matrix(sparse.vstack(blocks, format="csr"), dtype=np.int64)


def random_order(length: int, seed: int) -> np.ndarray:
    """Return the numbers below `length` in an order that is the same for a seed on every machine.

    Raises:
        ValueError: The seed is negative.
    """
    if seed < 0:
        raise ValueError(f"seed must be >= 0, got {seed}.")
    return np.argsort(np.random.PCG64(seed).random_raw(length), kind="stable").astype(np.int64)


def class_totals(present: sparse.csr_matrix, rows: np.ndarray) -> np.ndarray:
    """Count the labels of some rows: `(C,)` int64."""
    return np.bincount(present[rows].indices, minlength=present.shape[1]).astype(np.int64)


def _deal(count: int, desire: list[int], room: list[int], step: int) -> np.ndarray:
    """Deal images of one class: each goes to the subset with most desire, then most room, then the first."""
    chosen = np.empty(count, dtype=np.int64)
    for position in range(count):
        best = -1
        for subset, space in enumerate(room):
            if space and (
                best < 0 or desire[subset] > desire[best] or (desire[subset] == desire[best] and space > room[best])
            ):
                best = subset
        chosen[position] = best
        desire[best] -= step
        room[best] -= 1
    return chosen


def _whole_sizes(sizes: Sequence[float], num_images: int) -> list[int]:
    if not len(sizes):
        raise ValueError("sizes is empty; name the size of at least one subset.")
    if any(not 0 <= size < math.inf for size in sizes):
        raise ValueError(f"sizes must be finite and >= 0, got {list(sizes)}.")
    whole = [isinstance(size, int | np.integer) for size in sizes]
    if all(whole):
        counts = [int(size) for size in sizes]
        if sum(counts) > num_images:
            raise ValueError(f"sizes {counts} sum to {sum(counts)}, but there are {num_images} images; ask for fewer.")
        return counts
    if any(whole):
        raise TypeError(f"sizes mixes whole numbers and fractions: {list(sizes)}; give one kind.")
    # Decimal fractions as they are printed: .1 + .2 + .7 is 1, where floats would leave it to the order of the sum.
    shares = [Fraction(str(float(size))) for size in sizes]
    if sum(shares) > 1 + Fraction(1, 10**9):
        raise ValueError(f"fractions {list(sizes)} sum to more than 1; lower one.")
    ends = [0]
    for position in range(len(shares)):
        ends.append(min(num_images, int(sum(shares[: position + 1]) * num_images + Fraction(1, 2))))
    return [end - start for start, end in itertools.pairwise(ends)]


def _check_values(values: np.ndarray) -> None:
    fine = (values == 0) | (values == 1) | (values == -1)
    if values.dtype.kind == "f":
        fine |= np.isnan(values)
    if not fine.all():
        raise ValueError(
            f"labels hold {values[~fine].flat[0]!r}; they must be 1 (present), 0 (absent) or -1 (unknown)."
        )


__all__ = ["class_totals", "present_labels", "random_order", "sample_covering", "stratified_split"]
