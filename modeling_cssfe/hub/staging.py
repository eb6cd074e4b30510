# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""The folder that is published: what belongs to a model, and nothing that says something about somebody's disk."""

import json
import os
import re
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any


if TYPE_CHECKING:
    from .card_facts import CardFacts

CARD_RECORD = "card.json"
MAX_SHARD_SIZE = "5GB"  # the Hub takes files of up to 50 GB; smaller ones load and resume better
_PICTURES = (".png", ".jpg", ".jpeg", ".svg", ".webp")
_SNIPPET = re.compile(r'(pipeline\("image-classification", model=)"[^"\n]*"')
_LINKS = re.compile(r"""!\[[^\]]*\]\(\s*<?([^)\s>]+)|<img[^>]*\ssrc=["']([^"']+)""")
_TEXT = (".json", ".md", ".txt", ".py", ".svg", ".yaml")
_ABSOLUTE = re.compile(r"^(?:[/~\\]|[A-Za-z]:[/\\]|\.{1,2}[/\\]|file:)")


@dataclass(frozen=True)
class StagedModel:
    """A model folder that is ready to be sent.

    Attributes:
        folder: Where it lies.
        model: The model that was saved there, in evaluation mode on the CPU.
        processor: Its image processor.
        left_out: Names in the run's folder that were not taken along; folders end in `/`.
    """

    folder: Path
    model: Any
    processor: Any
    left_out: tuple[str, ...]


def stage_model(
    run: str | os.PathLike, folder: str | os.PathLike, repo_id: str, max_shard_size: str | int = MAX_SHARD_SIZE
) -> StagedModel:
    """Save the model of a run, and what belongs to it, into an empty folder.

    Taken along are the weights (safetensors, in shards if large), the configuration with thresholds and the label
    embeddings' provenance, the code, the image processor, `results.json`, `thresholds.json`, `card.json`, and the card
    with the pictures that it shows. Everything else stays where it is: it may be large, or nobody else's business.
    Paths in the JSON files become names.

    The card is rendered from what the folder knows now. One that was edited by hand is kept, and its snippet gets the
    repository's name.

    Args:
        run: A folder that `cssfe train` or `save_pretrained` wrote.
        folder: Empty or new.
        repo_id: The repository's name, which the card's snippet uses.
        max_shard_size: Largest weight file, such as `"5GB"`.

    Returns:
        The staged model.

    Raises:
        ValueError: There is no CSSFE model in `run`, or a text that would be sent names a folder of this machine.
    """
    from ..common.model_loading import load_trained_model
    from .card_facts import read_card_facts

    source, target = Path(run), Path(folder)
    if not source.is_dir():
        raise ValueError(f"there is no folder {os.fspath(run)!r}; give one that `cssfe train` wrote.")
    model, processor = load_trained_model(source)
    target.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(target, max_shard_size=max_shard_size)
    processor.save_pretrained(target)
    facts = read_card_facts(source)
    for name in ("config.json", "results.json", "thresholds.json", CARD_RECORD):
        if name == CARD_RECORD and facts.outdated:
            continue  # it is about other weights
        origin = target / name if name == "config.json" else source / name
        if origin.is_file():
            content = without_paths(json.loads(origin.read_text(encoding="utf-8")), model.config.label_names)
            (target / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    (target / "README.md").write_text(_card(source, facts, repo_id), encoding="utf-8")
    for picture in linked_pictures(target / "README.md", source):
        (target / picture).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / picture, target / picture)
    _refuse_local_paths(target, source)
    taken = {path.relative_to(target).parts[0] for path in target.rglob("*") if path.is_file()}
    left_out = sorted(f"{path.name}/" if path.is_dir() else path.name for path in source.iterdir()
                      if path.name not in taken)  # fmt: skip
    return StagedModel(target, model, processor, tuple(left_out))


def without_paths(content: Any, label_names: Sequence[str] = ()) -> Any:
    """The same JSON value, in which a path of this machine is only its last part; label names stay as they are."""
    if isinstance(content, dict):
        return {key: without_paths(value, label_names) for key, value in content.items()}
    if isinstance(content, list):
        return [without_paths(value, label_names) for value in content]
    if not isinstance(content, str) or content in label_names or "\n" in content:
        return content
    if _ABSOLUTE.match(content) or _exists_below(content):
        return re.split(r"[/\\]", content.rstrip("/\\"))[-1] or "."
    return content


def linked_pictures(card: str | os.PathLike, folder: str | os.PathLike) -> list[Path]:
    """Pictures inside `folder` that a card shows by a relative link."""
    found = []
    for first, second in _LINKS.findall(Path(card).read_text(encoding="utf-8")):
        link = Path(first or second)
        inside = not link.is_absolute() and ".." not in link.parts and link.suffix.lower() in _PICTURES
        if inside and (Path(folder) / link).is_file() and link not in found:
            found.append(link)
    return found


def _exists_below(text: str) -> bool:
    # `user/name` may be a Hub repository or a folder here; a name without a separator says nothing about this disk.
    return "/" in text and len(text) < 4096 and "://" not in text and os.path.exists(text)


def _card(source: Path, facts: "CardFacts", repo_id: str) -> str:
    from .card_facts import is_sealed
    from .card_writing import render_facts

    old = source / "README.md"
    text = old.read_text(encoding="utf-8") if old.is_file() else None
    if text is None or is_sealed(text):
        return render_facts(facts, repo_id)
    return _SNIPPET.sub(lambda match: f'{match[1]}"{repo_id}"', text)


def _refuse_local_paths(folder: Path, source: Path) -> None:
    roots = {str(path) for path in (source.resolve(), Path.home(), Path.cwd(), Path(tempfile.gettempdir()).resolve())}
    roots -= {"/", ""}
    for file in sorted(folder.rglob("*")):
        if not file.is_file() or file.suffix not in _TEXT:
            continue
        text = file.read_text(encoding="utf-8")
        for root in roots:
            if match := re.search(rf"(?<![\w./-]){re.escape(root)}(?=[/\\\"'\s]|$)[^\s\"']*", text):
                raise ValueError(
                    f"{file.name} names {match[0]!r}, a place on this machine; remove it from the run's folder or "
                    "write the card again with `cssfe card`."
                )


__all__ = ["CARD_RECORD", "MAX_SHARD_SIZE", "StagedModel", "linked_pictures", "stage_model", "without_paths"]
