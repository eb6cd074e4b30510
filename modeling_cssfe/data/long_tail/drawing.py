# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""Which images to draw so that each class occurs a wanted number of times, as closely as co-occurrence allows.

An image brings all of its labels along, so that wanted counts can rarely be met class by class. What is minimised is
the sum over classes of `|reached - target| / target`: one image too many or too few costs a tail class with 5 images
as much as 100 images cost a head class with 500. So that equal is equal on every machine, the weights are the whole
numbers `round(100 max(target) / target)`; a class with target 0 weighs as one with target 1.

**Exact.** Images with the same labels are pooled, and a mixed-integer program (HiGHS, in scipy) finds how many of each
pool to take. A second program picks one among the best solutions: that whose images have about as many labels as those
of the data, and, by seeded random costs, one of these. When both are solved to the end, the drawn images follow from
labels, targets and seed, whatever the solver's version (but for the small chance that two sums of random costs are
equal).

**Greedy.** Classes are served from the smallest target up; each takes the images that do least harm (that have the
least weight in classes which have enough), at random among equals, as long as an image does more good than harm. Then,
until nothing improves: images are removed or added where that helps, and exchanged for others that differ in one class
or, as far as a fixed amount of work allows, for any others. All in whole numbers, so the drawn images are the same on
every machine.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import sparse

from ..stratification import class_totals, present_labels, random_order


METHODS = ("auto", "exact", "greedy")
# Beyond, `auto` takes the greedy method. A program of this size takes some seconds.
EXACT_PATTERNS, EXACT_CLASSES = 5000, 200
# Of the greedy method: rounds of improvement, images tried of each class that is off, and labels looked at in all.
_ROUNDS, _SWAPS_PER_CLASS, _SWAP_WORK = 30, 50, 100_000_000
_FORBIDDEN = 1 << 50  # more than any images can cost together, and far from overflow


@dataclass(frozen=True)
class DrawnRows:
    """Images drawn for wanted counts.

    Attributes:
        rows: Row numbers, int64, ascending.
        targets: Wanted images of each class.
        reached: Images of each class among the rows.
        deviation: Sum over classes of `|reached - target| / max(target, 1)`.
        method: `"exact"` or `"greedy"`.
        status: `"optimal"`: proven that no other draw deviates less. `"feasible"`: the solver met its time limit, and
            better ones may exist. `"heuristic"`: greedy, nothing is proven. `"heuristic (...)"`: greedy, because the
            solver met its time limit.
        gap: How far below the found deviation the best possible one may lie, as a fraction of the found one: 0 where
            it is optimal, None where nothing is known.
        reproducible: Whether labels, targets, method and seed alone decide on the rows, on any machine that is fast
            enough not to meet the time limit.
    """

    rows: np.ndarray
    targets: tuple[int, ...]
    reached: tuple[int, ...]
    deviation: float
    method: str
    status: str
    gap: float | None
    reproducible: bool


def draw_long_tail(
    labels: Any, target_counts: Any, seed: int = 0, method: str = "auto", time_limit: float = 60.0
) -> DrawnRows:
    """Draw images whose counts per class come as close to the targets as co-occurrence allows.

    Each class with a target of 1 or more gets at least one image, if there is one. Images without labels are not drawn.

    Args:
        labels: `(N, C)` array or scipy.sparse matrix: 1 present, 0 absent, -1 or NaN unknown, which counts as absent.
        target_counts: `(C,)` whole numbers >= 0. Targets above the number of images of a class are allowed; all that
            exist may then be drawn.
        seed: Of every random choice, >= 0.
        method: `"exact"`, `"greedy"`, or `"auto"`: exact up to 5,000 different label combinations and 200 classes if
            it is proven optimal within the time limit, greedy otherwise. See the module's text.
        time_limit: Seconds for each of the exact method's two programs, > 0.

    Returns:
        The rows, and how good they are.

    Raises:
        ValueError: An argument is out of range, or the labels are not a matrix of 1, 0 and -1.
        RuntimeError: The exact method found no solution within the time limit.
    """
    if method not in METHODS:
        raise ValueError(f"unknown method {method!r}; choose one of {', '.join(METHODS)}.")
    if not time_limit > 0:
        raise ValueError(f"time_limit must be > 0 seconds, got {time_limit}.")
    present = present_labels(labels)
    targets = _check_targets(target_counts, present.shape[1])
    order = random_order(present.shape[0], seed)
    problem = _Problem(present[order], targets)
    status, gap, reproducible, found = "heuristic", None, True, None
    if method != "greedy":
        pools = _pool(problem.present)
        small = len(pools) <= EXACT_PATTERNS and len(targets) <= EXACT_CLASSES
        if method == "exact" or small:
            found, status, gap, reproducible = _exact(problem, pools, seed, time_limit)
            if method == "exact" and found is None:
                raise RuntimeError(
                    f"the solver found nothing within {time_limit:g} s; raise time_limit or use method='greedy'."
                )
            if method == "auto" and status != "optimal":
                found, status, gap = None, f"heuristic (nothing was proven within {time_limit:g} s)", None
        del pools
    used = "greedy" if found is None else "exact"
    if found is None:
        # A faster machine could have taken the exact method's rows after all.
        found, reproducible = _greedy(problem), status == "heuristic"
    reached = class_totals(problem.present, found)
    off = np.abs(reached - targets) / np.maximum(targets, 1)
    return DrawnRows(
        rows=np.sort(order[found]),
        targets=tuple(targets.tolist()),
        reached=tuple(reached.tolist()),
        deviation=float(off.sum()),
        method=used,
        status=status,
        gap=gap,
        reproducible=reproducible,
    )


