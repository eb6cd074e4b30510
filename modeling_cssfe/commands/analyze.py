# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""`cssfe analyze`: where maps lie, and what a long tail does to them."""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from ._verbs import AddVerb


def register(add: AddVerb) -> None:
    """Declare `cssfe analyze localization`, `study`, `train_pair` and `figures`."""
    localization = add("analyze localization", _localization, "Measure how well maps lie on the boxes of objects.")
    localization.add_argument("model", help="folder or Hub repository of a trained model")
    localization.add_argument("--data", required=True, help="folder, file or `datasets` name")
    localization.add_argument("--split", help="split to judge (default: test, else validation, else the only one)")
    localization.add_argument(
        "--boxes", help="annotations of these images in another place: VOC folder, COCO JSON, table (default: the data)"
    )
    localization.add_argument("--kinds", nargs="+", metavar="KIND", help="kinds of map (default: all the model has)")
    localization.add_argument("--layer", help="layer of maps by gradients (default: the last feature map)")
    localization.add_argument(
        "--sign", default="auto", help="positive or magnitude: what of a signed map speaks for its class; auto"
    )
    localization.add_argument("--difficult", default="include", help="objects marked difficult: include or leave_out")
    localization.add_argument("--tolerance", type=float, default=0.0, help="of the pointing game, fraction of a side")
    localization.add_argument("--output", metavar="FILE", help=".json or .csv file for all figures")
    _add_common(localization)

    study = add("analyze study", _study, "Compare a network trained on balanced data with one trained on a long tail.")
    study.add_argument("--balanced", required=True, metavar="RUN", help="run or model trained on balanced data")
    study.add_argument("--long_tailed", required=True, metavar="RUN", help="run or model trained on long-tailed data")
    study.add_argument("--data", required=True, help="images that neither has seen: folder, file or `datasets` name")
    study.add_argument("--split", help="split to judge (default: test, else validation, else the only one)")
    study.add_argument("--output", required=True, metavar="DIR", help="folder for numbers and figures")
    study.add_argument("--kind", default="cam", help="kind of map")
    study.add_argument("--layer", help="layer of maps by gradients (default: the last feature map)")
    study.add_argument("--sign", default="signed", help="signed, magnitude or auto: what of the maps is compared")
    study.add_argument(
        "--gradients", action="store_true", help="also pass the runs' training data through them, for their own loss"
    )
    study.add_argument("--formats", nargs="+", default=["png", "svg"], help="of the figures: png, svg")
    _add_common(study)

    pair = add("analyze train_pair", _train_pair, "Draw a balanced training set and train the study's two networks.")
    pair.add_argument("--recipe", default="lt_digits_net0", help="shipped recipe (see `cssfe info`) or YAML file")
    pair.add_argument("--data", help="data in place of the recipe's, with a training and a validation split")
    pair.add_argument("--output_dir", required=True, help="folder for data and runs: new, empty, or to go on with")
    pair.add_argument("--resume", default="never", help="auto: go on with a pair that was interrupted; never")
    pair.add_argument("--judged_share", type=float, default=0.25, help="share of validation kept for the comparison")
    pair.add_argument("--choosing_share", type=float, default=0.05, help="share kept for the choice of the best epoch")
    pair.add_argument("--max_ratio", type=float, default=5.0, help="most to fewest images in the balanced set")
    pair.add_argument("--seed", type=int, help="seed in place of the recipe's")
    pair.add_argument(
        "--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE", help="any other key of the recipe"
    )
    pair.add_argument("--quiet", action="store_true", help="no progress and no tables")

    figures = add("analyze figures", _figures, "Draw mAP by group for runs side by side, mean and interval over seeds.")
    figures.add_argument("runs", nargs="+", metavar="RUN", help="folders of `cssfe train`, or one .csv of trials")
    figures.add_argument("--by", default="ablation", help="what tells the rows apart: ablation or label_embeddings")
    figures.add_argument(
        "--rows", nargs="+", metavar="NAME=VALUE", help="legend=value of each row, in order (default: all)"
    )
    figures.add_argument("--title", help="above the figure")
    figures.add_argument("--output", default="ablation.png", help="PNG or SVG file")


def _add_common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--bootstrap", type=int, default=1000, help="resamples of the intervals")
    parser.add_argument("--confidence", type=float, default=0.95, help="share of resamples within an interval")
    parser.add_argument("--seed", type=int, default=0, help="seed of resamples and noise")
    parser.add_argument("--batch_size", type=int, default=32, help="images a step")
    parser.add_argument("--num_workers", type=int, default=0, help="loader processes")


def _localization(options: argparse.Namespace) -> None:
    from ..analysis.boxes import load_boxes
    from ..analysis.localization import measure_localization
    from ..analysis.study_run import default_device, write_csv
    from ..common.files import write_whole
    from ..common.model_loading import load_trained_model
    from ..evaluation.splits import load_split
    from ..metrics.inputs import check_choice

    _check_common(options)
    if options.output:
        check_choice("kind of output", Path(options.output).suffix.lower(), (".json", ".csv"))
    model, processor = load_trained_model(options.model)
    judged = load_split(options.data, options.split)
    names = list(model.config.label_names)
    boxes = load_boxes(options.boxes or options.data, judged.dataset["image_id"], names, judged.name)
    result = measure_localization(
        model.to(default_device()),
        processor,
        judged.dataset,
        boxes,
        kinds=options.kinds,
        layer=options.layer,
        sign=options.sign,
        difficult=options.difficult,
        tolerance=options.tolerance,
        batch_size=options.batch_size,
        num_workers=options.num_workers,
        resamples=options.bootstrap,
        seed=options.seed,
        confidence=options.confidence,
        progress=True,
    )
    _show_localization(result, f"{options.data}, split {judged.name}, {result.num_images} images with boxes")
    if options.output and options.output.lower().endswith(".csv"):
        write_csv(Path(options.output), result.rows())
    elif options.output:
        content = {"model": options.model, "data": options.data, "split": judged.name, **result.to_dict()}
        text = json.dumps(content, indent=2) + "\n"
        write_whole(Path(options.output), lambda path: path.write_text(text, encoding="utf-8"))


