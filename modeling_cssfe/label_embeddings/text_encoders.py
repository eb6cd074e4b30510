# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""Class names through a CLIP text encoder.

The encoder runs once, when a model is built; its output is part of the model from then on. Source: the CSSFE paper,
section 3 (frozen CLIP text encoder on "a photo of a {class}.").
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from .checks import check_embeddings, check_label_names


DEFAULT_TEMPLATE = "a photo of a {}."
_CLIP_TYPES = ("clip", "clip_text_model")


def encode_label_names(
    model: str | os.PathLike,
    label_names: Sequence[str],
    *,
    template: str = DEFAULT_TEMPLATE,
    batch_size: int = 256,
) -> tuple[torch.Tensor, dict[str, Any]]:
    """Embed class names with a CLIP text encoder: its projected, L2-normalised text embeddings.

    Args:
        model: Hub name or local folder of a CLIP model with its tokenizer; only its safetensors weights are read.
        label_names: The classes; underscores become spaces in the text.
        template: Text around the name, with `{}` in its place.
        batch_size: Texts encoded at a time.

    Returns:
        `(classes, dim)` fp32 of unit length, and the provenance: model, revision, template.

    Raises:
        ValueError: The template has no single `{}`, the model is no CLIP model, or it cannot be loaded.
        FileNotFoundError: A local folder does not exist.
    """
    names = check_label_names(label_names)
    if template.count("{}") != 1 or template.replace("{}", "").count("{") or template.replace("{}", "").count("}"):
        raise ValueError(f"template {template!r} must hold one {{}}, the place of the class name, and no other brace.")
    source = os.fspath(model)
    tokenizer, encoder = _load(source)
    texts = [template.format(name.replace("_", " ")) for name in names]
    limit = encoder.config.max_position_embeddings
    rows = []
    with torch.inference_mode():
        for start in range(0, len(texts), batch_size):
            tokens = tokenizer(
                texts[start : start + batch_size], padding=True, truncation=True, max_length=limit, return_tensors="pt"
            )
            output = encoder(input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"])
            rows.append(torch.nn.functional.normalize(output.text_embeds.float(), dim=-1))
    embeddings = check_embeddings(torch.cat(rows), len(names), f"the output of {source!r}")
    provenance = {
        # The last part of a local path says which model it was without telling where somebody keeps it.
        "source": Path(source).name if Path(source).is_dir() else source,
        "kind": "clip",
        "revision": getattr(encoder.config, "_commit_hash", None),
        "template": template,
    }
    return embeddings, provenance


def _load(source: str) -> tuple[Any, Any]:
    from transformers import AutoConfig, AutoTokenizer, CLIPTextModelWithProjection

    if not Path(source).is_dir() and (source.startswith((".", "/", "~")) or source.count("/") > 1):
        raise FileNotFoundError(
            f"there is no folder {source!r}; pass a CLIP folder, a Hub name such as 'openai/clip-vit-base-patch32', a "
            "*.safetensors file, or 'random'."
        )
    try:
        kind = AutoConfig.from_pretrained(source).model_type
        if kind not in _CLIP_TYPES:
            raise _NotClipError(f"{source!r} is a {kind!r} model; label embeddings need a CLIP text encoder.")
        tokenizer = AutoTokenizer.from_pretrained(source)
        encoder = CLIPTextModelWithProjection.from_pretrained(source, use_safetensors=True, dtype=torch.float32)
    except _NotClipError as error:
        raise ValueError(str(error)) from None
    except Exception as error:
        # The Hub client, transformers and tokenizers raise errors of a dozen kinds here, many of several lines.
        reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise ValueError(
            f"the text encoder {source!r} cannot be loaded ({reason[:300]}); check the name and the network, or pass a "
            "folder, a *.safetensors file, or 'random'."
        ) from error
    return tokenizer, encoder.eval()


class _NotClipError(Exception):
    """The model was found, but is of another kind."""


__all__ = ["DEFAULT_TEMPLATE", "encode_label_names"]
