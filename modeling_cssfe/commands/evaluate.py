# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""`cssfe evaluate`: models, score files or runs to figures, with their uncertainty."""

import argparse
import json
import sys
import warnings
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ._verbs import AddVerb


if TYPE_CHECKING:
    from ..evaluation import ScoreTable
    from ..evaluation.bootstrap import BootstrapResult
    from ..evaluation.figure_tables import FigureTable
    from ..evaluation.splits import JudgedSplit


def register(add: AddVerb) -> None:
    """Declare `cssfe evaluate`."""
    evaluate = add("evaluate", _evaluate, "Judge models, files of scores, or several runs, side by side.")
    evaluate.add_argument(
        "models",
        nargs="+",
        help="models (folder or Hub repository, CSSFE or any other image classifier), score files (.csv, .parquet, "
        ".npz, or what `cssfe predict` wrote), or, without --data, runs of `cssfe train` "
        "whose results.json are tabulated over seeds",
    )
    evaluate.add_argument("--data", help="lt_digits, folder, file or `datasets` name")
    evaluate.add_argument("--split", help="split to judge (default: test, else validation, else the only one)")
    evaluate.add_argument("--labels", metavar="FILE", help="labels of score files, in place of --data")
    evaluate.add_argument(
        "--class_counts", metavar="FILE", help="training images of each class, JSON or CSV (default: the model's own)"
    )
    evaluate.add_argument("--head_min", type=int, help="smallest count of a head class (default: the model's, or 100)")
    evaluate.add_argument("--tail_max", type=int, help="counts below it are tail (default: the model's, or 20)")
    evaluate.add_argument("--against", metavar="MODEL", help="model, score file or run that each is compared with")
    evaluate.add_argument("--bootstrap", type=int, default=1000, help="resamples of the intervals; 0 for none")
    evaluate.add_argument("--seed", type=int, default=0, help="seed of the resamples")
    evaluate.add_argument("--confidence", type=float, default=0.95, help="share of resamples within an interval")
    evaluate.add_argument("--activation", default="auto", help="auto, sigmoid or softmax, for models of other kinds")
    evaluate.add_argument("--top_k", type=int, help="labels that an image gets, in place of thresholds")
    evaluate.add_argument("--average_precision_method", default="area", help="area or 11-point")
    evaluate.add_argument("--batch_size", type=int, default=32, help="images a step")
    evaluate.add_argument("--num_workers", type=int, default=0, help="loader processes")
    evaluate.add_argument("--format", default="table", help="table, markdown, latex or csv")
    evaluate.add_argument("--output", metavar="FILE", help="JSON file for all figures")
    evaluate.add_argument(
        "--save_scores", metavar="FILE", help=".csv, .parquet or .npz file for the scores of one model"
    )
    evaluate.add_argument("--report", metavar="DIR", help="folder for an HTML report with its pictures")


def _evaluate(options: argparse.Namespace) -> None:
    from ..evaluation.bootstrap import DEFAULT_RESAMPLES, check_resampling
    from ..evaluation.figure_tables import FORMATS
    from ..evaluation.score_files import SCORE_SUFFIXES, is_score_file
    from ..metrics.average_precision import AVERAGE_PRECISION_METHODS
    from ..metrics.inputs import check_choice, check_positive_integer

    # Before anything is scored, which may take hours.
    check_choice("format", options.format, FORMATS)
    check_choice("average_precision_method", options.average_precision_method, AVERAGE_PRECISION_METHODS)
    if options.bootstrap or options.against:
        check_resampling(options.bootstrap or DEFAULT_RESAMPLES, options.confidence)
    if options.top_k is not None:
        check_positive_integer("top_k", options.top_k)
    if options.seed < 0:
        raise ValueError(f"seed is {options.seed}; give a whole number >= 0.")
    if options.report:
        _check_report(options)
    if options.save_scores:
        check_choice("kind of score file", Path(options.save_scores).suffix.lower(), SCORE_SUFFIXES)
    for name in ("output", "save_scores"):
        if getattr(options, name) and Path(getattr(options, name)).is_dir():
            raise ValueError(f"--{name} {getattr(options, name)!r} is a folder; name a file.")
    models = list(dict.fromkeys(options.models))
    if options.save_scores and len(models) > 1:
        raise ValueError(f"--save_scores names one file for {len(models)} models; evaluate them one by one.")
    if options.data and options.labels:
        raise ValueError("--data and --labels both give labels; give one of the two.")
    if options.against in models:
        raise ValueError(f"{options.against!r} is compared with itself; give --against another model.")
    subjects = [*models, options.against] if options.against else models
    if options.data is None and not any(map(is_score_file, subjects)):
        _tabulate_runs([options.against, *models] if options.against else models, options)
    else:
        _judge(subjects, models, options)


