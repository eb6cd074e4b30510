# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""What each part is worth: the paper's Figure 4 (Net-0 to Net-3 by group) and the supplement's Figure 1 (embeddings).

Points with intervals instead of bars: the axis does not begin at 0, and the length of a bar that is cut off says
nothing. Each seed is a faint mark, so that a mean over few of them is seen to be that.
"""

import csv
import math
import os
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..common.figures import SERIES_COLORS, SERIES_MARKS, check_figure_path, figure_style, new_figure, save_figure
from ..metrics.long_tail import MAP_FIGURES
from ..training.run_tables import read_run


# What tells the rows of a figure apart: key of a run's recipe.
FACTORS = {"ablation": "ablation", "label_embeddings": "label_embeddings"}
CONFIDENCE = 0.95
_TITLES = {"net0": "Net-0", "net1": "Net-1", "net2": "Net-2", "net3": "Net-3 (CSSFE)"}
_FIGURE_TITLES = {"map_total": "all classes", "map_head": "head", "map_medium": "medium", "map_tail": "tail"}
# Keys that differ between the seeds of a row, or that change nothing about what is learnt.
_IGNORED = ("seed", "num_workers", "output_dir")


@dataclass(frozen=True)
class AblationRow:
    """Runs of one recipe.

    Args:
        name: In the legend.
        seeds: Of its runs.
        figures: `map_total`, `map_head`, `map_medium`, `map_tail`: a fraction for each seed; `None` where a run has no
            such figure.
    """

    name: str
    seeds: tuple[int, ...]
    figures: Mapping[str, tuple[float | None, ...]]

    def mean(self, figure: str) -> float | None:
        """Mean over the seeds; `None` where a run lacks the figure."""
        values = self._values(figure)
        return None if values is None else statistics.fmean(values)

    def half_interval(self, figure: str) -> float | None:
        """Half of the 95 % interval of the mean by Student's t over the seeds; `None` for fewer than two."""
        from scipy.stats import t

        values = self._values(figure)
        if values is None or len(values) < 2:
            return None
        quantile = float(t.ppf(0.5 + CONFIDENCE / 2, len(values) - 1))
        return quantile * statistics.stdev(values) / math.sqrt(len(values))

    def _values(self, figure: str) -> list[float] | None:
        values = [value for value in self.figures[figure] if value is not None]
        return values if len(values) == len(self.seeds) else None


def read_ablation(
    paths: Sequence[str | os.PathLike], by: str = "ablation", rows: Mapping[str, str] | None = None
) -> tuple[list[AblationRow], list[str]]:
    """Read the rows of a figure from folders of runs, or from a table of trials.

    Args:
        paths: Folders that `cssfe train` wrote; or one `.csv` with the columns `trial`, `seed`, `map_total`,
            `map_head`, `map_medium` and `map_tail`, such as benchmarks/results/accuracy.csv.
        by: `"ablation"` or `"label_embeddings"`: what of their recipes tells the rows of folders apart.
        rows: Name in the legend -> value of that (`"net0"`) or trial, in the order of the figure; `None` for all, the
            ablations in their order and anything else in the order found.

    Returns:
        The rows, and a line for each other setting in which they differ: a figure that changes several things at once
        does not say which of them it was.

    Raises:
        ValueError: No runs, a folder or table of another kind, an unknown row, two runs of one row with the same seed,
            or runs of one row with different recipes.
    """
    if by not in FACTORS:
        raise ValueError(f"cannot compare by {by!r}; choose one of {', '.join(FACTORS)}.")
    if not paths:
        raise ValueError("there are no runs; give folders that `cssfe train` wrote, or a .csv of trials.")
    tables = [path for path in paths if os.fspath(path).lower().endswith(".csv")]
    if tables and len(paths) > 1:
        raise ValueError(f"{os.fspath(tables[0])!r} is a table of trials; give it alone, or folders of runs.")
    found = _read_table(Path(tables[0])) if tables else _read_folders(paths, by)
    if rows is None:
        order = sorted(found, key=list(_TITLES).index) if set(found) <= set(_TITLES) else list(found)
        rows = {_TITLES.get(key, key): key for key in order}
    for key in rows.values():
        if key not in found:
            import difflib

            near = difflib.get_close_matches(key, found, n=1)
            mend = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(list(found)[:20])}."
            raise ValueError(f"there are no runs of {key!r}; {mend}")
    chosen = {name: found[key] for name, key in rows.items()}
    notes = [] if tables else _differences(chosen, by)
    return [
        AblationRow(
            name,
            tuple(entry["seed"] for entry in entries),
            {figure: tuple(entry["figures"][figure] for entry in entries) for figure in MAP_FIGURES},
        )
        for name, entries in chosen.items()
    ], notes


