# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""Training and evaluation on Accelerate."""

from .engine import train
from .evaluation import compute_scores, evaluate_model, load_trained_model
from .recipe import Recipe, list_recipes, load_recipe
from .repeat import RunToRepeat, read_run
from .run_folder import SavingError


__all__ = [
    "Recipe",
    "RunToRepeat",
    "SavingError",
    "compute_scores",
    "evaluate_model",
    "list_recipes",
    "load_recipe",
    "load_trained_model",
    "read_run",
    "train",
]
