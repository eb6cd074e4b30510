# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""What a sentence-transformers model does after its Transformer, read from its own files.

`modules.json` lists the modules: a Transformer, Pooling, and then any of Dense and Normalize. Anything else is refused
by name, as leaving a module out would give other vectors without a word. Format: that of the sentence-transformers
library (Reimers and Gurevych, "Sentence-BERT", 2019), old and new keys.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

import torch
import torch.nn.functional as F

from .model_files import ModelFiles, UnsupportedEncoderError


def pool_mean(hidden: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Mean of the token vectors `(texts, tokens, dim)` where the mask `(texts, tokens)` is 1."""
    weight = mask.unsqueeze(-1).to(hidden.dtype)
    return (hidden * weight).sum(1) / weight.sum(1).clamp(min=1e-9)


def _pool_first(hidden: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    return hidden[torch.arange(len(hidden)), mask.int().argmax(1)]


def _pool_max(hidden: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    return hidden.masked_fill(mask.unsqueeze(-1) == 0, -torch.inf).amax(1)


def _pool_last(hidden: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    return hidden[torch.arange(len(hidden)), mask.shape[1] - 1 - mask.int().flip(1).argmax(1)]


POOLING: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "cls": _pool_first,
    "max": _pool_max,
    "mean": pool_mean,
    "lasttoken": _pool_last,
}
# Older files say `"pooling_mode_cls_token": true`; several are joined in this order.
_OLD_KEYS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
_ACTIVATIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "Tanh": torch.tanh,
    "Identity": lambda x: x,
    "ReLU": F.relu,
    "GELU": F.gelu,
    "Sigmoid": torch.sigmoid,
    "SiLU": F.silu,
}


@dataclass
class SentenceModules:
    """The modules of a sentence encoder.

    Attributes:
        subfolder: Where the Transformer lies.
        max_length: Tokens of a text at most; None if the model does not say.
        lower_case: Whether texts are lower-cased first.
        prompt: Text before every text.
        pooling: Modes, joined along the dimension.
        steps: What follows, `(texts, dim) -> (texts, dim)`.
        described: All of these in words.
    """

    subfolder: str = ""
    max_length: int | None = None
    lower_case: bool = False
    prompt: str = ""
    pooling: list[str] = field(default_factory=lambda: ["mean"])
    steps: list[Callable[[torch.Tensor], torch.Tensor]] = field(default_factory=list)
    described: list[str] = field(default_factory=list)

    def pool(self, hidden: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Token vectors `(texts, tokens, dim)` and mask `(texts, tokens)` to text vectors `(texts, dim)`."""
        vectors = torch.cat([POOLING[mode](hidden, mask) for mode in self.pooling], dim=-1)
        for step in self.steps:
            vectors = step(vectors)
        return vectors


def read_sentence_modules(files: ModelFiles) -> SentenceModules | None:
    """Return the modules of a sentence-transformers model, or None if the model is no such one.

    Raises:
        UnsupportedEncoderError: A module, a mode or an option is not supported; it is named.
    """
    listed = files.read_json("modules.json")
    if listed is None:
        return None
    kinds, found = [], SentenceModules()
    for module in listed:
        kind, path = str(module["type"]).rpartition(".")[2], str(module["path"])
        inside = PurePosixPath(path)
        if inside.is_absolute() or ".." in inside.parts or not str(module["type"]).startswith("sentence_transformers."):
            raise _unsupported(files, f"the module {module['type']!r} at {path!r}")
        kinds.append(kind)
        prefix = f"{path}/" if path else ""
        if kind == "Transformer":
            found.subfolder = path
            _read_transformer(files, prefix, found)
        elif kind == "Pooling":
            _read_pooling(files, files.read_json(f"{prefix}config.json"), found)
        elif kind == "Normalize":
            _check_flow(files, files.read_json(f"{prefix}config.json", optional=True) or {}, kind)
            found.steps.append(lambda vectors: F.normalize(vectors, dim=-1))
        elif kind == "Dense":
            found.steps.append(_dense(files, prefix))
        else:
            raise _unsupported(files, f"the module {kind}")
        found.described.append(f"Pooling({', '.join(found.pooling)})" if kind == "Pooling" else kind)
    if kinds[:2] != ["Transformer", "Pooling"] or kinds.count("Transformer") + kinds.count("Pooling") != 2:
        raise _unsupported(files, f"the order of modules {', '.join(kinds)}")
    return found


def _read_transformer(files: ModelFiles, prefix: str, found: SentenceModules) -> None:
    # The library's old names of this file carry the architecture's name.
    names = ("bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
    options: dict[str, Any] = {}
    for name in names:
        options = files.read_json(f"{prefix}sentence_{name}_config.json", optional=True) or {}
        if options:
            break
    text = (options.get("modality_config") or {}).get("text", {})
    if text.get("method", "forward") != "forward" or text.get("method_output_name", "last_hidden_state") not in (
        "last_hidden_state",
        ["last_hidden_state"],
    ):
        raise _unsupported(files, f"text through {text}")
    found.max_length = options.get("max_seq_length")
    found.lower_case = bool(options.get("do_lower_case", False))
    general = files.read_json("config_sentence_transformers.json", optional=True) or {}
    chosen = general.get("default_prompt_name")
    if chosen is not None:
        found.prompt = (general.get("prompts") or {}).get(chosen, "")


def _read_pooling(files: ModelFiles, options: dict[str, Any] | None, found: SentenceModules) -> None:
    if options is None:
        raise _unsupported(files, "a Pooling module that has no config.json")
    modes = options.get("pooling_mode")
    if modes is None:
        modes = [mode for key, mode in _OLD_KEYS.items() if options.get(key)] or ["mean"]
    found.pooling = [modes] if isinstance(modes, str) else list(modes)
    for mode in found.pooling:
        if mode not in POOLING:
            raise _unsupported(files, f"the pooling mode {mode!r}")
    if found.prompt and not options.get("include_prompt", True):
        raise _unsupported(files, "pooling that leaves the prompt out")


def _dense(files: ModelFiles, prefix: str) -> Callable[[torch.Tensor], torch.Tensor]:
    from safetensors.torch import load_file

    options = files.read_json(f"{prefix}config.json") or {}
    _check_flow(files, options, "Dense")
    function = str(options.get("activation_function", "torch.nn.modules.activation.Tanh"))
    activation = function.rpartition(".")[2]
    if not function.startswith("torch.") or activation not in _ACTIVATIONS:
        raise _unsupported(files, f"the activation {function!r}")
    if options.get("use_residual"):
        raise _unsupported(files, "a Dense module with a residual")
    path = files.find(f"{prefix}model.safetensors")
    if path is None:
        raise UnsupportedEncoderError(
            f"{files.source!r} has no {prefix}model.safetensors, and other weight files are not read; load the model "
            "with a recent sentence-transformers and save it again."
        )
    weights = {name: tensor.float() for name, tensor in load_file(path).items()}
    apply = _ACTIVATIONS[activation]
    return lambda vectors: apply(F.linear(vectors, weights["linear.weight"], weights.get("linear.bias")))


def _check_flow(files: ModelFiles, options: dict[str, Any], kind: str) -> None:
    for key in ("module_input_name", "module_output_name"):
        if options.get(key) not in (None, "sentence_embedding"):
            raise _unsupported(files, f"a {kind} module on {options[key]!r}")


def _unsupported(files: ModelFiles, what: str) -> UnsupportedEncoderError:
    return UnsupportedEncoderError(
        f"{files.source!r} is a sentence encoder with {what}, which is not supported; embed the names with its own "
        "library and save_label_embeddings, or take another encoder."
    )


__all__ = ["POOLING", "SentenceModules", "pool_mean", "read_sentence_modules"]
