# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""Writing the card of a model, with what images add to it: intervals, pictures, a snippet that was run."""

import json
import os
import re
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from huggingface_hub.utils import HFValidationError, validate_repo_id

from .card_facts import CardFacts, fingerprint, is_sealed, read_card_facts
from .card_figures import choose_examples, draw_average_precision, draw_maps, encode_jpeg
from .card_sections import judged_rows, name_of_data
from .card_snippet import build_snippet, run_snippet
from .model_card import render_model_card
from .staging import CARD_RECORD


if TYPE_CHECKING:
    from ..evaluation.splits import JudgedSplit

FIGURES = "figures"


def write_card(
    folder: str | os.PathLike,
    data: str | os.PathLike | None = None,
    *,
    split: str | None = None,
    output: str | os.PathLike | None = None,
    model_id: str = ".",
    license: str | None = None,
    pictures: bool = True,
    resamples: int = 1000,
    seed: int = 0,
    batch_size: int = 32,
    num_workers: int = 0,
) -> list[Path]:
    """Write the card of a model, its figures, and in its own folder `card.json`, from which it is rendered again.

    Without data the card has what the folder knows, and what an earlier call found out about the same weights. With
    data the model is judged for percentile intervals, maps are drawn, and the card's snippet is run in a fresh process.

    Args:
        folder: Folder that `cssfe train` or `save_pretrained` wrote.
        data: Whatever `modeling_cssfe.data.load_images` reads.
        split: Split to judge. By default the one that the run's last figures are of, so that nothing is looked at that
            was not before; `validation` for a model without results; the only one, if there is one.
        output: Folder for the card; by default the model's own.
        model_id: Repository name for the snippet; `"."` for the folder that the card lies in.
        license: Identifier of the Hub, such as `"apache-2.0"`; None keeps that of an earlier call.
        pictures: Whether images of the data may be shown. Without them the snippet is not run either.
        resamples: Of the bootstrap, >= 2.
        seed: Of the bootstrap.
        batch_size: Images a step.
        num_workers: Loader processes.

    Returns:
        The files written, the card last.

    Raises:
        ValueError: No model, no such split, a name or licence that the Hub would not take, or a card that was edited by
            hand is in the way.
        RoundTripError: The card's snippet fails.
        SavingError: A file cannot be written; the card is as it was.
    """
    from ..common.files import write_whole
    from ..evaluation.bootstrap import check_resampling

    check_resampling(resamples, 0.95)
    _check_names(model_id, license)
    target = Path(folder if output is None else output)
    if (target / "README.md").is_file() and not is_sealed((target / "README.md").read_text(encoding="utf-8")):
        raise ValueError(
            f"{os.fspath(target / 'README.md')!r} was edited by hand, or not written by this version, and would be "
            "lost; move it away, or choose another folder with --output."
        )
    facts = read_card_facts(folder)
    record: dict[str, Any] = {**facts.record, "model": fingerprint(folder)}
    if license is not None:
        record["license"] = license
    with tempfile.TemporaryDirectory(prefix="cssfe-card-") as temporary:
        work = Path(temporary)
        shown = dict(record.get("pictures", {}))
        if data is not None:
            judged = _load_judged(data, split, facts)
            found, shown, snippet = _judge(folder, judged, name_of_data(os.fspath(data)), facts, work, pictures,
                                           resamples, seed, batch_size, num_workers)  # fmt: skip
            record |= {"judged": found, "snippet": snippet}
        rows = judged_rows(facts.results, record, facts.config)
        if rows:
            last = rows[-1]
            draw_average_precision(last.figures["class_table"], work / "average_precision.png",
                                   f"{last.data}, {last.split}", last.class_intervals)  # fmt: skip
            shown["average_precision"] = {"file": f"{FIGURES}/average_precision.png"}
        record["pictures"] = shown
        card = render_facts(replace(facts, record=record), model_id)
        files = {f"{FIGURES}/{drawn.name}": drawn.read_bytes() for drawn in sorted(work.iterdir())}
        if output is None:
            files[CARD_RECORD] = (json.dumps(record, indent=2) + "\n").encode()
        else:  # pictures of an earlier call
            kept = {picture["file"] for picture in shown.values()} - files.keys()
            files |= {name: (Path(folder) / name).read_bytes() for name in sorted(kept)}
        files["README.md"] = card.encode()
        for name, content in files.items():
            write_whole(target / name, lambda path, content=content: path.write_bytes(content))  # type: ignore[misc]
    return [target / name for name in files]


