# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""What a model's folder knows for its card, and whether somebody has written in the card since it was rendered.

| file | what it says | written by |
|---|---|---|
| `config.json` | labels, counts, thresholds | `cssfe train`, `cssfe thresholds` |
| `results.json` | recipe, figures, hardware, time | `cssfe train` |
| `thresholds.json` | where thresholds come from | `cssfe thresholds` |
| `card.json` | figures with intervals, pictures, what the snippet printed, licence | `cssfe card` |
| `emissions.csv` | energy and CO2 | CodeCarbon, if it watched the training |
"""

import csv
import hashlib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..common.model_loading import load_cssfe_config
from ..configuration_cssfe import CSSFEConfig
from .staging import CARD_RECORD


_SEAL = re.compile(r"^# Rendered by `cssfe card`, and again by `cssfe push` unless edited: ([0-9a-f]{16})\n", re.M)


@dataclass(frozen=True)
class CardFacts:
    """What is known about a model.

    Attributes:
        config: Its configuration.
        results: Of `results.json`; None for a model that was saved without.
        thresholds: Of `thresholds.json`, or None.
        record: Of `card.json`, empty if there is none. What was judged on other weights or groups is left out, and so
            are pictures that are not there.
        emissions: `{"kg": ..., "kwh": ..., "country": ...}`, or None.
        outdated: Whether `card.json` describes other weights.
    """

    config: CSSFEConfig
    results: Mapping[str, Any] | None
    thresholds: Mapping[str, Any] | None
    record: Mapping[str, Any]
    emissions: Mapping[str, Any] | None
    outdated: bool


def read_card_facts(folder: str | os.PathLike) -> CardFacts:
    """Read what a folder says about its model.

    Raises:
        ValueError: There is no model, or a file in it cannot be read.
    """
    root = Path(folder)
    missing = [name for name in ("results.json", "config.json") if not (root / name).is_file()]
    if "config.json" in missing:
        raise ValueError(
            f"{os.fspath(folder)!r} holds no {' and no '.join(missing)}; give a folder that `cssfe train` wrote."
        )
    results = _read_json(root / "results.json")
    for name in ("recipe", "validation", "chosen_on"):
        if results is not None and name not in results:
            raise ValueError(f"{os.fspath(root / 'results.json')!r} has no {name!r}: `cssfe train` did not write it.")
    record = _read_json(root / CARD_RECORD) or {}
    outdated = record.get("model") not in (None, fingerprint(root))
    if outdated:
        record = {"license": record.get("license")}
    pictures = {
        name: picture for name, picture in record.get("pictures", {}).items() if (root / picture["file"]).is_file()
    }
    return CardFacts(
        config=load_cssfe_config(root),
        results=results,
        thresholds=_read_json(root / "thresholds.json"),
        record={**record, "pictures": pictures},
        emissions=_read_emissions(root / "emissions.csv"),
        outdated=outdated,
    )


def fingerprint(folder: str | os.PathLike) -> str:
    """SHA-256 of a model's weights, and of the classes and groups that its figures are about."""
    digest = hashlib.sha256()
    for file in sorted(Path(folder).glob("model*.safetensors")):
        with open(file, "rb") as opened:
            while block := opened.read(1 << 20):
                digest.update(block)
    config = load_cssfe_config(folder)
    counts = config.class_counts  # the groups' bounds mean nothing without them
    digest.update(json.dumps([config.label_names, counts, config.head_min, config.tail_max]).encode())
    return digest.hexdigest()


def seal(card: str) -> str:
    """Add a line to a card's metadata that tells whether the card is changed later.

    It is a comment of YAML, which the Hub does not show.
    """
    start = "---\n"
    if not card.startswith(start):
        raise ValueError(f"a model card begins with its metadata (---), got {card[:40]!r}; keep the template's head.")
    line = f"# Rendered by `cssfe card`, and again by `cssfe push` unless edited: {_digest(card)}\n"
    return start + line + card.removeprefix(start)


def is_sealed(card: str) -> bool:
    """Whether a card is as it was rendered; one without the line is not."""
    card = card.replace("\r\n", "\n")  # line ends may change on the way through version control, which is no edit
    found = _SEAL.search(card)
    return found is not None and found[1] == _digest(_SEAL.sub("", card, count=1))


def _digest(card: str) -> str:
    return hashlib.sha256(card.encode()).hexdigest()[:16]


def _read_json(file: Path) -> dict[str, Any] | None:
    if not file.is_file():
        return None
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{os.fspath(file)!r} is no JSON file ({reason}); write it again or remove it.") from error
    if not isinstance(content, dict):
        raise ValueError(f"{os.fspath(file)!r} holds no JSON object; write it again or remove it.")
    return content


def _read_emissions(file: Path) -> dict[str, Any] | None:
    """The last line of CodeCarbon's file, which it appends to: the latest measurement."""
    if not file.is_file():
        return None
    with open(file, newline="", encoding="utf-8") as opened:
        rows = list(csv.DictReader(opened))
    try:
        last = rows[-1]
        kg, kwh = float(last["emissions"]), float(last["energy_consumed"])
    except (IndexError, KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{os.fspath(file)!r} is not what CodeCarbon writes (columns emissions in kg, energy_consumed in kWh); "
            "remove it from the run's folder."
        ) from error
    return {"kg": kg, "kwh": kwh, "country": last.get("country_name") or None}


__all__ = ["CardFacts", "fingerprint", "is_sealed", "read_card_facts", "seal"]
