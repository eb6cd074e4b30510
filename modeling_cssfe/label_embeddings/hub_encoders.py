# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""Text encoders of transformers: the text towers of CLIP and SigLIP, sentence encoders, BERT and its relatives.

| model | vector of a text |
|---|---|
| CLIP | projected state of the end token (Radford et al., 2021, section 2.4) |
| SigLIP | its head on the last token of the padded text (Zhai et al., "Sigmoid Loss for ...", 2023) |
| sentence-transformers model (`modules.json`) | what its own modules say |
| any other encoder of text | mean of its last hidden states over the attention mask |

Only safetensors weights are read, and no code that comes with a model is run.
"""

import warnings
from typing import Any

import torch

from .model_files import LoadedEncoder, ModelFiles, UnsupportedEncoderError, one_line_errors
from .sentence_modules import SentenceModules, read_sentence_modules


CLIP_TYPES = ("clip", "clip_text_model")
SIGLIP_TYPES = ("siglip", "siglip_text_model")


def load_hub_encoder(files: ModelFiles) -> LoadedEncoder:
    """Load the text encoder of a folder or Hub repository.

    Raises:
        ValueError: It cannot be loaded, or is no text encoder; one line says why.
    """
    with one_line_errors(files.source):
        return _load(files)


def _load(files: ModelFiles) -> LoadedEncoder:
    from transformers import AutoConfig, AutoTokenizer, CLIPTextModelWithProjection, SiglipTextModel

    # Only a sentence encoder of the oldest layout has no config.json at its root.
    modules = None if files.find("config.json") else read_sentence_modules(files)
    where = files.loading_arguments(modules.subfolder if modules else "")
    config = AutoConfig.from_pretrained(**where)
    kind = config.model_type
    if kind in CLIP_TYPES or kind in SIGLIP_TYPES:
        model_class = CLIPTextModelWithProjection if kind in CLIP_TYPES else SiglipTextModel
        tokenizer = AutoTokenizer.from_pretrained(**where)
        tower = _weights(model_class, where, files.source)
        encode = _clip if kind in CLIP_TYPES else _siglip
        provenance = {"kind": "clip" if kind in CLIP_TYPES else "siglip"}
        return LoadedEncoder(lambda texts: encode(tower, tokenizer, texts), provenance)
    if any(hasattr(config, part) for part in ("vision_config", "audio_config")):
        raise UnsupportedEncoderError(
            f"{files.source!r} is a {kind!r} model, whose text part is not supported; pass a CLIP or SigLIP model, a "
            "sentence encoder, BERT or the like."
        )
    modules = modules or _modules_if_known(files)
    where = files.loading_arguments(modules.subfolder if modules else "")
    tokenizer = AutoTokenizer.from_pretrained(**where)
    if tokenizer.pad_token is None:
        # Decoders have none. Which token pads is all the same, as the mask leaves it out; without a mask it is not.
        if tokenizer.eos_token is None or "attention_mask" not in tokenizer.model_input_names:
            raise UnsupportedEncoderError(
                f"the tokenizer of {files.source!r} has no padding token; pass another model."
            )
        tokenizer.pad_token = tokenizer.eos_token
    encoder = _text_encoder(config, where, files.source)
    limit = _limit(tokenizer, config, modules)
    described: dict[str, Any]
    if modules is None:
        described = {"kind": "text_encoder", "model_type": kind, "pooling": "mean"}
        modules = SentenceModules()
    else:
        described = {"kind": "sentence_encoder", "model_type": kind, "modules": modules.described}
        if modules.prompt:
            described["prompt"] = modules.prompt
    chosen = modules
    return LoadedEncoder(lambda texts: _hidden(encoder, tokenizer, texts, chosen, limit), described)


def _clip(tower: Any, tokenizer: Any, texts: list[str]) -> torch.Tensor:
    limit = tower.config.max_position_embeddings
    tokens = _tokens(tokenizer, texts, limit, padding=True)
    return tower(input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"]).text_embeds.float()


def _siglip(tower: Any, tokenizer: Any, texts: list[str]) -> torch.Tensor:
    # It was trained on texts padded to full length, with every position attended to.
    tokens = _tokens(tokenizer, texts, tower.config.max_position_embeddings, padding="max_length")
    return tower(input_ids=tokens["input_ids"]).pooler_output.float()


def _hidden(
    encoder: Any, tokenizer: Any, texts: list[str], modules: SentenceModules, limit: int | None
) -> torch.Tensor:
    texts = [modules.prompt + text for text in texts]
    if modules.lower_case:
        texts = [text.lower() for text in texts]
    tokens = _tokens(tokenizer, texts, limit, padding=True)
    return modules.pool(encoder(**tokens).last_hidden_state.float(), tokens["attention_mask"])


def _tokens(tokenizer: Any, texts: list[str], limit: int | None, padding: bool | str) -> Any:
    if limit is not None:
        lengths = map(len, tokenizer(texts, verbose=False)["input_ids"])
        for text, length in zip(texts, lengths, strict=True):
            if length > limit:
                warnings.warn(
                    f"the text {text[:60] + '...'!r} has {length} tokens, more than the {limit} of the encoder; its "
                    "end is cut off.",
                    stacklevel=2,
                )
    options = {} if limit is None else {"truncation": True, "max_length": limit}
    return tokenizer(texts, padding=padding, return_tensors="pt", **options)


def _limit(tokenizer: Any, config: Any, modules: SentenceModules | None) -> int | None:
    if modules is not None and modules.max_length is not None:
        return int(modules.max_length)
    limits = (tokenizer.model_max_length, getattr(config, "max_position_embeddings", None))
    # transformers writes "no limit" as 1e30.
    known = [int(limit) for limit in limits if limit is not None and 0 < limit < 1e9]
    return min(known, default=None)


def _text_encoder(config: Any, where: dict[str, Any], source: str) -> Any:
    from transformers import AutoModel, AutoModelForTextEncoding
    from transformers.models.auto.modeling_auto import MODEL_FOR_TEXT_ENCODING_MAPPING_NAMES

    # AutoModelForTextEncoding knows the encoder half of T5 and its like, but not every encoder.
    listed = config.model_type in MODEL_FOR_TEXT_ENCODING_MAPPING_NAMES
    if not listed and getattr(config, "is_encoder_decoder", False):
        raise UnsupportedEncoderError(
            f"{source!r} is a {config.model_type!r} model, an encoder and decoder in one; pass an encoder such as BERT."
        )
    encoder = _weights(AutoModelForTextEncoding if listed else AutoModel, where, source)
    if encoder.main_input_name != "input_ids":
        raise UnsupportedEncoderError(
            f"{source!r} is a {config.model_type!r} model, which reads {encoder.main_input_name}, not text; pass a "
            "text encoder."
        )
    return encoder


def _weights(model_class: Any, where: dict[str, Any], source: str) -> Any:
    model, report = model_class.from_pretrained(
        **where, use_safetensors=True, dtype=torch.float32, output_loading_info=True
    )
    # The pooler of BERT and its relatives is often not saved; its output is not used.
    missing = sorted(name for name in report["missing_keys"] if "pooler" not in name)
    if missing:
        raise UnsupportedEncoderError(
            f"{source!r} lacks {len(missing)} weights of its text encoder, such as {missing[0]!r}; pass a model that "
            "has them."
        )
    return model.eval()


def _modules_if_known(files: ModelFiles) -> SentenceModules | None:
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        files.find("modules.json")
    except LocalEntryNotFoundError:
        warnings.warn(
            f"without the Hub nobody knows whether {files.source!r} is a sentence encoder with modules of its own; the "
            "mean over its tokens is taken.",
            stacklevel=2,
        )
        return None
    return read_sentence_modules(files)


__all__ = ["CLIP_TYPES", "SIGLIP_TYPES", "load_hub_encoder"]