def _show_localization(result: Any, title: str) -> None:
    from ..analysis.localization import FIGURES
    from ..common.tables import show, text_table

    heads = [figure.replace("box_accuracy_", "box acc. ") for figure in FIGURES]
    table = text_table(title, "map", "group", *heads, numbers_from=2)
    for kind, found in result.kinds.items():
        for group in found.figures["pointing"].groups:
            table.add_row(kind, group, *(_cell(found.figures[name].groups[group]) for name in FIGURES))
    table.add_row("by chance", "all", *[_cell(result.box_area.groups["all"])] * 2, *["-"] * (len(FIGURES) - 2))
    show(table)
    print(
        "Per cent, [low, high] by the bootstrap over images; box figures at the cut that suits each kind best "
        f"({', '.join(f'{kind} {found.threshold:g}' for kind, found in result.kinds.items())})."
    )
    flat = {kind: found.flat_maps for kind, found in result.kinds.items() if found.flat_maps}
    if flat:
        named = ", ".join(f"{kind} {number}" for kind, number in flat.items())
        print(f"Maps that point nowhere and score 0, of {result.num_maps}: {named}.")


def _cell(entry: Any) -> str:
    if entry.value is None:
        return "-"
    limits = "" if entry.low is None else f" [{100 * entry.low:.0f}, {100 * entry.high:.0f}]"
    return f"{100 * entry.value:.1f}{limits}"


def _study(options: argparse.Namespace) -> None:
    from ..analysis.study import ATTENUATIONS, CORRELATIONS
    from ..analysis.study_run import run_study
    from ..common.tables import show, text_table

    _check_common(options)
    result = run_study(
        options.balanced,
        options.long_tailed,
        options.data,
        options.output,
        split=options.split,
        kind=options.kind,
        layer=options.layer,
        sign=options.sign,
        gradients=options.gradients,
        batch_size=options.batch_size,
        num_workers=options.num_workers,
        resamples=options.bootstrap,
        seed=options.seed,
        confidence=options.confidence,
        formats=options.formats,
        progress=True,
    )
    title = f"{result.num_images} images, {result.num_maps} maps of a class each"
    table = text_table(title, "figure", "head", "medium", "tail", "all", numbers_from=1)
    table.columns[0].no_wrap = True
    drifts = [f"{measure}_drift_{sign}" for measure in ("logit", "probability") for sign in ("positive", "negative")]
    for name in (*CORRELATIONS, *ATTENUATIONS, *drifts):
        groups = result.figures[name].groups
        table.add_row(name, *(_plain_cell(groups[group]) for group in ("head", "medium", "tail", "all")))
    show(table)
    print(f"{options.output}: study.json, study.csv and figures")


def _plain_cell(entry: Any) -> str:
    if entry.value is None:
        return "-"
    limits = "" if entry.low is None else f" [{entry.low:.2f}, {entry.high:.2f}]"
    return f"{entry.value:.2f}{limits}"


def _check_common(options: argparse.Namespace) -> None:
    from ..evaluation.bootstrap import check_resampling
    from ..metrics.inputs import check_positive_integer

    check_resampling(options.bootstrap, options.confidence)
    check_positive_integer("batch_size", options.batch_size)
    if options.seed < 0:
        raise ValueError(f"seed is {options.seed}; give a whole number >= 0.")


def _train_pair(options: argparse.Namespace) -> None:
    from ..analysis.pair import train_pair
    from ..training import load_recipe
    from ..training.interruption import TrainingInterruptedError

    values = {name: getattr(options, name) for name in ("data", "seed") if getattr(options, name) is not None}
    recipe = load_recipe(options.recipe, options.set, values)
    try:
        train_pair(
            recipe,
            options.output_dir,
            judged_share=options.judged_share,
            choosing_share=options.choosing_share,
            max_ratio=options.max_ratio,
            quiet=options.quiet,
            resume=options.resume,
        )
    except TrainingInterruptedError as interrupted:
        print(f"cssfe analyze: {interrupted}", file=sys.stderr)
        raise SystemExit(interrupted.exit_code) from interrupted  # 143 after SIGTERM, 130 after SIGINT
    folder = options.output_dir.rstrip("/")
    print(
        f"cssfe analyze study --balanced {folder}/balanced --long_tailed {folder}/long_tailed "
        f"--data {folder}/data/long_tailed --output {folder}/study"
    )


def _figures(options: argparse.Namespace) -> None:
    from ..analysis.ablation_figure import draw_ablation, read_ablation

    rows = None
    if options.rows:
        for row in options.rows:
            if "=" not in row:
                raise ValueError(f"cannot read the row {row!r}; write NAME=VALUE, such as Net-0=net0.")
        rows = dict(row.split("=", 1) for row in options.rows)
    found, notes = read_ablation(options.runs, options.by, rows)
    draw_ablation(found, options.output, options.title)
    for note in notes:
        print(note)
    print(options.output)


__all__ = ["register"]