def _read_table(path: Path) -> dict[str, list[dict[str, Any]]]:
    if not path.is_file():
        raise FileNotFoundError(f"there is no table {os.fspath(path)!r}; check the path.")
    with open(path, newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        missing = [name for name in ("trial", "seed", *MAP_FIGURES) if name not in (reader.fieldnames or ())]
        if missing:
            raise ValueError(f"{os.fspath(path)!r} has no column {missing[0]!r}; give a table of trials.")
        found: dict[str, list[dict[str, Any]]] = {}
        for line, entry in enumerate(reader, start=2):
            try:
                figures = {name: float(entry[name]) if entry[name] else None for name in MAP_FIGURES}
                seed = int(entry["seed"])
            except (TypeError, ValueError) as error:
                raise ValueError(f"line {line} of {os.fspath(path)!r} has no numbers: {error}.") from error
            _add(found, entry["trial"], {"seed": seed, "figures": figures, "recipe": {}, "path": f"line {line}"})
    if not found:
        raise ValueError(f"{os.fspath(path)!r} has no trials.")
    return found


def _read_folders(paths: Sequence[str | os.PathLike], by: str) -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = {}
    splits = {}
    for path in paths:
        run = read_run(path)
        recipe = {key: value for key, value in run.recipe.items() if key not in _IGNORED}
        key = str(recipe.pop(FACTORS[by], "unknown"))
        if by == "label_embeddings":
            key = Path(key).stem if key.endswith(".safetensors") else key
        splits[run.split] = os.fspath(path)
        entry = {"seed": run.seed, "figures": run.figures, "recipe": recipe, "path": os.fspath(path)}
        for other in found.get(key, []):
            differing = _differing_keys([other["recipe"], recipe])
            if differing:
                raise ValueError(
                    f"{other['path']!r} and {entry['path']!r} are both {key!r} but differ in "
                    f"{', '.join(differing[:5])}; their mean would be of two things, leave one out."
                )
        _add(found, key, entry)
    if len(splits) > 1:
        raise ValueError(f"the runs were judged on different splits ({', '.join(sorted(splits))}); judge them alike.")
    return found


def _add(found: dict[str, list[dict[str, Any]]], key: str, entry: dict[str, Any]) -> None:
    members = found.setdefault(key, [])
    if any(other["seed"] == entry["seed"] for other in members):
        raise ValueError(
            f"{entry['path']!r} is a second run of {key!r} with the seed {entry['seed']}; leave one out, or the spread "
            "over seeds would look too small."
        )
    members.append(entry)
    members.sort(key=lambda other: other["seed"])


def _differing_keys(recipes: Sequence[Mapping[str, Any]]) -> list[str]:
    missing = object()
    keys = dict.fromkeys(key for recipe in recipes for key in recipe)
    return [key for key in keys if any(recipe.get(key, missing) != recipes[0].get(key, missing) for recipe in recipes)]


def _differences(chosen: Mapping[str, list[dict[str, Any]]], by: str) -> list[str]:
    recipes = {name: entries[0]["recipe"] for name, entries in chosen.items()}
    return [
        f"the rows differ in {key} too: "
        + ", ".join(f"{name} {recipe.get(key, 'has none')}" for name, recipe in recipes.items())
        for key in _differing_keys(list(recipes.values()))
    ]


def draw_ablation(rows: Sequence[AblationRow], path: str | os.PathLike, title: str | None = None) -> None:
    """Draw mean average precision by group, a mark for each row: mean, 95 % interval over seeds, and the seeds.

    Args:
        rows: From `read_ablation`.
        path: `.png` or `.svg` file; written whole or not at all.
        title: Above the figure.

    Raises:
        ValueError: Another ending, or no rows.
        SavingError: The file cannot be written.
    """
    check_figure_path(path)
    if not rows:
        raise ValueError("there are no rows to draw; give at least one run.")
    spread = 0.8 / len(rows)
    with figure_style():
        figure = new_figure(max(6.5, 1.2 + 0.35 * len(rows) * len(MAP_FIGURES)), 4.4)
        axis = figure.add_subplot()
        for number, row in enumerate(rows):
            color, mark = SERIES_COLORS[number % len(SERIES_COLORS)], SERIES_MARKS[number % len(SERIES_MARKS)]
            for place, name in enumerate(MAP_FIGURES):
                x = place + (number - (len(rows) - 1) / 2) * spread
                mean, half = row.mean(name), row.half_interval(name)
                if mean is None:
                    continue
                seeds = [100 * value for value in row.figures[name] if value is not None]
                if len(seeds) > 1:
                    axis.plot([x] * len(seeds), seeds, "_", color=color, alpha=0.55, markersize=8, zorder=2)
                error = None if half is None else [[100 * half], [100 * half]]
                axis.errorbar(x, 100 * mean, error, fmt=mark, color=color, markersize=6, capsize=3, zorder=3)
            count = len(row.seeds)
            axis.plot([], [], mark, color=color, label=f"{row.name}, {count} seed{'s' * (count > 1)}")
        for border in range(1, len(MAP_FIGURES)):
            axis.axvline(border - 0.5, color="0.85", linewidth=0.8)
        axis.set_xticks(range(len(MAP_FIGURES)), [_FIGURE_TITLES[name] for name in MAP_FIGURES])
        axis.set_xlim(-0.5, len(MAP_FIGURES) - 0.5)
        axis.grid(axis="y", alpha=0.3)
        axis.set_ylabel("mean average precision (%)")
        many = any(len(row.seeds) > 1 for row in rows)
        axis.set_title(title or ("Mean and 95 % interval over seeds" if many else "One seed each"), fontsize=10)
        figure.legend(loc="outside lower center", ncols=len(rows) if len(rows) <= 4 else 3, fontsize=8, frameon=False)
        save_figure(figure, path, dpi=140)


__all__ = ["FACTORS", "AblationRow", "draw_ablation", "read_ablation"]
