# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""Embed the label names of a data set, or names given one by one, and write them to a safetensors file."""

import argparse
import sys

from modeling_cssfe.data import label_names_of, load_images
from modeling_cssfe.label_embeddings import DEFAULT_TEMPLATE, resolve_label_embeddings, save_label_embeddings


def main(arguments: list[str] | None = None) -> int:
    """Run the script; return its exit code: 0, or 1 after a one-line error."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    names = parser.add_mutually_exclusive_group(required=True)
    names.add_argument("--data", help="data set whose label names are embedded: anything that `load_images` takes")
    names.add_argument("--label_names", nargs="+", metavar="NAME", help="the label names themselves")
    parser.add_argument(
        "--source",
        default="openai/clip-vit-base-patch32",
        help="CLIP model (Hub name or folder), *.safetensors file, or 'random'",
    )
    parser.add_argument("--template", default=DEFAULT_TEMPLATE, help="text around a name, {} in its place")
    parser.add_argument("--dim", type=int, help="dimension of random embeddings; checked for all others")
    parser.add_argument("--seed", type=int, default=0, help="seed of random embeddings")
    parser.add_argument("--output", required=True, metavar="FILE.safetensors", help="file to write")
    options = parser.parse_args(arguments)
    try:
        label_names = options.label_names or label_names_of(next(iter(load_images(options.data).values())))
        embeddings, provenance = resolve_label_embeddings(
            options.source, label_names, seed=options.seed, dim=options.dim, template=options.template
        )
        save_label_embeddings(options.output, embeddings, label_names, provenance)
    except (ValueError, TypeError, OSError) as error:
        print(f"embed_labels: {error}", file=sys.stderr)
        return 1
    print(f"{options.output}: {embeddings.shape[0]} labels of {embeddings.shape[1]} dimensions from {options.source}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
