# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""Training and evaluation on Accelerate."""

from ..common.files import SavingError
from ..common.model_loading import load_trained_model
from ..evaluation.logits import compute_scores
from ..evaluation.scoring import evaluate_model
from ..recipes import Recipe, list_recipes, load_recipe
from .engine import train
from .repeat import RunToRepeat, read_run


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
