# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""Command line: `cssfe VERB`.

Each verb parses its arguments here and calls one function of the package. Exit code 0: done. 1: failed. 2: something
about the arguments or the data is wrong; one line says what and how to mend it.
"""

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence


DESCRIPTION = "Long-tailed multi-label image classification with CSSFE."


class _Parser(argparse.ArgumentParser):
    """Reports a wrong argument in one line."""

    def error(self, message: str):
        self.exit(2, f"{self.prog}: error: {message} (see {self.prog} --help)\n")


def build_parser() -> argparse.ArgumentParser:
    """The parser of all verbs."""
    common = _Parser(add_help=False)
    common.add_argument("--debug", action="store_true", help="show the traceback of an error")
    parser = _Parser(prog="cssfe", description=DESCRIPTION)
    parser.add_argument("--version", action="store_true", help="print the version and leave")
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", parser_class=_Parser)

    def add(name: str, function: Callable[[argparse.Namespace], None], summary: str) -> argparse.ArgumentParser:
        verb = verbs.add_parser(
            name,
            help=summary,
            description=summary,
            parents=[common],
            formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        )
        verb.set_defaults(function=function)
        return verb

    train = add("train", _train, "Train a model from a recipe.")
    train.add_argument("--recipe", default="lt_digits", help="shipped recipe (see `cssfe info`) or YAML file")
    train.add_argument("--output_dir", required=True, help="new or empty folder for the run")
    train.add_argument("--data", help="data in place of the recipe's: lt_digits, folder, file or `datasets` name")
    train.add_argument("--backbone_weights", help="true, false or a .safetensors file in place of the recipe's")
    train.add_argument("--label_embeddings", help="CLIP model, .safetensors file or random in place of the recipe's")
    train.add_argument("--seed", type=int, help="seed in place of the recipe's")
    train.add_argument(
        "--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE", help="any other key of the recipe"
    )
    train.add_argument("--quiet", action="store_true", help="no progress and no tables")

    evaluate = add("evaluate", _evaluate, "Judge trained models on a data set, side by side.")
    evaluate.add_argument("models", nargs="+", help="folders or Hub repositories of trained models")
    evaluate.add_argument("--data", required=True, help="lt_digits, folder, file or `datasets` name")
    evaluate.add_argument("--split", help="split to judge (default: test, else validation, else the only one)")
    evaluate.add_argument("--batch_size", type=int, default=32, help="images a step")
    evaluate.add_argument("--num_workers", type=int, default=0, help="loader processes")
    evaluate.add_argument("--output", help="JSON file for all figures")

    predict = add("predict", _predict, "Classify images.")
    predict.add_argument("model", help="folder or Hub repository of a trained model")
    predict.add_argument("images", nargs="+", help="image files, or folders of images")
    predict.add_argument("--top_k", type=int, default=5, help="labels shown for each image")
    predict.add_argument("--json", action="store_true", help="print one JSON object a line")

    explain = add("explain", _explain, "Draw class activation maps before and after enhancement.")
    explain.add_argument("model", help="folder or Hub repository of a trained model")
    explain.add_argument("image", help="image file")
    explain.add_argument("--labels", nargs="+", metavar="LABEL", help="label names (default: the highest scores)")
    explain.add_argument("--top_k", type=int, default=3, help="labels drawn where none are named")
    explain.add_argument("--output", default="explanation.png", help="PNG or SVG file")

    card = add("card", _card, "Render the model card of a trained model again.")
    card.add_argument("model", help="folder that `cssfe train` wrote")
    card.add_argument("--model_id", help="repository name for the card's snippet (default: the folder)")

    data = add("data", _data, "Show counts and groups of a data set.")
    data.add_argument("data", help="lt_digits, folder, file or `datasets` name")
    data.add_argument("--head_min", type=int, default=100, help="smallest count of a head class")
    data.add_argument("--tail_max", type=int, default=20, help="counts below it are tail")

    add("losses", _losses, "List the losses.")
    add("info", _info, "Show versions, hardware, shipped recipes and presets.")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a verb and return its exit code (0, 1 or 2)."""
    parser = build_parser()
    try:
        options = parser.parse_args(arguments)
    except SystemExit as leave:
        return int(leave.code or 0)
    if options.version:
        from .version import __version__

        print(__version__)
        return 0
    if options.verb is None:
        parser.print_help()
        return 2
    return _run(options.verb, options)


def _run(verb: str, options: argparse.Namespace) -> int:
    from huggingface_hub.errors import StrictDataclassError

    try:
        options.function(options)
        return 0
    except KeyboardInterrupt:
        print(f"cssfe {verb}: interrupted", file=sys.stderr)
        return 1
    except BrokenPipeError:
        # The reader of our output (head, less) has left; that is no error of ours.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        if options.debug:
            raise
        wrong_input = ValueError | TypeError | FileNotFoundError | NotADirectoryError | StrictDataclassError
        message = " ".join(str(error).split()) or type(error).__name__
        print(f"cssfe {verb}: error: {message}", file=sys.stderr)
        return 2 if isinstance(error, wrong_input) else 1


