# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""The study from two runs and a data set to a folder of numbers and figures."""

import csv
import io
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ..data import EvaluationTransform, build_data_loader, label_names_of
from ..training.gradient_observer import group_means
from .gradients import gradients_from_probabilities, measure_gradients
from .streamed_means import Summary
from .study import MODELS, StudyResult, compare_networks


if TYPE_CHECKING:
    import datasets

    from ..evaluation.splits import JudgedSplit


def run_study(
    balanced: str | os.PathLike,
    long_tailed: str | os.PathLike,
    data: "str | os.PathLike | datasets.Dataset | JudgedSplit",
    output_dir: str | os.PathLike,
    *,
    split: str | None = None,
    kind: str = "cam",
    layer: str | None = None,
    sign: str = "signed",
    gradients: bool = False,
    batch_size: int = 32,
    num_workers: int = 0,
    resamples: int = 1000,
    seed: int = 0,
    confidence: float = 0.95,
    formats: Sequence[str] = ("png", "svg"),
    progress: bool = False,
) -> StudyResult:
    """Compare two trained networks, and write numbers (`study.json` and `.csv` files) and figures into a folder.

    Args:
        balanced: Folder or Hub repository of the model trained on balanced data.
        long_tailed: Of the one trained on long-tailed data.
        data: Images that neither has seen: what `load_images` accepts, or a loaded split.
        output_dir: Folder, made if needed; files of these names are replaced.
        split: Split to judge on; by default `test`, then `validation`, then the only one.
        kind: As for `compare_networks`, likewise `layer` and `sign`.
        layer: See there.
        sign: See there.
        gradients: Also pass each run's own training split through it, for the gradients of its own loss at its final
            weights; needs the runs' `results.json` and their data.
        batch_size: Images a step.
        num_workers: Loader processes.
        resamples: Of the intervals.
        seed: Of resamples and noise.
        confidence: Share of resamples within an interval.
        formats: Of the figures: `png`, `svg`.
        progress: Show a progress bar.

    Returns:
        The figures.

    Raises:
        ValueError: A model, split or option does not fit.
        SavingError: A file cannot be written.
    """
    import json

    from ..common.figures import figure_style, save_figure
    from ..common.files import write_whole
    from ..common.model_loading import load_trained_model
    from ..evaluation.splits import load_split
    from .figures import draw_study

    for name in formats:
        if name not in ("png", "svg"):
            raise ValueError(f"unknown format {name!r}; choose png or svg.")
    target = Path(output_dir)
    if target.exists() and not target.is_dir():
        raise ValueError(f"output {os.fspath(output_dir)!r} is a file; choose a folder.")
    paths = dict(zip(MODELS, (balanced, long_tailed), strict=True))
    loaded = {name: load_trained_model(path) for name, path in paths.items()}
    judged = load_split(data, split)
    device = default_device()
    models = {name: model.to(device) for name, (model, _) in loaded.items()}
    wanted = list(models["long_tailed"].config.label_names)
    batches = aligned_batches(
        judged.dataset, [processor for _, processor in loaded.values()], wanted, batch_size, num_workers, progress
    )
    result = compare_networks(
        models["balanced"],
        models["long_tailed"],
        batches,
        kind=kind,
        layer=layer,
        sign=sign,
        resamples=resamples,
        seed=seed,
        confidence=confidence,
    )
    groups = [result.groups[name] for name in wanted]
    history = {name: training_history(path, groups) for name, path in paths.items()}
    content: dict[str, Any] = {
        **{name: os.fspath(path) for name, path in paths.items()},
        "data": str(data) if isinstance(data, str | os.PathLike) else None,
        "split": judged.name,
        **result.to_dict(),
        "training": history,
    }
    final = {}
    if gradients:
        final = {
            name: final_gradients(
                path, *loaded[name], groups, batch_size, resamples=resamples, seed=seed, confidence=confidence
            )
            for name, path in paths.items()
        }
        content["final_gradients"] = {
            name: {
                "loss": models[name].config.loss,
                "figures": {figure: summary.to_dict() for figure, summary in figures.items()},
            }
            for name, figures in final.items()
        }
    text = json.dumps(content, indent=2) + "\n"
    write_whole(target / "study.json", lambda path: path.write_text(text, encoding="utf-8"))
    write_csv(target / "study.csv", result.rows())
    for name, rows in (("training.csv", _history_rows(history)), ("gradients.csv", _gradient_rows(final))):
        if rows:
            write_csv(target / name, rows)
    with figure_style():
        for name, figure in draw_study(result, history, final).items():
            for ending in formats:
                save_figure(figure, target / f"{name}.{ending}", dpi=150)
    return result


def default_device() -> torch.device:
    """The accelerator if there is one, else the CPU."""
    from ..common.environment import process_state

    return process_state().device


