# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""`cssfe losses` and `cssfe info`: what there is."""

import argparse

from ._verbs import AddVerb


def register(add: AddVerb) -> None:
    """Declare `cssfe losses` and `cssfe info`."""
    add("losses", _losses, "List the losses.")
    add("info", _info, "Show versions, hardware, shipped recipes and presets.")


def _losses(options: argparse.Namespace) -> None:
    from ..common.tables import show, text_table
    from ..losses import get_loss_entry, list_losses

    table = text_table(None, "loss", "what it does", "sampler")
    for entry in map(get_loss_entry, list_losses()):
        table.add_row(entry.name, entry.description, entry.sampler)
    show(table)


def _info(options: argparse.Namespace) -> None:
    from ..common.environment import describe_environment
    from ..common.tables import show, text_table
    from ..configuration_cssfe import ABLATIONS, PRESETS
    from ..recipes import list_recipes

    table = text_table(None, "what", "value")
    for key, value in describe_environment().items():
        table.add_row(key, "-" if value is None else value)
    table.add_section()
    table.add_row("presets", ", ".join(PRESETS))
    table.add_row("ablations", ", ".join(ABLATIONS))
    names = list_recipes()
    for prefix, what in (("lt_voc_", "recipes of LT-VOC"), ("lt_coco_", "recipes of LT-COCO"), ("", "other recipes")):
        own = [name for name in names if name.startswith(prefix)]
        names = [name for name in names if name not in own]
        table.add_row(what, ", ".join(own))
    show(table)


__all__ = ["register"]
