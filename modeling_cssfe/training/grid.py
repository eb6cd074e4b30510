# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""Grids: several recipes, each with several seeds, one after the other, and the table of what they reached.

A grid's folder has a folder a recipe with one a seed: `lt_voc_asl/seed0`. The same grid over the same folder goes on
where it was: finished runs are kept, one that was stopped resumes from its newest checkpoint, and one that failed is
tried again. `grid.csv` and `grid.json` hold means, standard deviations and published figures, after each run.
"""

import csv
import dataclasses
import gc
import io
import json
import os
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..common.environment import process_state
from ..common.files import write_whole
from ..evaluation.figure_tables import Cell, FigureTable
from ..metrics.long_tail import MAP_FIGURES
from ..recipes import Recipe, load_recipe
from ..recipes.reading import SUFFIXES
from .engine import train
from .interruption import TrainingInterruptedError
from .report import published_row
from .run_tables import RunGroup, group_runs, read_run, seeds_table
from .training_state import flat_recipe


class GridError(RuntimeError):
    """Some runs of a grid failed; the others are done. The message is one line."""


@dataclass(frozen=True)
class GridRun:
    """One run of a grid.

    Attributes:
        name: Of its recipe.
        recipe: With the run's seed.
        folder: The run's own.
    """

    name: str
    recipe: Recipe
    folder: Path

    @property
    def label(self) -> str:
        """What the run is called in messages."""
        return f"{self.name}, seed {self.recipe.seed}"


@dataclass(frozen=True)
class GridOutcome:
    """What became of a run.

    Attributes:
        run: The run.
        status: `waiting`, `done` or `failed`.
        error: Why it failed, in one line.
        trace: The same with its traceback.
    """

    run: GridRun
    status: str
    error: str | None = None
    trace: str | None = None


def plan_grid(
    recipes: Sequence[str],
    seeds: Sequence[int] | None,
    output_dir: str | os.PathLike,
    overrides: Sequence[str] = (),
    values: Mapping[str, Any] | None = None,
) -> list[GridRun]:
    """The runs of a grid, recipe by recipe; every recipe is read and checked, nothing is written.

    Args:
        recipes: Shipped names or YAML files. A file is called by its name without folder and ending.
        seeds: One run of each recipe has each seed; `None` for the recipe's own.
        output_dir: The grid's folder.
        overrides: For all recipes, see `load_recipe`.
        values: For all recipes, see `load_recipe`.

    Raises:
        ValueError: A recipe is unknown or wrong; two recipes have one name, or are the same but for their name; a seed
            is given twice; or the folder is a file.
    """
    if Path(output_dir).exists() and not Path(output_dir).is_dir():
        raise ValueError(f"output_dir {os.fspath(output_dir)!r} is a file; choose a folder.")
    if not recipes or (seeds is not None and not seeds):
        raise ValueError("a grid needs at least one recipe and one seed.")
    for seed in seeds or ():
        if list(seeds or ()).count(seed) > 1:
            raise ValueError(f"seed {seed} is given twice; give each seed once.")
    runs: list[GridRun] = []
    known: dict[str, dict[str, Any]] = {}
    for given in recipes:
        name = Path(given).stem if Path(given).suffix in SUFFIXES else given
        own = load_recipe(given, overrides, values)
        if name in known:
            raise ValueError(f"two recipes of the grid are named {name!r}; give each once, under a name of its own.")
        for seed in [own.seed] if seeds is None else seeds:
            recipe = dataclasses.replace(own, seed=seed)
            runs.append(GridRun(name, recipe, Path(output_dir) / name / f"seed{seed}"))
        content = _content(own)
        same = next((other for other, its in known.items() if its == content), None)
        if same is not None:
            raise ValueError(f"recipes {same!r} and {name!r} are the same run under two names; leave one out.")
        known[name] = content
    return runs


def run_grid(
    runs: Sequence[GridRun],
    output_dir: str | os.PathLike,
    quiet: bool = False,
    tell: Callable[[str], None] = lambda line: None,
) -> list[GridOutcome]:
    """Train what of a grid is not done yet; a run that fails does not keep the others from theirs.

    Args:
        runs: Of `plan_grid`.
        output_dir: The grid's folder; receives `grid.csv` and `grid.json` beside the runs.
        quiet: As for `train`.
        tell: Called with a line as each run begins, is kept, or fails.

    Returns:
        One entry a run, in their order.

    Raises:
        TrainingInterruptedError: A signal came: the run under way is saved, the others are not begun.
        SavingError: The grid's own files cannot be written.
    """
    # All folders are looked at first: what stands in the way is known before days of training, and the tables have all
    # that is done from the beginning.
    outcomes = [_look(run) for run in runs]
    for place, run in enumerate(runs):
        where = f"[{place + 1}/{len(runs)}] {run.label}"
        if outcomes[place].status == "waiting":
            tell(f"{where}: {run.folder}")
            outcomes[place] = _train(run, quiet)
        elif outcomes[place].status == "done":
            tell(f"{where} is done: kept")
        if outcomes[place].error is not None:
            tell(f"{where} failed: {outcomes[place].error}")
        if process_state().is_main_process:
            write_grid(outcomes, output_dir)
        gc.collect()  # the next model needs the memory of the last one
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
    return outcomes


def _look(run: GridRun) -> GridOutcome:
    try:
        return GridOutcome(run, "done" if _is_done(run) else "waiting")
    except ValueError as error:
        return _failed(run, error)


def _train(run: GridRun, quiet: bool) -> GridOutcome:
    try:
        train(run.recipe, run.folder, quiet=quiet, resume="auto")
        return GridOutcome(run, "done")
    except TrainingInterruptedError:
        raise
    except Exception as error:
        # One process cannot know whether the others failed as well; they would wait for each other for ever.
        if process_state().num_processes > 1:
            raise
        return _failed(run, error)


def _failed(run: GridRun, error: Exception) -> GridOutcome:
    line = " ".join(str(error).split()) or type(error).__name__
    # As text: a traceback would keep the failed model in memory.
    return GridOutcome(run, "failed", line, traceback.format_exc())


def _is_done(run: GridRun) -> bool:
    """Whether the run's folder holds its results.

    Raises:
        ValueError: It holds those of another recipe, or half of a file.
    """
    file = run.folder / "results.json"
    if not file.is_file():
        return False
    try:
        saved = json.loads(file.read_text(encoding="utf-8"))["recipe"]
        found = flat_recipe(dataclasses.asdict(Recipe()) | dict(saved))  # later keys had their defaults' meaning
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{os.fspath(file)!r} is not whole; remove {os.fspath(run.folder)!r} to train again."
        ) from error
    wanted = {**_content(run.recipe), "seed": run.recipe.seed}
    keys = {*wanted, *(key for key in found if key.startswith("first_phase."))}
    differing = sorted(key for key in keys if found.get(key) != wanted.get(key))
    if differing:
        shown = ", ".join(f"{key} ({wanted.get(key)!r}, was {found.get(key)!r})" for key in differing)
        raise ValueError(
            f"{os.fspath(run.folder)!r} holds a run of another recipe: {shown}; choose another output_dir, or remove "
            "that run."
        )
    return True


def _content(recipe: Recipe) -> dict[str, Any]:
    """What of a recipe decides on its results, its seed apart, as JSON gives it back."""
    kept = {key: value for key, value in flat_recipe(dataclasses.asdict(recipe)).items() if key != "seed"}
    return json.loads(json.dumps(kept))


@dataclass(frozen=True)
class _Table:
    """Rows that may be compared: runs that were judged on the same images."""

    data: str
    split: str
    groups: list[RunGroup]


def grid_tables(outcomes: Sequence[GridOutcome]) -> list[FigureTable]:
    """Mean and standard deviation over seeds, each recipe's published figures below; one table a test set.

    Stars compare with the table's first recipe; see `modeling_cssfe.training.run_tables`.
    """
    published = {outcome.run.name: outcome.run.recipe.published for outcome in outcomes}
    drawn = []
    for table in _tables(outcomes):
        reached = seeds_table(table.groups, f"{table.data}, {table.split}")
        rows, notes = [], list(reached.notes)
        for group, row in zip(table.groups, reached.rows, strict=True):
            rows.append(row)
            figures = published[group.name]
            if figures:
                cells = tuple(Cell(figures.get(figure)) for figure in MAP_FIGURES)
                rows.append((f"{group.name}, {published_row(figures)}", cells))
        if len(rows) > len(reached.rows):
            notes.append("published: what a paper reports, a dash where it reports nothing; it trains nothing here.")
        drawn.append(dataclasses.replace(reached, rows=tuple(rows), notes=tuple(notes)))
    return drawn


def write_grid(outcomes: Sequence[GridOutcome], output_dir: str | os.PathLike) -> None:
    """Write `grid.csv`, a line a recipe, and `grid.json`, which has each run as well; fractions, not percent.

    Raises:
        SavingError: A file cannot be written.
    """
    rows: list[dict[str, Any]] = []
    for table in _tables(outcomes):
        for group in table.groups:
            figures = {name: dataclasses.asdict(entry) for name, entry in group.figures.items()}
            seeds = [run.seed for run in group.runs]
            rows.append({"recipe": group.name, "data": table.data, "split": table.split, "seeds": seeds} | figures)
    for outcome in outcomes:  # a recipe of which no run is done has a line of its own
        name, recipe = outcome.run.name, outcome.run.recipe
        if name not in (row["recipe"] for row in rows):
            rows.append({"recipe": name, "data": recipe.data, "split": None, "seeds": []})
        for row in rows:
            if row["recipe"] == name:
                row["published"] = recipe.published
    runs = [
        {
            "recipe": outcome.run.name,
            "seed": outcome.run.recipe.seed,
            "folder": outcome.run.folder.relative_to(output_dir).as_posix(),
            "status": outcome.status,
            "error": outcome.error,
        }
        for outcome in outcomes
    ]
    content = json.dumps({"rows": rows, "runs": runs}, indent=2) + "\n"
    write_whole(Path(output_dir) / "grid.json", lambda file: file.write_text(content, encoding="utf-8"))
    lines = _csv(rows)
    write_whole(Path(output_dir) / "grid.csv", lambda file: file.write_text(lines, encoding="utf-8"))


def _csv(rows: Sequence[Mapping[str, Any]]) -> str:
    text = io.StringIO()
    parts = ("mean", "std", "p_value")
    columns = [f"{figure}_{part}" for figure in MAP_FIGURES for part in (*parts, "published")]
    writer = csv.DictWriter(text, ["recipe", "data", "split", "seeds", *columns], lineterminator="\n")
    writer.writeheader()
    for row in rows:
        line = {"recipe": row["recipe"], "data": row["data"], "split": row["split"], "seeds": len(row["seeds"])}
        for figure in MAP_FIGURES:
            line |= {f"{figure}_{part}": row.get(figure, {}).get(part) for part in parts}
            line[f"{figure}_published"] = row["published"].get(figure)
        writer.writerow(line)  # what is None stays empty
    return text.getvalue()


def _tables(outcomes: Sequence[GridOutcome]) -> list[_Table]:
    found: dict[tuple, list] = {}
    names = {}
    for outcome in outcomes:
        if outcome.status != "done":
            continue
        run = read_run(outcome.run.folder)
        results = json.loads((outcome.run.folder / "results.json").read_text(encoding="utf-8"))
        fingerprint = (results.get("data_fingerprint") or {}).get(run.split)
        found.setdefault((outcome.run.recipe.data, run.split, fingerprint), []).append(run)
        names[run.path] = outcome.run.name
    return [
        _Table(data, split, [dataclasses.replace(one, name=names[one.runs[0].path]) for one in group_runs(runs)])
        for (data, split, _), runs in found.items()
    ]


__all__ = ["GridError", "GridOutcome", "GridRun", "grid_tables", "plan_grid", "run_grid", "write_grid"]