def _train(options: argparse.Namespace) -> None:
    from .training import load_recipe, train

    values = {name: getattr(options, name) for name in ("data", "backbone_weights", "label_embeddings", "seed")}
    values = {name: value for name, value in values.items() if value is not None}
    if str(values.get("backbone_weights")).lower() in ("true", "false"):
        values["backbone_weights"] = values["backbone_weights"].lower() == "true"
    train(load_recipe(options.recipe, options.set, values), options.output_dir, quiet=options.quiet)


def _evaluate(options: argparse.Namespace) -> None:
    from pathlib import Path

    from .training.evaluation import evaluate_model
    from .training.report import class_table, group_table, show
    from .training.run_folder import write_whole

    results = {
        model: evaluate_model(model, options.data, options.split, options.batch_size, options.num_workers)
        for model in dict.fromkeys(options.models)
    }
    last = list(results.values())[-1]
    title = f"{options.data}, split {last['split']}, {last['num_images']} images"
    tables = [class_table(last, f"Average precision by class: {last['model']}")] if len(results) == 1 else []
    show(*tables, group_table(results, title))
    if options.output:
        content = json.dumps(list(results.values()), indent=2) + "\n"
        write_whole(Path(options.output), lambda file: file.write_text(content, encoding="utf-8"))


def _predict(options: argparse.Namespace) -> None:
    from rich.table import Table

    from .predict import find_images, predict
    from .training.report import show

    if options.top_k < 1:
        raise ValueError(f"--top_k is {options.top_k}; give a number >= 1.")
    table = Table("image", "label", "score", "above threshold")
    for entry in predict(options.model, find_images(options.images), options.top_k):
        if options.json:
            print(json.dumps(entry), flush=True)
            continue
        for place, label in enumerate(entry["predictions"]):
            table.add_row(
                entry["image"] if place == 0 else "",
                label["label"],
                f"{label['score']:.4f}",
                "yes" if label["above_threshold"] else "",
            )
        table.add_section()
    if not options.json:
        show(table)


def _explain(options: argparse.Namespace) -> None:
    from .data import decode_image
    from .explain import compute_label_maps, draw_label_maps
    from .training.evaluation import load_trained_model

    image = decode_image(options.image)
    model, processor = load_trained_model(options.model)
    maps = compute_label_maps(model, processor, image, options.labels, options.top_k)
    draw_label_maps(image, maps, options.output)
    print(f"{options.output}: " + ", ".join(f"{entry.label} {entry.score:.2f}" for entry in maps))


def _card(options: argparse.Namespace) -> None:
    from pathlib import Path

    from .configuration_cssfe import CSSFEConfig
    from .hub.model_card import render_model_card
    from .training.run_folder import write_whole

    folder = Path(options.model)
    if not (folder / "results.json").is_file():
        raise ValueError(f"{options.model!r} holds no results.json; give a folder that `cssfe train` wrote.")
    results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    card = render_model_card(results, CSSFEConfig.from_pretrained(folder), options.model_id or options.model)
    write_whole(folder / "README.md", lambda file: file.write_text(card, encoding="utf-8"))
    print(folder / "README.md")


def _data(options: argparse.Namespace) -> None:
    from rich.table import Table

    from .configuration_cssfe import assign_groups
    from .data import class_statistics, label_names_of, load_images
    from .training.report import show

    splits = load_images(options.data)
    first = "train" if "train" in splits else next(iter(splits))
    names = label_names_of(splits[first])
    statistics = {name: class_statistics(split, names) for name, split in splits.items()}
    groups = assign_groups(statistics[first].class_counts, options.head_min, options.tail_max)
    table = Table(title=f"{options.data}: images of each class (group by {first})", title_justify="left")
    for column in ("class", "group", *statistics):
        table.add_column(column, justify="left" if column in ("class", "group") else "right")
    for index in sorted(range(len(names)), key=lambda index: -statistics[first].class_counts[index]):
        counts = (str(entry.class_counts[index]) for entry in statistics.values())
        table.add_row(names[index], groups[index], *counts)
    table.add_section()
    table.add_row("images", "", *(str(entry.num_samples) for entry in statistics.values()))
    table.add_row("labels an image", "", *(f"{entry.mean_labels:.2f}" for entry in statistics.values()))
    show(table)


def _losses(options: argparse.Namespace) -> None:
    from rich.table import Table

    from .losses import get_loss_entry, list_losses
    from .training.report import show

    table = Table("loss", "what it does", "sampler")
    for entry in map(get_loss_entry, list_losses()):
        table.add_row(entry.name, entry.description, entry.sampler)
    show(table)


def _info(options: argparse.Namespace) -> None:
    from rich.table import Table

    from .configuration_cssfe import ABLATIONS, PRESETS
    from .training.environment import describe_environment
    from .training.recipe import list_recipes
    from .training.report import show

    table = Table("what", "value")
    for key, value in describe_environment().items():
        table.add_row(key, "-" if value is None else str(value))
    table.add_section()
    table.add_row("presets", ", ".join(PRESETS))
    table.add_row("ablations", ", ".join(ABLATIONS))
    table.add_row("recipes", ", ".join(list_recipes()))
    show(table)


if __name__ == "__main__":
    sys.exit(main())
