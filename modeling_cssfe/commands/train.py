# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""`cssfe train`: a recipe to a trained model."""

import argparse
import contextlib
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ._verbs import AddVerb


if TYPE_CHECKING:
    from ..training import Recipe, RunToRepeat


def register(add: AddVerb) -> None:
    """Declare `cssfe train`."""
    train = add("train", _train, "Train a model from a recipe.")
    train.add_argument(
        "--recipe",
        help="shipped recipe (see `cssfe info`) or YAML file; A,B,C for several, a grid; lt_digits if nothing is given",
    )
    train.add_argument(
        "--seeds", type=_seeds, metavar="S,S,...", help="train with each of these seeds: a grid, whose runs are resumed"
    )
    train.add_argument(
        "--output_dir", required=True, help="new or empty folder, or that of the run to resume, or of the grid"
    )
    train.add_argument(
        "--from", dest="repeat", metavar="RESULTS", help="results.json of a run, or its folder, to repeat that run"
    )
    train.add_argument(
        "--allow_changed_data", action="store_true", help="with --from: train although the data is not what it was"
    )
    train.add_argument(
        "--dry_run", action="store_true", help="check data, weights, memory, a step, saving and an evaluation; no run"
    )
    train.add_argument(
        "--resume",
        default="never",
        help="auto (newest intact checkpoint in output_dir, if any), never, or a checkpoint's folder",
    )
    train.add_argument("--data", help="data in place of the recipe's: lt_digits, folder, file or `datasets` name")
    train.add_argument("--backbone_weights", help="true, false or a .safetensors file in place of the recipe's")
    train.add_argument("--label_embeddings", help="text encoder, .safetensors file or random in place of the recipe's")
    train.add_argument("--seed", type=int, help="seed in place of the recipe's")
    train.add_argument(
        "--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE", help="any other key of the recipe"
    )
    train.add_argument("--quiet", action="store_true", help="no progress and no tables")


def _train(options: argparse.Namespace) -> None:
    from ..training import load_recipe, train

    recipes = _recipes(options.recipe)
    is_grid = options.seeds is not None or len(recipes) > 1
    before = _run_to_repeat(options)
    values = {name: getattr(options, name) for name in ("data", "backbone_weights", "label_embeddings", "seed")}
    values = {name: value for name, value in values.items() if value is not None}
    if str(values.get("backbone_weights")).lower() in ("true", "false"):
        values["backbone_weights"] = values["backbone_weights"].lower() == "true"
    if is_grid:
        _train_grid(recipes, options, values)
        return
    recipe = load_recipe(recipes[0] if before is None else before.recipe, options.set, values)
    if options.dry_run:
        _dry_run([(None, recipe, options.output_dir)], options.resume, options.debug)
        return
    with _ending():
        train(
            recipe,
            options.output_dir,
            quiet=options.quiet,
            same_data_as=None if options.allow_changed_data else before,
            resume=options.resume,
        )


@contextlib.contextmanager
def _ending() -> Iterator[None]:
    """End the group of processes, however the training ends."""
    from ..common.environment import process_state

    try:
        yield
    finally:
        process_state().destroy_process_group()


