# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""`cssfe card`: a run to its model card."""

import argparse
import json
from pathlib import Path

from ._verbs import AddVerb


def register(add: AddVerb) -> None:
    """Declare `cssfe card`."""
    card = add("card", _card, "Render the model card of a trained model again.")
    card.add_argument("model", help="folder that `cssfe train` wrote")
    card.add_argument("--model_id", help="repository name for the card's snippet (default: the folder)")


def _card(options: argparse.Namespace) -> None:
    from ..configuration_cssfe import CSSFEConfig
    from ..hub.model_card import render_model_card
    from ..training.run_folder import write_whole

    folder = Path(options.model)
    if not (folder / "results.json").is_file():
        raise ValueError(f"{options.model!r} holds no results.json; give a folder that `cssfe train` wrote.")
    results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    card = render_model_card(results, CSSFEConfig.from_pretrained(folder), options.model_id or options.model)
    write_whole(folder / "README.md", lambda file: file.write_text(card, encoding="utf-8"))
    print(folder / "README.md")


__all__ = ["register"]
