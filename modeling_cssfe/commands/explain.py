# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""`cssfe explain`: an image to class activation maps."""

import argparse

from ._verbs import AddVerb


def register(add: AddVerb) -> None:
    """Declare `cssfe explain`."""
    explain = add("explain", _explain, "Draw class activation maps before and after enhancement.")
    explain.add_argument("model", help="folder or Hub repository of a trained model")
    explain.add_argument("image", help="image file")
    explain.add_argument("--labels", nargs="+", metavar="LABEL", help="label names (default: the highest scores)")
    explain.add_argument("--top_k", type=int, default=3, help="labels drawn where none are named")
    explain.add_argument("--output", default="explanation.png", help="PNG or SVG file")


def _explain(options: argparse.Namespace) -> None:
    from ..data import decode_image
    from ..explain import compute_label_maps, draw_label_maps
    from ..training.evaluation import load_trained_model

    image = decode_image(options.image)
    model, processor = load_trained_model(options.model)
    maps = compute_label_maps(model, processor, image, options.labels, options.top_k)
    draw_label_maps(image, maps, options.output)
    print(f"{options.output}: " + ", ".join(f"{entry.label} {entry.score:.2f}" for entry in maps))


__all__ = ["register"]
