# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""Text towers of open_clip, where that library is installed.

| source | is |
|---|---|
| `open_clip:ViT-B-32/laion2b_s34b_b79k` | an architecture of the library and its weights by tag |
| `open_clip:hf-hub:OWNER/NAME` | a repository of the Hub with `open_clip_config.json` |
| `open_clip:FOLDER` | a local folder of that layout |

The library builds the model and its tokenizer; the weights are found here, as it would read pickled files too, and only
safetensors are read. A tag trained with the quick GELU gets it whatever the architecture's name says, where the library
only warns.
"""

import difflib
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from .cache import folder_digest
from .model_files import LoadedEncoder, UnsupportedEncoderError, one_line_errors


OPEN_CLIP = "open_clip:"
_HUB = "hf-hub:"
_EXAMPLE = "ViT-B-32/laion2b_s34b_b79k"
_WEIGHTS = ("open_clip_model.safetensors", "open_clip_pytorch_model.safetensors", "model.safetensors")
_SMALL = ("*.json", "*.txt", "*.model")  # configuration and tokenizer


def locate_open_clip(source: str, revision: str | None) -> tuple[dict[str, Any], Callable[[], LoadedEncoder]]:
    """Find a model of open_clip.

    Args:
        source: See the table above.
        revision: Branch, tag or commit of a Hub repository.

    Returns:
        Its origin, on which its values depend, and what loads it.

    Raises:
        ValueError: open_clip is not installed, it does not know the model or tag, or there are no safetensors weights.
        FileNotFoundError: A folder does not exist.
    """
    try:
        import open_clip
    except ImportError:
        raise ValueError(
            f"{source!r} needs open_clip, which is not installed; run 'pip install open_clip_torch', or pass a model "
            "of transformers."
        ) from None
    origin: dict[str, Any]
    rest = source.removeprefix(OPEN_CLIP)
    with one_line_errors(source):
        if rest.startswith(_HUB):
            repository = rest.removeprefix(_HUB)
            folder = _download_small(repository, revision)
            origin = {"source": source, "revision": folder.name}
            return origin, lambda: _load(
                open_clip, f"local-dir:{folder}", _download_weights(repository, folder.name, _WEIGHTS, source), source
            )
    path = Path(rest.removeprefix("local-dir:")).expanduser()
    if path.is_dir():
        if revision is not None:
            raise ValueError(f"{source!r} is a folder, which has no revision; leave revision={revision!r} out.")
        # The library knows folders by this file; a folder without it might be a model of transformers.
        if not (path / "open_clip_config.json").is_file():
            raise ValueError(f"{source!r} holds no open_clip_config.json; pass a folder that open_clip saved.")
        origin = {"source": f"{OPEN_CLIP}{path.resolve().name}", "revision": None, "sha256": folder_digest(path)}
        found = [path / name for name in _WEIGHTS if (path / name).is_file()]
        if not found:
            raise ValueError(_no_weights(source, _WEIGHTS))
        return origin, lambda: _load(open_clip, f"local-dir:{path}", found[0], source)
    name, _, tag = rest.rpartition("/")
    if rest.startswith(("local-dir:", ".", "/", "~")) or name.count("/"):
        raise FileNotFoundError(f"there is no folder {str(path)!r}; pass a folder that open_clip saved, or NAME/TAG.")
    if revision is not None:
        raise ValueError(f"{source!r} is named by a tag, which has no revision; leave revision={revision!r} out.")
    if not name or not tag:
        raise ValueError(f"{source!r} must name a model and its weights, such as 'open_clip:{_EXAMPLE}'.")
    known = open_clip.list_models()
    if name not in known:
        hint = _nearest(name, known)
        raise ValueError(f"open_clip has no model {name!r}{hint} (open_clip.list_models() lists its {len(known)}).")
    tags = open_clip.list_pretrained_tags_by_model(name)
    if tag not in tags:
        raise ValueError(f"open_clip has no weights {tag!r} of {name}, only {', '.join(tags)}{_nearest(tag, tags)}.")
    settings = open_clip.get_pretrained_cfg(name, tag)
    if not settings.get("hf_hub"):
        raise ValueError(f"the weights of {source!r} are not published as safetensors; pass another tag.")
    repository, _, file = settings["hf_hub"].rpartition("/")
    names = (f"{Path(file).stem}.safetensors",) if file else _WEIGHTS
    with one_line_errors(source):
        commit = _download_small(repository, None).name
    quick = bool(settings.get("quick_gelu", False))
    origin = {"source": source, "revision": commit, "quick_gelu": quick}
    return origin, lambda: _load(open_clip, name, _download_weights(repository, commit, names, source), source, quick)


def _load(open_clip: Any, name: str, weights: Path, source: str, quick_gelu: bool | None = None) -> LoadedEncoder:
    with one_line_errors(source):
        if quick_gelu is False and open_clip.get_model_config(name).get("quick_gelu", False):
            raise UnsupportedEncoderError(
                f"the weights of {source!r} were trained without the quick GELU of that model; take the model's name "
                "without '-quickgelu'."
            )
        # With these it loads nothing by itself, and says on the root logger that the model is random, which ends here.
        with _without_warnings():
            model = open_clip.create_model(
                name, load_weights=False, pretrained_text=False, force_quick_gelu=bool(quick_gelu)
            ).eval()
        open_clip.load_checkpoint(model, str(weights))
        tokenizer = open_clip.get_tokenizer(name)

    def encode(texts: list[str]) -> torch.Tensor:
        return model.encode_text(tokenizer(texts)).float()

    return LoadedEncoder(encode, {"kind": "open_clip"})


def _download_small(repository: str, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download

    return Path(snapshot_download(repository, revision=revision, allow_patterns=list(_SMALL)))


def _download_weights(repository: str, commit: str, names: tuple[str, ...], source: str) -> Path:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError

    for name in names:
        try:
            with one_line_errors(source):
                return Path(hf_hub_download(repository, name, revision=commit))
        except ValueError as error:
            if not isinstance(error.__cause__, EntryNotFoundError):
                raise
    raise ValueError(_no_weights(source, names))


@contextmanager
def _without_warnings() -> Iterator[None]:
    def is_error(record: logging.LogRecord) -> bool:
        return record.levelno > logging.WARNING

    root = logging.getLogger()
    root.addFilter(is_error)
    try:
        yield
    finally:
        root.removeFilter(is_error)


def _no_weights(source: str, names: tuple[str, ...]) -> str:
    return (
        f"{source!r} has no {' or '.join(names)} within reach, and other weight files are not read; save its weights "
        "so, or pass another model."
    )


def _nearest(given: str, known: list[str]) -> str:
    near = difflib.get_close_matches(given, known, n=1, cutoff=0.3)
    return f"; did you mean {near[0]!r}?" if near else ""


__all__ = ["OPEN_CLIP", "locate_open_clip"]