def _seeds(text: str) -> list[int]:
    try:
        return [int(seed) for seed in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no list of seeds; write 0,1,2") from None


def _recipes(given: str | None) -> list[str]:
    if given is None:
        return ["lt_digits"]
    # A file whose name has a comma is one recipe.
    return [given] if Path(given).is_file() else [name.strip() for name in given.split(",")]


def _train_grid(recipes: list[str], options: argparse.Namespace, values: dict[str, Any]) -> None:
    """Train a grid and print its table; the runs that failed are told on standard error."""
    for name, given, mend in (
        ("from", options.repeat, "repeat one run at a time"),
        ("seed", None if options.seeds is None else options.seed, "give --seeds alone"),
        ("resume", None if options.resume in ("auto", "never") else options.resume, "a grid finds its own checkpoints"),
    ):
        if given is not None:
            raise ValueError(f"--{name} {given} does not go with a grid (several recipes, or --seeds); {mend}.")
    from ..common.environment import process_state
    from ..common.tables import show
    from ..evaluation.figure_tables import rich_table
    from ..training.grid import GridError, grid_tables, plan_grid, run_grid

    runs = plan_grid(recipes, options.seeds, options.output_dir, options.set, values)
    if options.dry_run:
        one_seed = {run.name: run for run in runs}.values()
        _dry_run([(run.name, run.recipe, run.folder) for run in one_seed], "auto", options.debug)
        return
    is_main = process_state().is_main_process

    def tell(line: str) -> None:
        if is_main and not options.quiet:
            print(f"cssfe train: {line}", file=sys.stderr, flush=True)

    with _ending():
        outcomes = run_grid(runs, options.output_dir, options.quiet, tell)
    if not is_main:
        return
    if not options.quiet:
        for table in grid_tables(outcomes):
            show(rich_table(table))
            print(*table.notes, sep="\n")
    failed = [outcome for outcome in outcomes if outcome.error is not None]
    for outcome in failed:
        print(f"cssfe train: {outcome.run.label} failed: {outcome.error}", file=sys.stderr)
        if options.debug:
            print(outcome.trace, file=sys.stderr)
    if failed:
        raise GridError(
            f"{len(failed)} of {len(outcomes)} runs failed, as said above; the same command tries them again."
        )


def _run_to_repeat(options: argparse.Namespace) -> "RunToRepeat | None":
    """Read the run that `--from` names, and say what of the machine is not as it was."""
    if options.repeat is None:
        if options.allow_changed_data:
            raise ValueError("--allow_changed_data is for a run that is repeated; give --from RESULTS.")
        return None
    if options.recipe is not None:
        raise ValueError("--from has a recipe of its own; leave --recipe out, and change keys with --set.")
    from ..common.environment import describe_environment, process_state
    from ..training import read_run

    before = read_run(options.repeat)
    state = process_state()
    if state.is_main_process:
        for difference in before.differences(describe_environment(), state.num_processes):
            print(f"cssfe train: {difference}: numbers may differ", file=sys.stderr)
        if before.data_fingerprint is None:
            print(f"cssfe train: {before.source} has no data fingerprint to compare with", file=sys.stderr)
    return before


def _dry_run(runs: "Sequence[tuple[str | None, Recipe, str | os.PathLike]]", resume: str, debug: bool) -> None:
    """Check runs: name (for a grid), recipe and folder of each. Of two phases each is tried, on new weights."""
    from ..common.environment import process_state
    from ..common.tables import show
    from ..recipes import first_phase_recipe
    from ..training.dry_run import DryRunError, check_table, dry_run
    from ..training.initial_model import require_same_shapes

    phases: list[tuple[str | None, Recipe, str | os.PathLike | None]] = []
    for name, recipe, folder in runs:
        first = first_phase_recipe(recipe)
        if first is not None:
            require_same_shapes(recipe, first)
            phases.append(("the first phase" if name is None else f"{name}, first phase", first, None))
        phases.append((name, recipe, folder))
    problems = []
    for name, recipe, place in phases:
        checks = dry_run(recipe, place, resume)
        table = check_table(checks, "Dry run" if name is None else f"Dry run of {name}")
        if process_state().is_main_process:
            show(table)
        failed = [check for check in checks if check.ok is False]
        if failed and failed[0].error is not None and debug:
            raise failed[0].error
        if failed:
            where = "" if name is None else f"{name}: "
            problems.append(
                f"{where}{len(failed)} of {len(checks)} checks failed: {', '.join(one.name for one in failed)}"
            )
    if problems:
        raise DryRunError("; ".join(problems) + ".")


__all__ = ["register"]
