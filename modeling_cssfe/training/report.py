# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""Tables for people: head / medium / tail mAP of one or several results, and average precision by class."""

from collections.abc import Mapping
from typing import Any

from ..common.tables import TextTable, percent, text_table
from ..metrics.long_tail import MAP_FIGURES


def group_table(results: Mapping[str, Mapping[str, Any]], title: str) -> TextTable:
    """mAP of several results side by side, one row each.

    Args:
        results: Row name -> result of `long_tail_map`.
        title: Heading of the table.
    """
    table = text_table(title, "mAP (%)", *(figure.removeprefix("map_") for figure in MAP_FIGURES), numbers_from=1)
    for name, result in results.items():
        table.add_row(name, *(percent(result.get(figure)) for figure in MAP_FIGURES))
    return table


def class_table(result: Mapping[str, Any], title: str) -> TextTable:
    """Average precision, F1 and counts of each class, most frequent first."""
    table = text_table(title, "class", "group", "training images", "positives", "AP", "F1", numbers_from=2)
    for row in sorted(result["class_table"], key=lambda row: -row["class_count"]):
        table.add_row(
            row["name"],
            row["group"],
            row["class_count"],
            row["num_positives"],
            percent(row["average_precision"]),
            percent(row["f1"]),
        )
    return table


def published_row(published: Mapping[str, Any]) -> str:
    """Name of the row that a recipe's `published` figures form."""
    return f"published on {published['data']}" if "data" in published else "published"


__all__ = ["class_table", "group_table", "published_row"]