def _check_report(options: argparse.Namespace) -> None:
    """Refuse a report that would show other figures than the table."""
    if options.top_k is not None or options.average_precision_method != "area":
        raise ValueError(
            "--report shows decisions by thresholds and the area under the curve; leave out --top_k and "
            "--average_precision_method, or the report."
        )
    if Path(options.report).exists() and not Path(options.report).is_dir():
        raise ValueError(f"--report {options.report!r} is a file; choose a folder.")


def _tabulate_runs(folders: list[str], options: argparse.Namespace) -> None:
    """Runs by the figures in their results.json."""
    from ..training.run_tables import group_runs, read_run, seeds_table

    for name in ("report", "save_scores", "split", "labels", "class_counts", "head_min", "tail_max", "top_k"):
        if getattr(options, name) is not None:
            raise ValueError(f"--{name} needs scores, which results.json does not hold; give --data.")
    if options.average_precision_method != "area":
        raise ValueError("--average_precision_method needs scores, which results.json does not hold; give --data.")
    groups = group_runs([read_run(folder) for folder in folders])
    split = groups[0].runs[0].split
    data = sorted({str(group.runs[0].recipe.get("data")) for group in groups})
    table = seeds_table(groups, f"{', '.join(data)}, split {split}, as trained")
    if len(data) > 1:
        warning = "Trained and judged on data of different names: unless these are the same images, no row compares."
        table = replace(table, notes=(*table.notes, warning))
    _print([table], options.format)
    _write_json(options.output, [group.to_dict() for group in groups])


def _judge(subjects: list[str], models: list[str], options: argparse.Namespace) -> None:
    """Models and files by their scores."""
    from ..common.environment import process_state
    from ..common.tables import show
    from ..evaluation.bootstrap import bootstrap
    from ..evaluation.comparison import compare
    from ..evaluation.figure_tables import describe_comparisons, results_table
    from ..evaluation.score_files import write_scores
    from ..evaluation.splits import load_split
    from ..training.report import class_table
    from ..training.run_tables import regroup, seeds_table

    judged = load_split(options.data, options.split) if options.data else None
    tables = {subject: _scores_of(subject, judged, options) for subject in subjects}
    if not process_state().is_main_process:
        return
    if options.save_scores:
        write_scores(tables[models[0]], options.save_scores)
    protocol = {"top_k": options.top_k, "average_precision_method": options.average_precision_method}
    drawn = {"seed": options.seed, "confidence": options.confidence, "progress": True}
    results = {subject: _figures(table, protocol) for subject, table in tables.items()}
    intervals, comparisons = {}, {}
    if options.bootstrap:
        for subject, table in tables.items():
            intervals[subject] = bootstrap(table, resamples=options.bootstrap, **drawn, **protocol)
    if options.against:
        drawn |= {"average_precision_method": options.average_precision_method}
        if options.bootstrap:
            drawn |= {"resamples": options.bootstrap}
        for model in models:
            comparisons[model] = compare(tables[model], tables[options.against], **drawn)

    # The first row is what the others are marked against.
    order = [options.against, *models] if options.against else models
    try:
        groups = regroup({subject: results[subject] for subject in order})
    except ValueError as error:  # of a table that nobody may have asked for: no reason to lose the others
        groups = []
        print(f"cssfe evaluate: note: no table over seeds: {error}", file=sys.stderr)
    first = tables[models[0]]
    where = str(options.data or options.labels or first.name) + (f", split {judged.name}" if judged else "")
    title = f"{where}, {len(first.image_ids)} images"
    if len(tables) == 1 and options.format == "table":
        show(class_table(results[models[0]], f"Average precision by class: {first.name}"))
    judged_tables = [results_table(title, results, intervals, comparisons)]
    if groups:
        judged_tables.append(seeds_table(groups, f"{title}: over seeds"))
    # A paper and a spreadsheet take one table: that over seeds where there are several.
    _print(judged_tables if options.format == "table" else judged_tables[-1:], options.format)
    _write_json(
        options.output,
        [
            {
                "model": subject,
                "split": judged.name if judged else None,
                **result,
                "bootstrap": intervals[subject].to_dict() if subject in intervals else None,
                "comparison": comparisons[subject].to_dict() if subject in comparisons else None,
            }
            for subject, result in results.items()
        ],
    )
    if options.report:
        _write_report(tables, intervals, judged, options.report, where, describe_comparisons(comparisons))


