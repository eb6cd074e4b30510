# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""Recipes: everything that defines a training run, in one YAML file.

A recipe is a flat `Recipe`; `load_recipe` reads a YAML file or a shipped name, applies `key=value` overrides, and
reports an unknown key or a value of the wrong type in one line.

A file may build on another recipe, so that it says only what is different: `extends: lt_voc_erm` takes that recipe's
keys first. Mappings such as `model` are merged key by key. `published` alone is not taken over: a figure belongs to the
recipe that it stands in.

A run may have two phases: `first_phase` holds what is different in the first one, whose model the second starts from.
"""

import dataclasses
import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from .recipe import Recipe


SUFFIXES = (".yaml", ".yml")
# What a value of a recipe may be, by a word in the type of its key; the first that fits.
_KINDS = {
    "list": "a list [a, b]",
    "dict": "a mapping {key: value}",
    "bool": "true or false",
    "int": "a whole number",
    "float": "a number",
    "str": "a name or text, with options in a key of their own",
}


def first_phase_recipe(recipe: Recipe) -> Recipe | None:
    """The recipe of a run's first phase, `None` where there is but one. The test split is left to the second.

    Raises:
        ValueError: A key is unknown, or has a value that it may not have.
    """
    if not recipe.first_phase:
        return None
    changes = {**recipe.first_phase, "first_phase": None, "published": {}, "test_split": None}
    return load_recipe({**dataclasses.asdict(recipe), **changes})


def recipe_folders() -> list[Path]:
    """Where shipped recipes may lie: inside an installed package, or in a checkout's `train/recipes`."""
    package = Path(__file__).resolve().parent
    return [folder for folder in (package / "files", package.parents[1] / "train" / "recipes") if folder.is_dir()]


def list_recipes() -> list[str]:
    """Names of the shipped recipes, sorted."""
    return sorted({file.stem for folder in recipe_folders() for file in folder.glob("*.yaml")})


def find_recipe(name_or_file: str) -> Path:
    """Path of a recipe given by file or by shipped name.

    Raises:
        ValueError: Neither a file nor a shipped name; the nearest name is suggested.
    """
    if Path(name_or_file).suffix in SUFFIXES:
        if Path(name_or_file).is_file():
            return Path(name_or_file)
        raise ValueError(f"no recipe file {name_or_file!r}; give an existing YAML file or one of {_names()}.")
    for folder in recipe_folders():
        if (folder / f"{name_or_file}.yaml").is_file():
            return folder / f"{name_or_file}.yaml"
    near = difflib.get_close_matches(name_or_file, list_recipes(), n=1)
    mend = f"did you mean {near[0]!r}?" if near else f"give a YAML file or one of {_names()}."
    raise ValueError(f"unknown recipe {name_or_file!r}; {mend}")


def _names() -> str:
    return ", ".join(list_recipes())


def load_recipe(
    name_or_file: str | Mapping[str, Any] | None = None,
    overrides: Sequence[str] = (),
    values: Mapping[str, Any] | None = None,
) -> Recipe:
    """Read a recipe and apply overrides.

    Args:
        name_or_file: Shipped name or YAML file; or the keys themselves; `None` starts from the defaults.
        overrides: `["key=value", "model.hidden_size=256"]`, values read as YAML; these win over the file.
        values: Keys with values taken as they are; these win over everything.

    Returns:
        The checked recipe.

    Raises:
        ValueError: Unknown key (the nearest is suggested), wrong type, value out of range, or a file that extends what
            there is not, or itself.
    """
    for override in overrides:
        if "=" not in override:
            raise ValueError(f"cannot read {override!r}; write key=value.")
    layers = [OmegaConf.structured(Recipe)]
    try:
        if isinstance(name_or_file, Mapping):
            _check_keys(name_or_file, "the recipe")
            layers.append(OmegaConf.create(dict(name_or_file)))
        elif name_or_file is not None:
            layers += _read_chain(find_recipe(name_or_file))
        for given in (OmegaConf.from_dotlist(list(overrides)), OmegaConf.create(dict(values or {}))):
            _check_keys(given, "the overrides")
            layers.append(given)
        # Nothing is filled in: "${oc.env:NAME}" in somebody's recipe would write a secret into the model's card.
        merged: Any = OmegaConf.to_container(OmegaConf.merge(*layers), resolve=False)
        _refuse_interpolations(merged)
        return Recipe(**merged)
    except (OmegaConfBaseException, yaml.YAMLError) as error:
        raise ValueError(
            _wrong_value(error, layers) or f"cannot read the recipe: {' '.join(str(error).split())}"
        ) from error


def _wrong_value(error: Exception, layers: Sequence[DictConfig]) -> str | None:
    """What is wrong with a value that is of another kind than its key wants; `None` for any other error."""
    key = str(getattr(error, "full_key", None) or "").partition("[")[0]
    wanted = {entry.name: str(entry.type) for entry in dataclasses.fields(Recipe)}.get(key)
    given = [layer[key] for layer in layers[1:] if key in layer]
    if wanted is None or not given:
        return None
    words = next(words for kind, words in _KINDS.items() if kind in wanted)
    return f"{key} is {given[-1]!r}: give {words}{' or null' if 'None' in wanted else ''}."


def _read_chain(file: Path, children: tuple[Path, ...] = ()) -> list[DictConfig]:
    """Read a file and what it extends, the last ancestor first."""
    if file.resolve() in (child.resolve() for child in children):
        chain = " -> ".join(one.name for one in (*children, file))
        raise ValueError(f"recipe {file.name} extends itself ({chain}); take one `extends` out.")
    loaded = OmegaConf.load(file)
    if not isinstance(loaded, DictConfig):
        raise ValueError(f"recipe {str(file)!r} is no mapping; write one `key: value` a line.")
    parent = loaded.pop("extends", None)
    _check_keys(loaded, f"recipe {file.name}")
    if parent is None:
        return [loaded]
    if not isinstance(parent, str):
        raise ValueError(f"recipe {file.name} extends {parent!r}; give one recipe's name or YAML file.")
    try:
        # A file is meant from where this one lies, not from where the command runs.
        found = find_recipe(str(file.parent / parent) if Path(parent).suffix in SUFFIXES else parent)
    except ValueError as error:
        raise ValueError(f"recipe {file.name} extends {parent!r}: {error}") from error
    layers = _read_chain(found, (*children, file))
    for layer in layers:
        layer.pop("published", None)
    return [*layers, loaded]


def _check_keys(loaded, where: str) -> None:
    known = [item.name for item in dataclasses.fields(Recipe)]
    for key in loaded:
        if key not in known:
            near = difflib.get_close_matches(str(key), known, n=1)
            mend = f"did you mean {near[0]!r}?" if near else f"known keys: {', '.join(known)}."
            raise ValueError(f"unknown key {key!r} in {where}; {mend}")


def _refuse_interpolations(values: Mapping[str, Any]) -> None:
    """Refuse `${...}` where it cannot stand for itself, as text."""
    for entry in dataclasses.fields(Recipe):
        value = values.get(entry.name)
        if isinstance(value, str) and "${" in value and "str" not in str(entry.type):
            raise ValueError(f"{entry.name} is {value!r}, which recipes do not fill in; write the value itself.")


__all__ = ["SUFFIXES", "find_recipe", "first_phase_recipe", "list_recipes", "load_recipe", "recipe_folders"]