def aligned_batches(
    dataset: "datasets.Dataset",
    processors: Sequence[Any],
    label_names: Sequence[str],
    batch_size: int,
    num_workers: int = 0,
    progress: bool = False,
) -> Iterator[dict[str, torch.Tensor]]:
    """Batches for two models, with labels in the models' order of classes; images are decoded once if both see alike.

    Args:
        dataset: As `load_images` gives it.
        processors: Of the balanced and of the long-tailed model.
        label_names: The models' class names.
        batch_size: Images in a batch.
        num_workers: Loader processes.
        progress: Show a progress bar.

    Raises:
        ValueError: The data's classes are not the models'.
    """
    from tqdm.auto import tqdm

    from ..evaluation.logits import align_labels

    own = label_names_of(dataset)
    alike = processors[0].to_dict() == processors[1].to_dict()
    loaders = [
        build_data_loader(dataset, EvaluationTransform(processor), batch_size=batch_size, num_workers=num_workers)
        for processor in (processors[:1] if alike else processors)
    ]
    for pair in tqdm(
        zip(*loaders, strict=True), total=len(loaders[0]), desc="study", leave=False, disable=not progress
    ):
        labels = torch.from_numpy(align_labels(pair[0]["labels"].numpy(), own, label_names))
        if alike:
            yield {"pixel_values": pair[0]["pixel_values"], "labels": labels}
        else:
            pixels = zip(MODELS, pair, strict=True)
            yield {**{f"pixel_values_{name}": batch["pixel_values"] for name, batch in pixels}, "labels": labels}


def training_history(run: str | os.PathLike, groups: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """What a run's `log.jsonl` says of each epoch: probabilities of positives and negatives, and gradients, by group.

    Gradients are those that the run recorded, for its own loss; else those that binary cross-entropy would have had at
    the recorded probabilities, and `gradients_of` says which.

    Args:
        run: Folder of a run; one without a log has no history.
        groups: Group of each of the model's classes, in place of the run's own, for gradients that it recorded by
            class. Probabilities, and gradients that follow from them, are by the run's own groups.

    Returns:
        One entry an epoch; empty if nothing was recorded.
    """
    from ..training.curves import read_log

    file = Path(run) / "log.jsonl"
    if not file.is_file():
        return []
    history = []
    for entry in read_log(file):
        probabilities = entry.get("training_probabilities")
        if probabilities is None and "gradients" not in entry:
            continue
        recorded = entry.get("gradients")
        if groups is not None and "class_gradients" in entry:
            recorded = group_means(entry["class_gradients"], groups)
        history.append(
            {
                "epoch": entry["epoch"],
                "probabilities": probabilities,
                "validation_probabilities": entry.get("validation_probabilities"),
                "gradients": recorded or gradients_from_probabilities(probabilities or {}),
                "gradients_of": "own loss" if recorded else "binary cross-entropy",
            }
        )
    return history


def final_gradients(
    run: str | os.PathLike,
    model: Any,
    processor: Any,
    groups: Sequence[str] | None = None,
    batch_size: int = 32,
    **intervals: Any,
) -> dict[str, Summary]:
    """Gradients of a run's own loss on its training split (without augmentation), at its final weights.

    Args:
        run: Folder of the run, with its `results.json`.
        model: Its model, on its device.
        processor: Its image processor.
        groups: Group of each class, in place of the model's own, so that two runs are averaged alike.
        batch_size: Images a step.
        intervals: `resamples`, `seed` and `confidence` of `measure_gradients`.

    Raises:
        ValueError: There is no `results.json`, or its data are gone.
    """
    import json

    from ..data import load_images

    file = Path(run) / "results.json"
    if not file.is_file():
        raise ValueError(
            f"{os.fspath(run)!r} has no results.json, which says what it was trained on; leave --gradients."
        )
    recipe = json.loads(file.read_text(encoding="utf-8"))["recipe"]
    dataset = load_images(recipe["data"], **recipe.get("data_kwargs", {}))[recipe["train_split"]]
    names = list(model.config.label_names)
    batches = aligned_batches(dataset, [processor, processor], names, batch_size)
    smoothing = recipe.get("label_smoothing", 0.0)
    return measure_gradients(model, batches, groups=groups, label_smoothing=smoothing, **intervals)


def _gradient_rows(final: dict[str, dict[str, Summary]]) -> list[dict[str, Any]]:
    return [
        {"model": model, "figure": figure, "level": level, "name": name, **asdict(entry)}
        for model, figures in final.items()
        for figure, summary in figures.items()
        for level, entries in (("group", summary.groups), ("class", summary.per_class))
        for name, entry in entries.items()
    ]


def _history_rows(history: dict[str, list[dict[str, Any]]]) -> list[dict[str, Any]]:
    rows = []
    for model, entries in history.items():
        for entry in entries:
            for kind in ("probabilities", "validation_probabilities", "gradients"):
                for group, figures in (entry[kind] or {}).items():
                    of = entry["gradients_of"] if kind == "gradients" else ""
                    rows += [
                        {
                            "model": model,
                            "epoch": entry["epoch"],
                            "kind": kind,
                            "of": of,
                            "group": group,
                            "figure": name,
                            "value": value,
                        }
                        for name, value in figures.items()
                    ]
    return rows


def write_csv(file: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Write rows of plain values; None is an empty cell.

    Raises:
        SavingError: The file cannot be written.
    """
    from ..common.files import write_whole

    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_whole(file, lambda path: path.write_text(text.getvalue(), encoding="utf-8"))


__all__ = [
    "aligned_batches",
    "default_device",
    "final_gradients",
    "run_study",
    "training_history",
    "write_csv",
]