def _scores_of(subject: str, judged: "JudgedSplit | None", options: argparse.Namespace) -> "ScoreTable":
    from ..evaluation.score_files import is_score_file, read_scores
    from ..evaluation.scoring import score_model

    common = {"class_counts": options.class_counts, "head_min": options.head_min, "tail_max": options.tail_max}
    if is_score_file(subject):
        return read_scores(subject, judged or options.labels, **common)
    if judged is None:
        raise ValueError(f"{subject!r} is no score file; give the images it is judged on with --data.")
    return score_model(
        subject,
        judged,
        batch_size=options.batch_size,
        num_workers=options.num_workers,
        activation=options.activation,
        **common,
    )


def _figures(table: "ScoreTable", protocol: dict[str, Any]) -> dict[str, Any]:
    with warnings.catch_warnings():
        # The tables name absent classes in a note of their own.
        warnings.filterwarnings("ignore", message=".*classes have no positive image")
        return table.figures(**protocol)


def _print(tables: "list[FigureTable]", format: str) -> None:
    from ..common.tables import show
    from ..evaluation.figure_tables import format_table, rich_table

    for table in tables:
        if format != "table":
            print(format_table(table, format), end="")
            continue
        show(rich_table(table))
        for note in table.notes:
            print(note)
    if format == "csv":  # which has no place for them
        for note in (note for table in tables for note in table.notes):
            print(note, file=sys.stderr)


def _write_json(file: str | None, content: Any) -> None:
    from ..common.files import write_whole

    if file:
        text = json.dumps(content, indent=2) + "\n"
        write_whole(Path(file), lambda path: path.write_text(text, encoding="utf-8"))


def _write_report(
    tables: "dict[str, ScoreTable]",
    intervals: "dict[str, BootstrapResult]",
    judged: "JudgedSplit | None",
    folder: str,
    data_name: str,
    verdicts: list[str],
) -> None:
    from ..common.model_loading import load_image_classifier
    from ..evaluation.score_files import is_score_file
    from ..report import write_report

    subject = next(iter(tables))
    model = processor = None
    if judged is not None and not is_score_file(subject):
        model, processor = load_image_classifier(subject)
        if model.config.model_type != "cssfe":  # only CSSFE has class activation maps to draw
            model = processor = None
    limits = {tables[name].name: entry.limits() for name, entry in intervals.items()}
    written = write_report(
        list(tables.values()),
        folder,
        intervals=limits or None,
        dataset=None if judged is None else judged.dataset,
        model=model,
        processor=processor,
        data_name=data_name,
        verdicts=verdicts,
        intervals_note=next((entry.describe() for entry in intervals.values()), None),
    )
    print(written, file=sys.stderr)  # not among the tables, which may be CSV


__all__ = ["register"]
