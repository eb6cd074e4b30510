# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""Recipes: what defines a training run, its file, and its checks."""

from .reading import find_recipe, first_phase_recipe, list_recipes, load_recipe
from .recipe import Recipe


__all__ = ["Recipe", "find_recipe", "first_phase_recipe", "list_recipes", "load_recipe"]
