# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""Several runs of the same recipes as a paper prints them: mean and standard deviation over seeds, and what is real.

Runs whose recipes differ in nothing but the seed form one row. The standard deviation is that of a sample (n - 1). A
row's stars say that it differs from the first row by Welch's t-test (Welch, Biometrika 34, 1947), two-sided, over the
seeds: unpaired, because runs of one seed but of two recipes have no randomness in common that would pair them, and
without the assumption of equal variances. With fewer than two seeds on either side there is no star. The test is over
training seeds on one test set; `modeling_cssfe.evaluation.bootstrap` tells how much the choice of test images matters.
"""

import json
import os
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from ..evaluation.figure_tables import DASH, Cell, FigureTable
from ..metrics.long_tail import MAP_FIGURES


# Keys of a recipe that change nothing about what is learnt, or that the seeds of a row differ in.
_IGNORED = (
    "seed",
    "num_workers",
    "checkpoint_every_epochs",
    "checkpoint_every_steps",
    "checkpoints_kept",
    "trackers",
)
# Keys whose value says enough without their name.
_PLAIN_KEYS = ("ablation", "backbone", "loss", "preset", "sampler")
_LEVELS = ((0.001, "***"), (0.01, "**"), (0.05, "*"))


@dataclass(frozen=True)
class Run:
    """One run's recipe and figures.

    Attributes:
        path: Its folder.
        recipe: The resolved recipe, nested keys joined by dots.
        seed: Of the run.
        figures: `map_total`, ...: fractions, None where not defined.
        split: That the figures are of: the recipe's test split, or its validation split if it had no test split.
    """

    path: str
    recipe: dict[str, Any]
    seed: int
    figures: dict[str, float | None]
    split: str


@dataclass(frozen=True)
class SeedStatistics:
    """A figure over the seeds of a row.

    Attributes:
        mean: None where a run lacks the figure.
        std: Of the sample; None for fewer than two runs.
        p_value: Of Welch's test against the first row; None for that row, and where there is no test.
    """

    mean: float | None
    std: float | None
    p_value: float | None


@dataclass(frozen=True)
class RunGroup:
    """Runs of one recipe.

    Attributes:
        name: What tells this recipe from the others.
        runs: In the order of their seeds.
        figures: Figure -> statistics.
    """

    name: str
    runs: tuple[Run, ...]
    figures: dict[str, SeedStatistics]

    def to_dict(self) -> dict[str, Any]:
        """All of it, for JSON."""
        return asdict(self)


def is_run(path: str | os.PathLike) -> bool:
    """Whether the folder holds a `results.json`."""
    return (Path(path) / "results.json").is_file()


def read_run(path: str | os.PathLike) -> Run:
    """Read the figures of a run that `cssfe train` wrote.

    Raises:
        ValueError: The folder holds no results.json, or one of another kind.
    """
    from ..recipes import Recipe

    file = Path(path) / "results.json"
    if not file.is_file():
        raise ValueError(
            f"{os.fspath(path)!r} holds no results.json; give folders that `cssfe train` wrote, or --data."
        )
    try:
        results = json.loads(file.read_text(encoding="utf-8"))
        # Keys that came later had their defaults' meaning; `published` says what others reached, nothing of this run.
        recipe = asdict(Recipe()) | results["recipe"]
        recipe = _flatten({key: value for key, value in recipe.items() if key != "published"})
        kind = "test" if results.get("test") is not None else "validation"
        figures = {name: results[kind][name] for name in MAP_FIGURES}
        split = recipe[f"{kind}_split"]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        reason = f"it lacks {error}" if isinstance(error, KeyError) else " ".join(str(error).split())
        raise ValueError(f"{os.fspath(file)!r} is not what `cssfe train` writes ({reason}); train again.") from error
    return Run(os.fspath(path), recipe, int(results.get("seed", recipe["seed"])), figures, split)


def group_runs(runs: Sequence[Run]) -> list[RunGroup]:
    """Group runs by recipe, rows in the order in which they are first named.

    Raises:
        ValueError: There are no runs, two have the same recipe and seed, or they were judged on different splits.
    """
    if not runs:
        raise ValueError("there are no runs; give at least one folder.")
    splits = sorted({run.split for run in runs})
    if len(splits) > 1:
        raise ValueError(f"the runs were judged on different splits ({', '.join(splits)}); judge them with --data.")
    grouped: dict[str, list[Run]] = {}
    for run in runs:
        key = json.dumps({k: v for k, v in run.recipe.items() if not _is_ignored(k)}, sort_keys=True, default=str)
        members = grouped.setdefault(key, [])
        same = next((other for other in members if other.seed == run.seed), None)
        if same is not None:
            raise ValueError(
                f"{same.path!r} and {run.path!r} are the same recipe with the same seed {run.seed}: leave one out, or "
                "their spread would look too small."
            )
        members.append(run)
    names = _names([members[0].recipe for members in grouped.values()])
    first = next(iter(grouped.values()))
    return [
        RunGroup(
            name=name,
            runs=tuple(sorted(members, key=lambda run: run.seed)),
            figures={
                figure: _statistics(figure, members, None if members is first else first) for figure in MAP_FIGURES
            },
        )
        for name, members in zip(names, grouped.values(), strict=True)
    ]


def regroup(results: Mapping[str, Mapping[str, Any]]) -> list[RunGroup]:
    """Group runs that were judged again, by their recipes.

    Args:
        results: Run folder -> result of `long_tail_map`.

    Returns:
        The groups; none if not all are folders of runs, or if no recipe has several seeds.

    Raises:
        ValueError: As for `read_run` and `group_runs`.
    """
    if len(results) < 2 or not all(is_run(path) for path in results):
        return []
    runs = []
    for path, result in results.items():
        figures = {name: result[name] for name in MAP_FIGURES}
        runs.append(replace(read_run(path), figures=figures, split="judged now"))
    groups = group_runs(runs)
    return groups if any(len(group.runs) > 1 for group in groups) else []


def seeds_table(groups: Sequence[RunGroup], title: str) -> FigureTable:
    """Mean +- standard deviation over seeds, with stars against the first row.

    Args:
        groups: Of `group_runs`.
        title: What was judged.
    """
    rows = []
    for group in groups:
        cells = [Cell(entry.mean, entry.std, mark=significance_mark(entry.p_value)) for entry in group.figures.values()]
        rows.append((f"{group.name} ({len(group.runs)} seed{'s' * (len(group.runs) > 1)})", tuple(cells)))
    notes = ["Mean ± standard deviation (of a sample) over seeds; without ± there is one seed."]
    if len(groups) > 1:
        stars = ", ".join(f"{mark} p < {level:g}" for level, mark in reversed(_LEVELS))
        notes.append(
            f"{stars}: differs from {groups[0].name} by Welch's t-test over seeds, two-sided, not corrected for the "
            "number of comparisons; no test with fewer than two seeds."
        )
    if any(entry.mean is None for group in groups for entry in group.figures.values()):
        notes.append(DASH)
    return FigureTable(title, MAP_FIGURES, tuple(rows), tuple(notes), digits=2)


def welch_p_value(first: Sequence[float], second: Sequence[float]) -> float | None:
    """Two-sided p-value of Welch's t-test; None with fewer than two values on a side, or without any spread."""
    if min(len(first), len(second)) < 2 or statistics.pvariance(first) + statistics.pvariance(second) == 0:
        return None
    from scipy.stats import ttest_ind

    return float(ttest_ind(first, second, equal_var=False).pvalue)