class _Problem:
    """Labels in the order of the seed, targets, and what a deviation costs."""

    def __init__(self, present: sparse.csr_matrix, targets: np.ndarray):
        self.present = present
        self.targets = targets
        self.available = np.bincount(present.indices, minlength=len(targets)).astype(np.int64)
        # To the nearest whole number, half up.
        scale, divisors = 200 * max(1, int(targets.max(initial=1))), np.maximum(targets, 1)
        self.weights = (scale + divisors) // (2 * divisors)
        self.floor = np.minimum(np.minimum(targets, self.available), 1)

    def cost(self, reached: np.ndarray) -> int:
        return int(self.weights @ np.abs(reached - self.targets))


def _check_targets(target_counts: Any, num_classes: int) -> np.ndarray:
    targets = np.asarray(target_counts)
    if targets.shape != (num_classes,):
        raise ValueError(f"target_counts must be {num_classes} numbers, one a class, got the shape {targets.shape}.")
    wrong = [value for value in targets.tolist() if value != value or value < 0 or value != int(value)]
    if wrong:
        raise ValueError(f"target_counts must be whole numbers >= 0, got {wrong[0]!r}.")
    return targets.astype(np.int64)


def _pool(present: sparse.csr_matrix) -> list[list[int]]:
    """Rows with the same labels; rows without labels are left out."""
    pools: dict[bytes, list[int]] = {}
    ends, indices = present.indptr.tolist(), present.indices
    for row in range(present.shape[0]):
        if ends[row] < ends[row + 1]:
            pools.setdefault(indices[ends[row] : ends[row + 1]].tobytes(), []).append(row)
    return list(pools.values())


def _exact(
    problem: _Problem, pools: list[list[int]], seed: int, time_limit: float
) -> tuple[np.ndarray | None, str, float | None, bool]:
    """Return the rows (None if there are none yet), status, gap, and whether ties between the best were decided."""
    from scipy.optimize import Bounds, LinearConstraint, milp

    if not pools:
        return np.empty(0, dtype=np.int64), "optimal", 0.0, True
    patterns = problem.present[[pool[0] for pool in pools]].astype(np.float64)
    sizes = np.array([len(pool) for pool in pools])
    targets, num_classes = problem.targets, len(problem.targets)
    # Variables: images of each pool, then by how much each class exceeds its target, then by how much it falls short.
    ones = sparse.identity(num_classes, format="csr")
    balance = LinearConstraint(sparse.hstack([patterns.T, -ones, ones], format="csr"), targets, targets)
    bounds = Bounds(0, np.concatenate([sizes, np.full(num_classes, np.inf), targets - problem.floor]))
    integrality = np.repeat([1, 0], [len(pools), 2 * num_classes])
    options = {"mip_rel_gap": 0.0, "time_limit": time_limit}
    cost = np.concatenate([np.zeros(len(pools)), problem.weights, problem.weights]).astype(np.float64)
    first = milp(cost, constraints=balance, bounds=bounds, integrality=integrality, options=options)
    if first.x is None:
        return None, "feasible", None, False
    rows = _take(pools, first.x)
    best = problem.cost(class_totals(problem.present, rows))
    # The cost is a whole number, so a bound less than 1 below it is proof; 0.5 leaves room for rounding.
    if first.status != 0 or abs(first.fun - best) > 0.5:
        bound = first.mip_dual_bound
        gap = None if bound is None or not np.isfinite(bound) else float(max(0.0, best - bound) / max(best, 1))
        return rows, "feasible", gap, False
    ceiling = LinearConstraint(sparse.csr_matrix(cost), -np.inf, best + 0.5)
    second = milp(
        np.concatenate([_preference(problem.present, pools, seed), np.zeros(2 * num_classes)]),
        constraints=[balance, ceiling],
        bounds=bounds,
        integrality=integrality,
        options=options,
    )
    if second.x is None:
        return rows, "optimal", 0.0, False
    chosen = _take(pools, second.x)
    if problem.cost(class_totals(problem.present, chosen)) != best:
        return rows, "optimal", 0.0, False
    return chosen, "optimal", 0.0, second.status == 0


