# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""`cssfe data`: what a data set holds, and how it is prepared."""

import argparse

from ._verbs import AddVerb


def register(add: AddVerb) -> None:
    """Declare the actions of `cssfe data`."""
    inspect = add("data inspect", _inspect, "Show counts and groups of a data set.")
    inspect.add_argument("data", help="lt_digits, folder, file or `datasets` name")
    inspect.add_argument("--head_min", type=int, default=100, help="smallest count of a head class")
    inspect.add_argument("--tail_max", type=int, default=20, help="counts below it are tail")


def _inspect(options: argparse.Namespace) -> None:
    from rich.table import Table

    from ..configuration_cssfe import assign_groups
    from ..data import class_statistics, label_names_of, load_images
    from ..training.report import show

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


__all__ = ["register"]
