# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""Where a text encoder lies: a folder, or a repository of the Hub."""

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from .cache import folder_digest


ENDS = "or pass a folder, a *.safetensors file, or 'random'"


@dataclass(frozen=True)
class LoadedEncoder:
    """A text encoder, ready.

    Attributes:
        encode: Texts to `(texts, dim)`, as the encoder gives them.
        provenance: What is known of it; JSON can hold it.
    """

    encode: Callable[[list[str]], torch.Tensor]
    provenance: dict[str, Any]


class ModelFiles:
    """The files of a model by name, from its folder or from the Hub.

    Args:
        source: Folder or Hub name.
        revision: Branch, tag or commit of a Hub repository; `main` by default.

    Raises:
        FileNotFoundError: The source is a path, and there is no such folder.
        ValueError: A folder is given with a revision, or a file that is none of ours.
    """

    def __init__(self, source: str, revision: str | None = None):
        self.source = source
        self.folder = Path(source).expanduser() if Path(source).expanduser().is_dir() else None
        if self.folder is None and (source.startswith((".", "/", "~")) or source.count("/") > 1):
            if Path(source).expanduser().is_file():
                raise ValueError(
                    f"{source!r} is a file of a kind that holds no label embeddings; unpack an archive first, and pass "
                    "a *.safetensors file, word vectors (.txt, .vec, .bin), or a model's folder."
                )
            raise FileNotFoundError(
                f"there is no folder {source!r}; pass the folder of a CLIP model or another text encoder, a Hub name "
                "such as 'openai/clip-vit-base-patch32', a *.safetensors file, or 'random'."
            )
        if self.folder is not None and revision is not None:
            raise ValueError(f"{source!r} is a folder, which has no revision; leave revision={revision!r} out.")
        self.revision = revision or "main"

    @property
    def name(self) -> str:
        """The Hub name, or the last part of the folder's path: which model, without where somebody keeps it."""
        return self.source if self.folder is None else self.folder.resolve().name

    def origin(self) -> dict[str, Any]:
        """Hub name and commit, or the folder's name and the sha256 of its content.

        Raises:
            ValueError: The Hub gives no such repository.
        """
        if self.folder is not None:
            return {"source": self.name, "revision": None, "sha256": folder_digest(self.folder)}
        for name in ("config.json", "modules.json"):
            with one_line_errors(self.source):
                path = self.find(name)
            if path is not None:
                # .../snapshots/COMMIT/config.json
                return {"source": self.source, "revision": path.parent.name}
        raise ValueError(f"the text encoder {self.source!r} cannot be loaded (it has no config.json); {ENDS}.")

    def find(self, name: str) -> Path | None:
        """Return the local path of a file, or None if the model has no such file.

        Raises:
            LocalEntryNotFoundError: The Hub cannot be reached, so nobody knows.
        """
        if self.folder is not None:
            path = self.folder / name
            return path if path.is_file() else None
        from huggingface_hub import _CACHED_NO_EXIST, hf_hub_download, try_to_load_from_cache
        from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

        try:
            return Path(hf_hub_download(self.source, name, revision=self.revision))
        except LocalEntryNotFoundError:
            known = try_to_load_from_cache(self.source, name, revision=self.revision)
            if known is _CACHED_NO_EXIST:
                return None
            raise
        except EntryNotFoundError:
            return None

    def read_json(self, name: str, optional: bool = False) -> Any:
        """Return the content of a JSON file, or None if there is none.

        Args:
            name: Its name.
            optional: Whether a file of which nobody knows, as the Hub cannot be reached, counts as absent.

        Raises:
            ValueError: The file is no JSON.
            LocalEntryNotFoundError: Nobody knows.
        """
        from huggingface_hub.errors import LocalEntryNotFoundError

        try:
            path = self.find(name)
        except LocalEntryNotFoundError:
            if not optional:
                raise
            path = None
        if path is None:
            return None
        try:
            return json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"{name!r} of {self.source!r} is no JSON ({error}); write or copy it again.") from None

    def loading_arguments(self, subfolder: str = "") -> dict[str, Any]:
        """What transformers' `from_pretrained` needs: safetensors only is the caller's, and no code of the model's."""
        where: dict[str, Any] = {
            "pretrained_model_name_or_path": str(self.folder or self.source),
            "trust_remote_code": False,
        }
        if self.folder is None:
            where["revision"] = self.revision
        if subfolder:
            where["subfolder"] = subfolder
        return where


class UnsupportedEncoderError(ValueError):
    """The model was found, but is none that label embeddings can be made with."""


class one_line_errors:  # noqa: N801 (used as a statement: `with one_line_errors(source):`)
    """Turn what the Hub client, transformers and tokenizers raise, a dozen kinds, into one line."""

    def __init__(self, source: str | os.PathLike):
        self.source = os.fspath(source)

    def __enter__(self) -> None: ...

    def __exit__(self, kind, error, trace) -> None:
        if not isinstance(error, Exception):
            return
        if isinstance(error, UnsupportedEncoderError):
            raise ValueError(str(error)) from None
        reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise ValueError(
            f"the text encoder {self.source!r} cannot be loaded ({reason[:300]}); check the name and the network, "
            f"{ENDS}."
        ) from error


__all__ = ["LoadedEncoder", "ModelFiles", "UnsupportedEncoderError", "one_line_errors"]
