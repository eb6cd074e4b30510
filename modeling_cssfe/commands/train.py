# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""`cssfe train`: a recipe to a trained model."""

import argparse
import sys
from typing import TYPE_CHECKING

from ._verbs import AddVerb


if TYPE_CHECKING:
    from ..training import Recipe, RunToRepeat


def register(add: AddVerb) -> None:
    """Declare `cssfe train`."""
    train = add("train", _train, "Train a model from a recipe.")
    train.add_argument("--recipe", help="shipped recipe (see `cssfe info`) or YAML file; lt_digits if nothing is given")
    train.add_argument("--output_dir", required=True, help="new or empty folder, or that of the run to resume")
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
    from ..training.environment import process_state
    from ..training.interruption import TrainingInterruptedError

    before = _run_to_repeat(options)
    values = {name: getattr(options, name) for name in ("data", "backbone_weights", "label_embeddings", "seed")}
    values = {name: value for name, value in values.items() if value is not None}
    if str(values.get("backbone_weights")).lower() in ("true", "false"):
        values["backbone_weights"] = values["backbone_weights"].lower() == "true"
    recipe = load_recipe(options.recipe or "lt_digits" if before is None else before.recipe, options.set, values)
    if options.dry_run:
        _dry_run(recipe, options)
        return
    try:
        train(
            recipe,
            options.output_dir,
            quiet=options.quiet,
            same_data_as=None if options.allow_changed_data else before,
            resume=options.resume,
        )
    except TrainingInterruptedError as interrupted:
        print(f"cssfe train: {interrupted}", file=sys.stderr)
        raise SystemExit(interrupted.exit_code) from interrupted  # 143 after SIGTERM, 130 after SIGINT
    finally:
        process_state().destroy_process_group()


def _run_to_repeat(options: argparse.Namespace) -> "RunToRepeat | None":
    """Read the run that `--from` names, and say what of the machine is not as it was."""
    if options.repeat is None:
        if options.allow_changed_data:
            raise ValueError("--allow_changed_data is for a run that is repeated; give --from RESULTS.")
        return None
    if options.recipe is not None:
        raise ValueError("--from has a recipe of its own; leave --recipe out, and change keys with --set.")
    from ..training import read_run
    from ..training.environment import describe_environment, process_state

    before = read_run(options.repeat)
    state = process_state()
    if state.is_main_process:
        for difference in before.differences(describe_environment(), state.num_processes):
            print(f"cssfe train: {difference}: numbers may differ", file=sys.stderr)
        if before.data_fingerprint is None:
            print(f"cssfe train: {before.source} has no data fingerprint to compare with", file=sys.stderr)
    return before


def _dry_run(recipe: "Recipe", options: argparse.Namespace) -> None:
    from ..training.dry_run import DryRunError, check_table, dry_run
    from ..training.environment import process_state
    from ..training.report import show

    checks = dry_run(recipe, options.output_dir, options.resume)
    if process_state().is_main_process:
        show(check_table(checks))
    failed = [check for check in checks if check.ok is False]
    if failed and failed[0].error is not None and options.debug:
        raise failed[0].error
    if failed:
        raise DryRunError(f"{len(failed)} of {len(checks)} checks failed: {', '.join(one.name for one in failed)}.")


__all__ = ["register"]