def significance_mark(p_value: float | None) -> str:
    """Stars: * below .05, ** below .01, *** below .001."""
    return "" if p_value is None else next((mark for level, mark in _LEVELS if p_value < level), "")


def _statistics(figure: str, runs: Sequence[Run], baseline: Sequence[Run] | None) -> SeedStatistics:
    values = _values(figure, runs)
    if values is None:
        return SeedStatistics(None, None, None)
    others = None if baseline is None else _values(figure, baseline)
    return SeedStatistics(
        mean=statistics.fmean(values),
        std=statistics.stdev(values) if len(values) > 1 else None,
        p_value=None if others is None else welch_p_value(values, others),
    )


def _values(figure: str, runs: Sequence[Run]) -> list[float] | None:
    values = [run.figures[figure] for run in runs]
    return None if None in values else [value for value in values if value is not None]


def _flatten(recipe: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in recipe.items():
        if isinstance(value, Mapping) and value:
            flat.update(_flatten(value, f"{prefix}{key}."))
        else:
            flat[prefix + key] = value
    return flat


def _is_ignored(key: str) -> bool:
    return key.removeprefix("first_phase.") in _IGNORED


def _names(recipes: Sequence[Mapping[str, Any]]) -> list[str]:
    """What tells the recipes apart: the values of the keys in which they differ."""
    keys = list(dict.fromkeys(key for recipe in recipes for key in recipe if not _is_ignored(key)))
    missing = object()
    differing = [
        key for key in keys if any(recipe.get(key, missing) != recipes[0].get(key, missing) for recipe in recipes)
    ]
    if not differing:
        differing = [key for key in ("ablation", "backbone", "loss") if key in recipes[0]]
    # The paper's order: what the model is comes first.
    differing.sort(key=lambda key: _PLAIN_KEYS.index(key) if key in _PLAIN_KEYS else len(_PLAIN_KEYS))
    names = []
    for recipe in recipes:
        parts = [
            str(recipe[key]) if key in _PLAIN_KEYS else f"{key}={recipe[key]}" for key in differing if key in recipe
        ]
        names.append(", ".join(parts) or "the same without these keys")
    return names


__all__ = [
    "Run",
    "RunGroup",
    "SeedStatistics",
    "group_runs",
    "is_run",
    "read_run",
    "regroup",
    "seeds_table",
    "significance_mark",
    "welch_p_value",
]