def render_facts(facts: CardFacts, model_id: str = ".") -> str:
    """Render the card of a model from what its folder knows, without images.

    Args:
        facts: From `read_card_facts`.
        model_id: Repository name for the snippet.
    """
    return render_model_card(
        facts.results,
        facts.config,
        model_id,
        thresholds=facts.thresholds,
        record=facts.record,
        emissions=facts.emissions,
    )


def _check_names(model_id: str, license: str | None) -> None:
    if model_id != ".":
        try:
            validate_repo_id(model_id)
        except HFValidationError as error:
            raise ValueError(f"model_id {model_id!r} is no repository name; give USER/NAME.") from error
    if license is not None and not re.fullmatch(r"[a-z0-9][a-z0-9.+-]*", license):
        raise ValueError(f"license {license!r} is no identifier of the Hub; give one such as 'apache-2.0' or 'other'.")


def _load_judged(data: str | os.PathLike, split: str | None, facts: CardFacts) -> "JudgedSplit":
    from ..data import load_images
    from ..evaluation.splits import JudgedSplit

    recipe = (facts.results or {}).get("recipe", {})
    own = bool(recipe) and name_of_data(recipe["data"]) == name_of_data(os.fspath(data))
    splits = load_images(data, **(recipe.get("data_kwargs") or {} if own else {}))
    if split is None:
        if facts.results is not None and facts.results.get("test") is not None:
            split = recipe["test_split"]
        else:
            split = "validation" if facts.results is None else facts.results["chosen_on"]
        if split not in splits and len(splits) == 1:
            split = next(iter(splits))
    if split not in splits:
        raise ValueError(f"the data has no split {split!r}; it has {', '.join(splits)}: name one with --split.")
    return JudgedSplit(splits[split], split)


def _judge(
    folder: str | os.PathLike,
    judged: "JudgedSplit",
    data_name: str,
    facts: CardFacts,
    work: Path,
    pictures: bool,
    resamples: int,
    seed: int,
    batch_size: int,
    num_workers: int,
) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any] | None]:
    """What images say about a model: figures with intervals, pictures in `work`, and what the snippet printed."""
    import warnings

    from ..common.model_loading import load_trained_model
    from ..data import decode_image
    from ..evaluation.bootstrap import bootstrap
    from ..evaluation.scoring import score_model
    from ..metrics.long_tail import MAP_FIGURES

    table = score_model(folder, judged, batch_size=batch_size, num_workers=num_workers, name=judged.name)
    with warnings.catch_warnings():
        # The card names absent classes in a note of its own.
        warnings.filterwarnings("ignore", message=".*classes have no positive image")
        figures = table.figures()
    drawn = bootstrap(table, resamples=resamples, seed=seed, metrics=MAP_FIGURES)
    limits = drawn.limits()
    class_limits = limits.pop("per_class")
    notes = [f"[low, high]: {drawn.describe()}"]
    if drawn.lost_classes:
        lost = ", ".join(f"{name} ({times})" for name, times in drawn.lost_classes.items())
        notes.append(f"Without a positive in some resamples (how many), and left out of their means: {lost}.")
    found = {
        "data": data_name,
        "split": judged.name,
        "confidence": drawn.confidence,
        "resamples": resamples,
        "seed": seed,
        "intervals": _complete(limits),
        "class_intervals": _complete(class_limits),
        "notes": notes,
        "figures": figures,
    }
    average_precision = {row["name"]: row["average_precision"] for row in figures["class_table"]}
    examples = choose_examples(table, average_precision) if pictures else []
    if not examples:
        return found, {}, None
    images = [
        decode_image(judged.dataset[example.row]["image"], image_id=table.image_ids[example.row])
        for example in examples
    ]
    model, processor = load_trained_model(folder)
    draw_maps(model, processor, examples, images, work / "maps.jpg")
    (work / "example.jpg").write_bytes(encode_jpeg(images[0]))
    output = run_snippet(folder, facts.config, work / "example.jpg")
    shown = {
        "maps": {
            "file": f"{FIGURES}/maps.jpg",
            "examples": [{"group": e.group, "label": e.label, "score": round(e.score, 4)} for e in examples],
        },
        "example": {"file": f"{FIGURES}/example.jpg"},
    }
    return found, shown, {"code": build_snippet(facts.config), "output": output}


def _complete(limits: Mapping[str, tuple[float | None, float | None]]) -> dict[str, list[float]]:
    """The intervals that exist."""
    return {name: [low, high] for name, (low, high) in limits.items() if low is not None and high is not None}


__all__ = ["FIGURES", "render_facts", "write_card"]
