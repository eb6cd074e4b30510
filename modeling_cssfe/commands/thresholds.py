# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""`cssfe thresholds`: decision thresholds and calibrated probabilities for a trained model, from validation data."""

import argparse
import json
import shutil
import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ._verbs import AddVerb


def register(add: AddVerb) -> None:
    """Declare `cssfe thresholds`."""
    verb = add("thresholds", _thresholds, "Choose decision thresholds on validation data and store them in the model.")
    verb.add_argument("model", help="folder or Hub repository of a trained model")
    verb.add_argument("--data", required=True, help="validation data: lt_digits, folder, file or `datasets` name")
    verb.add_argument("--split", help="split to fit on (default: validation, else the only one)")
    verb.add_argument("--objective", default="f1", choices=["f1", "precision", "recall"], help="what to reach")
    verb.add_argument("--target", type=float, help="wanted precision or recall, in (0, 1]")
    verb.add_argument(
        "--shrinkage", type=float, default=5.0, help="what the group's threshold is worth, in positives of a class"
    )
    verb.add_argument("--no_calibration", action="store_true", help="leave temperature and bias of the groups out")
    verb.add_argument("--output_dir", help="new folder for the model; without it, its config.json is replaced")
    verb.add_argument("--batch_size", type=int, default=32, help="images a step")
    verb.add_argument("--num_workers", type=int, default=0, help="loader processes")
    verb.add_argument("--seed", type=int, default=0, help="of resamples and folds")
    verb.add_argument("--force", action="store_true", help="fit on the test or the training split all the same")


def _thresholds(options: argparse.Namespace) -> None:
    from ..common.tables import show
    from ..configuration_cssfe import CSSFEConfig
    from ..evaluation.calibration import fit_calibration
    from ..evaluation.held_out import held_out_f1
    from ..evaluation.scoring import score_model
    from ..evaluation.thresholds import check_threshold_options, choose_thresholds
    from ..training.run_folder import RunFolder
    from ..version import __version__

    choice_options = {"objective": options.objective, "target": options.target, "shrinkage": options.shrinkage}
    check_threshold_options(**choice_options, num_resamples=0)
    if options.seed < 0:
        raise ValueError(f"seed is {options.seed}; give a whole number >= 0.")
    if options.output_dir:
        RunFolder(options.output_dir, option="--output_dir")
    folder = _model_folder(options.model, options.output_dir)
    config = CSSFEConfig.from_pretrained(folder)
    data, split = _choose_split(options.data, options.split, options.force)
    # Of the configuration, so that its groups are those that the calibration is stored and used for.
    counts = config.class_counts if config.class_counts is not None else [config.head_min] * config.num_labels
    table = score_model(folder, data, split, options.batch_size, options.num_workers, class_counts=counts)
    num_images = len(table.image_ids)
    if num_images < 2:
        raise ValueError(f"{options.data!r} has {num_images} image in split {split!r}; give a validation set.")

    choice = choose_thresholds(table, **choice_options, seed=options.seed)
    folds = min(5, num_images)
    at_half, at_chosen = held_out_f1(table, num_folds=folds, seed=options.seed, **choice_options)
    held_out = {"num_folds": folds, "at_half": _means(at_half, table.groups), "chosen": _means(at_chosen, table.groups)}
    calibration = None if options.no_calibration else fit_calibration(table, num_folds=folds, seed=options.seed)
    provenance = {
        "cssfe": __version__,
        "model": str(options.model),
        "data": str(options.data),
        "split": split,
        "num_images": num_images,
        "seed": options.seed,
        **choice.to_dict(),
        "held_out_f1": held_out,
        "calibration": calibration and calibration.to_dict(),
    }
    changes = {"thresholds": choice.thresholds, "calibration": calibration and calibration.parameters}
    _store(folder, options.output_dir, changes, provenance)

    show(*_tables(choice, held_out, calibration, f"{options.data}, split {split}, {num_images} images"))
    for entry in choice.classes:
        if entry.few_positives or entry.reached is False:
            print(f"{entry.name}: {entry.reason}{_missed(entry, choice)}")
    print(Path(options.output_dir or folder) / "config.json")


def _model_folder(model: str, output_dir: str | None) -> Path:
    """The local folder of a CSSFE model; one on the Hub is downloaded."""
    from ..common.model_loading import load_trained_model, require_cssfe

    folder = Path(model)
    if not folder.is_dir():
        if output_dir is None:
            raise ValueError(
                f"there is no folder {model!r}; for a model of the Hub, give its new folder: --output_dir."
            )
        load_trained_model(model)  # raises what is to be said of a path that is neither folder nor repository
        from huggingface_hub import snapshot_download

        return Path(snapshot_download(model))
    if not (folder / "config.json").is_file():
        raise ValueError(f"{model!r} holds no model (no config.json); give a folder that `cssfe train` wrote.")
    require_cssfe(folder)  # thresholds are stored in CSSFE models only
    return folder


