# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""`cssfe evaluate`: models and a data set to figures."""

import argparse
import json
from pathlib import Path

from ._verbs import AddVerb


def register(add: AddVerb) -> None:
    """Declare `cssfe evaluate`."""
    evaluate = add("evaluate", _evaluate, "Judge trained models on a data set, side by side.")
    evaluate.add_argument("models", nargs="+", help="folders or Hub repositories of trained models")
    evaluate.add_argument("--data", required=True, help="lt_digits, folder, file or `datasets` name")
    evaluate.add_argument("--split", help="split to judge (default: test, else validation, else the only one)")
    evaluate.add_argument("--batch_size", type=int, default=32, help="images a step")
    evaluate.add_argument("--num_workers", type=int, default=0, help="loader processes")
    evaluate.add_argument("--output", help="JSON file for all figures")


def _evaluate(options: argparse.Namespace) -> None:
    from ..training.evaluation import evaluate_model
    from ..training.report import class_table, group_table, show
    from ..training.run_folder import write_whole

    results = {
        model: evaluate_model(model, options.data, options.split, options.batch_size, options.num_workers)
        for model in dict.fromkeys(options.models)
    }
    last = list(results.values())[-1]
    title = f"{options.data}, split {last['split']}, {last['num_images']} images"
    tables = [class_table(last, f"Average precision by class: {last['model']}")] if len(results) == 1 else []
    show(*tables, group_table(results, title))
    if options.output:
        content = json.dumps(list(results.values()), indent=2) + "\n"
        write_whole(Path(options.output), lambda file: file.write_text(content, encoding="utf-8"))


__all__ = ["register"]
