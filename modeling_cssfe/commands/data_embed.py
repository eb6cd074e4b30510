# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""`cssfe data embed`: label names to a file of label embeddings."""

import argparse

from ._verbs import AddVerb
from .data import add_data_options, data_options


def register(add: AddVerb) -> None:
    """Declare `cssfe data embed`."""
    embed = add("data embed", _embed, "Embed the label names of a data set, and write them to a file.")
    names = embed.add_mutually_exclusive_group(required=True)
    names.add_argument("--data", help="data whose label names are embedded: folder, file or `datasets` name")
    names.add_argument("--label_names", nargs="+", metavar="NAME", help="the label names themselves")
    embed.add_argument(
        "--source",
        default="openai/clip-vit-base-patch32",
        help="text encoder (Hub name or folder: CLIP, SigLIP, sentence encoder, BERT), open_clip:NAME/TAG, word "
        "vectors (glove:FILE, or *.txt, *.vec, *.bin), *.safetensors file, or random",
    )
    embed.add_argument("--revision", help="branch, tag or commit of a Hub source")
    texts = embed.add_mutually_exclusive_group()
    texts.add_argument(
        "--template",
        nargs="+",
        help="text around a name, {} in its place; several are averaged; unless given, 'a photo of a {}.', and '{}' "
        "for word vectors",
    )
    texts.add_argument(
        "--templates_file", metavar="FILE", help="JSON or YAML: a text, a list, or a mapping from names (or *) to these"
    )
    embed.add_argument("--no_normalize", action="store_true", help="do not scale embeddings to length 1")
    embed.add_argument("--dim", type=int, help="dimension of random embeddings; checked for all others")
    embed.add_argument("--seed", type=int, default=0, help="seed of random embeddings")
    embed.add_argument(
        "--cache_dir", help="cache of text encoders' output, in place of cssfe/label_embeddings in HF_HOME"
    )
    embed.add_argument("--no_cache", action="store_true", help="neither read nor write that cache")
    embed.add_argument("--output", required=True, metavar="FILE.safetensors", help="file to write")
    add_data_options(embed, labels_only=True)


def _embed(options: argparse.Namespace) -> None:
    from ..label_embeddings import check_output, load_templates, resolve_label_embeddings, save_label_embeddings

    check_output(options.output)  # before an encoder is loaded in vain
    if options.data is None:
        label_names = options.label_names
    else:
        from ..data import label_names_of, load_images

        label_names = label_names_of(
            next(iter(load_images(options.data, **data_options(options, labels_only=True)).values()))
        )
    template = load_templates(options.templates_file) if options.templates_file else options.template
    embeddings, provenance = resolve_label_embeddings(
        options.source,
        label_names,
        seed=options.seed,
        dim=options.dim,
        template=template,
        normalize=not options.no_normalize,
        revision=options.revision,
        cache_dir=options.cache_dir,
        use_cache=not options.no_cache,
    )
    save_label_embeddings(options.output, embeddings, label_names, provenance)
    print(f"{options.output}: {embeddings.shape[0]} labels of {embeddings.shape[1]} dimensions from {options.source}")


__all__ = ["register"]