def _choose_split(data: str, wanted: str | None, force: bool) -> tuple[Any, str]:
    from ..data import load_images

    splits = load_images(data)
    split = wanted or (next(iter(splits)) if len(splits) == 1 else "validation")
    if split not in splits:
        raise ValueError(f"the data has no split {split!r}; it has {', '.join(splits)}: name one with --split.")
    if split == "test" or (split == "train" and len(splits) > 1):
        what = (
            "its figures would be chosen on the images they are judged on"
            if split == "test"
            else "scores of images that the model has seen are too good"
        )
        if not force:
            raise ValueError(f"thresholds belong to validation data, not to split {split!r}: {what} (--force does it).")
        print(f"cssfe thresholds: warning: fitted on split {split!r}: {what}.", file=sys.stderr)
    elif split == "train":  # what a file or folder of unnamed images is called
        print("cssfe thresholds: note: fit on images that the model was not trained on.", file=sys.stderr)
    return splits[split], split


def _store(folder: Path, output_dir: str | None, changes: Mapping[str, Any], provenance: Mapping[str, Any]) -> None:
    """Write `config.json` and `thresholds.json`, in place or with the model's other files into a new folder."""
    from ..common.files import write_whole
    from ..configuration_cssfe import CSSFEConfig
    from ..training.run_folder import RunFolder

    # The file is edited, not written anew: it also holds what `save_pretrained` put there, such as `auto_map`.
    content = json.loads((folder / "config.json").read_text(encoding="utf-8")) | changes
    CSSFEConfig.from_dict(content)  # raises if something in it is wrong
    texts = {
        "thresholds.json": json.dumps(provenance, indent=2) + "\n",
        "config.json": json.dumps(content, indent=2, sort_keys=True) + "\n",
    }

    def copy(target: Path) -> None:
        for file in folder.iterdir():
            if file.is_file() and file.name not in texts:
                shutil.copyfile(file, target / file.name)
        for name, text in texts.items():
            (target / name).write_text(text, encoding="utf-8")

    if output_dir:
        RunFolder(output_dir).save_files(copy)
        return
    for name, text in texts.items():
        write_whole(folder / name, partial(Path.write_text, data=text, encoding="utf-8"))


def _means(values: list[float | None], groups: list[str]) -> dict[str, float | None]:
    """Mean over all classes and over the classes of each group; classes without positives are left out."""
    found: dict[str, float | None] = {}
    for name in ("total", "head", "medium", "tail"):
        kept = [v for v, group in zip(values, groups, strict=True) if v is not None and name in ("total", group)]
        found[name] = float(np.mean(kept)) if kept else None
    return found


def _tables(choice: Any, held_out: Mapping[str, Any], calibration: Any, where: str) -> list[Any]:
    from ..common.tables import percent, text_table

    wanted = choice.objective if choice.target is None else f"{choice.objective} {choice.target:g}"
    heads = ["class", "group", "positives", "threshold", "own optimum", "5 to 95 %", "F1 at .5", "F1 chosen"]
    heads += [] if choice.target is None else [f"{choice.objective} chosen"]
    classes = text_table(f"Thresholds for {wanted}: {where}", *heads, numbers_from=2)
    for entry in choice.classes:
        figures = [entry.f1_at_half, entry.f1] + ([] if choice.target is None else [getattr(entry, choice.objective)])
        spread = "-" if entry.spread is None else "{:.3f} to {:.3f}".format(*entry.spread)
        own = "-" if entry.own is None else f"{entry.own:.3f}"
        positives = f"{entry.num_positives}{' (few)' if entry.few_positives else ''}"
        threshold = f"{entry.threshold:.3f}"
        classes.add_row(entry.name, entry.group, positives, threshold, own, spread, *map(percent, figures))

    groups = list(held_out["chosen"])
    title = f"Held-out macro F1 (%), {held_out['num_folds']} folds"
    means = text_table(title, "threshold", *groups, numbers_from=1)
    means.add_row(".5", *(percent(held_out["at_half"][group]) for group in groups))
    means.add_row("chosen", *(percent(held_out["chosen"][group]) for group in groups))
    if calibration is None:
        return [classes, means]

    heads = ["group", "positives", "temperature", "bias", "ECE before (%)", "ECE after (%)", "remark"]
    errors = text_table("Calibration, errors held out", *heads, numbers_from=1)
    errors.columns[-1].justify = "left"
    for name, group in calibration.groups.items():
        errors.add_row(
            name,
            group.num_positives,
            f"{group.temperature:.3f}",
            f"{group.bias:+.3f}",
            percent(calibration.ece_before[name]),
            percent(calibration.ece_after[name]),
            group.remark,
        )
    return [classes, means, errors]


def _missed(entry: Any, choice: Any) -> str:
    if entry.reached is not False:
        return ""
    achieved = getattr(entry, choice.objective)
    return f"; {choice.objective} is {achieved:.3f} on these images, {choice.target:g} was wanted"


__all__ = ["register"]
