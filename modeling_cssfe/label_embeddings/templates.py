# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""The text around a class name: one template, several, or templates of its own for a class.

A template holds one `{}`, the place of the name. Several templates give several texts, whose embeddings are averaged:
prompt ensembling, Radford et al., "Learning Transferable Visual Models From Natural Language Supervision", 2021,
section 3.1.4. A mapping gives each class its own, where a text without `{}` is taken as it stands, and the key `*`
serves all classes that have no entry.
"""

import difflib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from ..common.names import name_some


DEFAULT_TEMPLATE = "a photo of a {}."
OTHERS = "*"

Templates = str | Sequence[str] | Mapping[str, str | Sequence[str]]


def texts_of_names(names: Sequence[str], template: Templates, *, underscores_to_spaces: bool = True) -> list[list[str]]:
    """Return the texts of every class, at least one each.

    Args:
        names: The class names.
        template: One template, several, or a mapping from class name (or `*`) to these.
        underscores_to_spaces: Whether the name's underscores become spaces.

    Raises:
        ValueError: A template is malformed, or the mapping lacks a class or names one that is not there.
        TypeError: A template is no text.
    """
    own: dict[str, list[str]] = {}
    if isinstance(template, Mapping):
        own = {str(name): _listed(value, f"the template of {name!r}") for name, value in template.items()}
        _check_keys(names, own)
        shared = own.get(OTHERS, [])
    else:
        shared = _listed(template, "template")
    for one in shared:
        if one.count("{}") != 1:
            raise ValueError(
                f"template {one!r} must hold one {{}}, the place of the class name, and no other brace; write one such "
                f"as {DEFAULT_TEMPLATE!r}."
            )
    texts = []
    for name in names:
        inserted = name.replace("_", " ") if underscores_to_spaces else name
        texts.append([one.replace("{}", inserted) for one in own.get(name, shared)])
    return texts


def described(template: Templates) -> str | list[str] | dict[str, Any]:
    """Return templates as JSON holds them; a list of one is that one."""
    if isinstance(template, Mapping):
        return {str(name): described(value) for name, value in template.items()}
    if isinstance(template, str):
        return template
    return template[0] if len(template) == 1 else list(template)


def load_templates(path: str | os.PathLike) -> Templates:
    """Read templates from a JSON or YAML file: a text, a list of texts, or a mapping from class names to these.

    Args:
        path: A file that ends in `.json`, `.yaml` or `.yml`.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It has another ending, cannot be read, or holds something else; a key stands twice.
    """
    path = Path(path)
    if path.suffix not in (".json", ".yaml", ".yml"):
        raise ValueError(f"the templates file {str(path)!r} ends in {path.suffix!r}; give a .json, .yaml or .yml file.")
    if not path.is_file():
        raise FileNotFoundError(f"there is no templates file {str(path)!r}; check the path.")
    try:
        text = path.read_text(encoding="utf-8")
        if path.suffix == ".json":
            value = json.loads(text, object_pairs_hook=_once)
        else:
            value = yaml.load(text, Loader=_OnceLoader)
    except (ValueError, TypeError, yaml.YAMLError) as error:
        raise ValueError(f"the templates file {str(path)!r} cannot be read ({' '.join(str(error).split())}).") from None
    entries = value.items() if isinstance(value, dict) else [("template", value)]
    for key, entry in entries:
        texts = entry if isinstance(entry, list) else [entry]
        if not isinstance(key, str) or not texts or not all(isinstance(one, str) for one in texts):
            raise ValueError(
                f"the templates file {str(path)!r} holds {key!r}: {entry!r}; give a text, a list of texts, or a "
                "mapping from class names to these, names such as 'no' in quotes."
            )
    return value


def _listed(value: Any, where: str) -> list[str]:
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, Sequence) or not all(isinstance(one, str) for one in texts):
        raise TypeError(f"{where} must be a text or a list of texts, got {value!r}.")
    if not texts:
        raise ValueError(f"{where} is an empty list; give one text at least.")
    for one in texts:
        rest = one.replace("{}", "", 1)
        if "{" in rest or "}" in rest or not rest.strip() + one.strip():
            raise ValueError(
                f"template {one!r} must hold one {{}}, the place of the class name, and no other brace; mend {where}."
            )
    return list(texts)


def _check_keys(names: Sequence[str], own: Mapping[str, Any]) -> None:
    known = set(names)
    for key in own:
        if key != OTHERS and key not in known:
            near = difflib.get_close_matches(key, names, n=1)
            hint = f"; did you mean {near[0]!r}" if near else ""
            raise ValueError(
                f"there is a template for {key!r}, which is no label{hint}? The labels are {name_some(names)}."
            )
    lacking = [name for name in names if name not in own]
    if lacking and OTHERS not in own:
        raise ValueError(
            f"there is no template for {name_some(lacking)}; add one, or one for all others as {OTHERS!r}."
        )


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"{key!r} stands twice; keep one")
        found[key] = value
    return found


class _OnceLoader(yaml.SafeLoader):
    """A safe loader that refuses a key that stands twice, which YAML readers otherwise settle in silence."""

    def construct_mapping(self, node, deep=False):
        _once([(self.construct_object(key, deep=True), None) for key, _ in node.value])
        return super().construct_mapping(node, deep)


__all__ = ["DEFAULT_TEMPLATE", "Templates", "described", "load_templates", "texts_of_names"]