def _take(pools: list[list[int]], amounts: np.ndarray) -> np.ndarray:
    """The first rows of each pool, as many as its amount; rows are in random order already."""
    counts = np.rint(amounts[: len(pools)]).astype(np.int64).tolist()
    return np.array([row for pool, count in zip(pools, counts, strict=True) for row in pool[:count]], dtype=np.int64)


def _preference(present: sparse.csr_matrix, pools: list[list[int]], seed: int) -> np.ndarray:
    """Cost of an image of each pool: squared distance from the mean number of labels, and as much again at random."""
    per_image = np.diff(present.indptr).astype(np.int64)
    labeled = int((per_image > 0).sum())
    distance = per_image[[pool[0] for pool in pools]] * labeled - int(per_image.sum())
    squared = [min(16 << 16, (int(value) ** 2 << 16) // labeled**2) for value in distance]
    # The 16 low bits keep sums exact to the solver; a stream of its own, as the order took that of the seed itself.
    random = np.random.PCG64(np.random.SeedSequence([seed, 1])).random_raw(len(pools)) >> np.uint64(48)
    return np.array(squared, dtype=np.float64) + random


def _greedy(problem: _Problem) -> np.ndarray:
    present, targets, weights = problem.present, problem.targets, problem.weights
    columns = present.tocsc()
    taken = np.zeros(present.shape[0], dtype=bool)
    reached = np.zeros_like(targets)
    total = present @ weights
    full = targets == 0
    harm = present @ np.where(full, weights, 0)  # weight of an image's labels that have enough
    for label in np.argsort(targets, kind="stable"):
        column = columns.indices[columns.indptr[label] : columns.indptr[label + 1]]
        while reached[label] < targets[label]:
            rows = np.sort(column[~taken[column]])
            useful = 2 * harm[rows] < total[rows]
            if not useful.any():
                if reached[label] or not rows.size:
                    break
                useful[np.argmin(2 * harm[rows] - total[rows])] = True  # a class must have one image, whatever it costs
            rows = rows[useful]
            rows = rows[np.argsort(harm[rows], kind="stable")][: targets[label] - reached[label]]
            rows = rows[: _until_full(present[rows], targets - reached)]
            taken[rows] = True
            reached += class_totals(present, rows)
            for other in np.flatnonzero(~full & (reached >= targets)):
                full[other] = True
                harm[columns.indices[columns.indptr[other] : columns.indptr[other + 1]]] += weights[other]
    patterns = _Patterns(present)
    attempts = _SWAP_WORK // max(1, present.nnz)
    for _ in range(_ROUNDS):
        before = problem.cost(reached)
        reached = _add_or_remove(problem, taken, reached)
        reached = _exchange(problem, columns, patterns, taken, reached)
        if problem.cost(reached) == before:
            reached, attempts = _swap(problem, columns, taken, reached, attempts)
        if problem.cost(reached) == before:
            break
    return np.flatnonzero(taken)


def _until_full(present: sparse.csr_matrix, missing: np.ndarray) -> int:
    """How many rows can be added in turn up to and with the first that gives some class all it misses."""
    flat = present.indices
    grouped = np.argsort(flat, kind="stable")
    classes = flat[grouped]
    starts = np.searchsorted(classes, np.arange(len(missing)))
    occurrence = np.arange(len(flat)) - starts[classes] + 1
    filling = grouped[occurrence == missing[classes]]
    if not filling.size:
        return present.shape[0]
    return int(np.searchsorted(present.indptr, filling.min(), side="right"))


def _prices(problem: _Problem, reached: np.ndarray, change: int, classes: Any = slice(None)) -> np.ndarray:
    """What one more (`change` 1) or one less (-1) image of each class costs; giving up the only one is forbidden."""
    weights, floor, now = problem.weights[classes], problem.floor[classes], reached[classes]
    price = np.where((problem.targets[classes] - now) * change > 0, -weights, weights)
    return np.where((now <= floor) & (floor > 0), _FORBIDDEN, price) if change < 0 else price


def _add_or_remove(problem: _Problem, taken: np.ndarray, reached: np.ndarray) -> np.ndarray:
    """Take away and add single images, those that help most first, each only if it still helps when its turn comes."""
    present, reached = problem.present, reached.copy()
    for change in (-1, 1):
        costs = present @ _prices(problem, reached, change)
        rows = np.flatnonzero((costs < 0) & (taken == (change < 0)))
        for row in rows[np.argsort(costs[rows], kind="stable")].tolist():
            classes = present.indices[present.indptr[row] : present.indptr[row + 1]]
            if _prices(problem, reached, change, classes).sum() < 0:
                taken[row] = change > 0
                reached[classes] += change
    return reached


def _swap(
    problem: _Problem, columns: sparse.csc_matrix, taken: np.ndarray, reached: np.ndarray, attempts: int
) -> tuple[np.ndarray, int]:
    """Take away an image of a class that exceeds its target (or add one where it lacks) and make up for it by another.

    Each attempt looks at all images, so that the number of attempts falls with the size of the data. Returns what is
    reached then, and how many attempts are left.
    """
    present, reached = problem.present, reached.copy()
    unlabeled = np.diff(present.indptr) == 0
    for label in np.argsort(-problem.weights, kind="stable"):
        if reached[label] == problem.targets[label] or not attempts:
            continue
        change = -1 if reached[label] > problem.targets[label] else 1
        column = columns.indices[columns.indptr[label] : columns.indptr[label + 1]]
        rows = np.sort(column[taken[column] == (change < 0)])
        rows = rows[np.argsort(present[rows] @ _prices(problem, reached, change), kind="stable")]
        for row in rows[:_SWAPS_PER_CLASS].tolist():
            if reached[label] == problem.targets[label] or not attempts:
                break
            attempts -= 1
            classes = present.indices[present.indptr[row] : present.indptr[row + 1]]
            cost = _prices(problem, reached, change, classes).sum()
            changed = reached.copy()
            changed[classes] += change
            costs = present @ _prices(problem, changed, -change)
            costs[(taken == (change < 0)) | unlabeled] = _FORBIDDEN
            other = int(np.argmin(costs))
            if cost + costs[other] < 0:
                taken[row], taken[other] = change > 0, change < 0
                changed[present.indices[present.indptr[other] : present.indptr[other + 1]]] -= change
                reached = changed
    return reached, attempts


class _Patterns:
    """Images grouped by their labels. The key of a group is the sum of its labels' codes, modulo 2^64."""

    def __init__(self, present: sparse.csr_matrix):
        self.codes = np.random.PCG64(0).random_raw(present.shape[1])
        sums = np.concatenate([np.zeros(1, dtype=np.uint64), np.cumsum(self.codes[present.indices])])
        keys = sums[present.indptr[1:]] - sums[present.indptr[:-1]]
        self.keys, self.group_of = np.unique(keys, return_inverse=True)
        self.rows = np.argsort(self.group_of, kind="stable")
        self.starts = np.concatenate([[0], np.cumsum(np.bincount(self.group_of, minlength=len(self.keys)))])

    def without(self, rows: np.ndarray, label: int) -> tuple[np.ndarray, np.ndarray]:
        """Those of some rows with a label for which there are images that lack just this label, and their groups."""
        wanted = self.keys[self.group_of[rows]] - self.codes[label]
        groups = np.minimum(np.searchsorted(self.keys, wanted), len(self.keys) - 1)
        exist = (self.keys[groups] == wanted) & (wanted != 0)  # 0: no label is left, and such images are not drawn
        return rows[exist], groups[exist]

    def count(self, chosen: np.ndarray) -> np.ndarray:
        return np.bincount(self.group_of[chosen], minlength=len(self.keys))


def _exchange(
    problem: _Problem, columns: sparse.csc_matrix, patterns: _Patterns, taken: np.ndarray, reached: np.ndarray
) -> np.ndarray:
    """Exchange drawn images for others that differ in one class that exceeds its target, or lacks."""
    reached = reached.copy()
    members = {True: patterns.count(taken), False: patterns.count(~taken)}
    for label in np.argsort(-problem.weights, kind="stable"):
        surplus = int(reached[label] - problem.targets[label])
        exceeds = surplus > 0
        if not surplus:
            continue
        column = columns.indices[columns.indptr[label] : columns.indptr[label + 1]]
        rows, groups = patterns.without(np.sort(column[taken[column] == exceeds]), label)
        # Each group serves as many rows as it has images on the other side, the first ones in order.
        order = np.argsort(groups, kind="stable")
        turn = np.arange(len(order)) - np.searchsorted(groups[order], groups[order])
        served = np.sort(order[turn < members[not exceeds][groups[order]]])[: abs(surplus)]
        for group, wanted in zip(*np.unique(groups[served], return_counts=True), strict=True):
            others = patterns.rows[patterns.starts[group] : patterns.starts[group + 1]]
            taken[others[taken[others] != exceeds][:wanted]] = exceeds
            members[exceeds][group] += wanted
            members[not exceeds][group] -= wanted
        taken[rows[served]] = not exceeds
        np.subtract.at(members[exceeds], patterns.group_of[rows[served]], 1)
        np.add.at(members[not exceeds], patterns.group_of[rows[served]], 1)
        reached[label] -= len(served) if exceeds else -len(served)
    return reached


__all__ = ["EXACT_CLASSES", "EXACT_PATTERNS", "METHODS", "DrawnRows", "draw_long_tail"]
