# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""`cssfe train`: a recipe to a trained model."""

import argparse

from ._verbs import AddVerb


def register(add: AddVerb) -> None:
    """Declare `cssfe train`."""
    train = add("train", _train, "Train a model from a recipe.")
    train.add_argument("--recipe", default="lt_digits", help="shipped recipe (see `cssfe info`) or YAML file")
    train.add_argument("--output_dir", required=True, help="new or empty folder for the run")
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

    values = {name: getattr(options, name) for name in ("data", "backbone_weights", "label_embeddings", "seed")}
    values = {name: value for name, value in values.items() if value is not None}
    if str(values.get("backbone_weights")).lower() in ("true", "false"):
        values["backbone_weights"] = values["backbone_weights"].lower() == "true"
    train(load_recipe(options.recipe, options.set, values), options.output_dir, quiet=options.quiet)


__all__ = ["register"]
