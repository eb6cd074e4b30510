# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""`cssfe card`: a run, and images if there are some, to its model card."""

import argparse
import sys

from ._verbs import AddVerb


def register(add: AddVerb) -> None:
    """Declare `cssfe card`."""
    card = add("card", _card, "Write the model card of a trained model, with intervals and pictures if given data.")
    card.add_argument("model", help="folder that `cssfe train` or `save_pretrained` wrote")
    card.add_argument("--data", help="images to judge it on: lt_digits, folder, file or `datasets` name")
    card.add_argument("--split", help="split to judge (default: that of the run's last figures)")
    card.add_argument("--output", metavar="DIR", help="folder for the card and its figures (default: the model's)")
    card.add_argument("--model_id", default=".", help="repository name for the card's snippet (default: the folder)")
    card.add_argument("--license", help="the Hub's identifier, such as apache-2.0 (default: that of an earlier card)")
    card.add_argument(
        "--no_pictures", action="store_true", help="show no images of the data, for which others may hold the rights"
    )
    card.add_argument("--bootstrap", type=int, default=1000, help="resamples of the intervals")
    card.add_argument("--seed", type=int, default=0, help="seed of the resamples")
    card.add_argument("--batch_size", type=int, default=32, help="images a step")
    card.add_argument("--num_workers", type=int, default=0, help="loader processes")


def _card(options: argparse.Namespace) -> None:
    from ..hub.card_facts import read_card_facts
    from ..hub.card_writing import write_card

    if options.seed < 0:
        raise ValueError(f"seed is {options.seed}; give a whole number >= 0.")
    if options.split and not options.data:
        raise ValueError(f"--split {options.split!r} is a split of no data; give --data.")
    if not options.data and read_card_facts(options.model).outdated:
        print("cssfe card: note: card.json is of other weights; give --data to judge these.", file=sys.stderr)
    written = write_card(
        options.model,
        options.data,
        split=options.split,
        output=options.output,
        model_id=options.model_id,
        license=options.license,
        pictures=not options.no_pictures,
        resamples=options.bootstrap,
        seed=options.seed,
        batch_size=options.batch_size,
        num_workers=options.num_workers,
    )
    for file in written:
        print(file)


__all__ = ["register"]
