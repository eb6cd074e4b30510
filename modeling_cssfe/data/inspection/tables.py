# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""An inspection as tables for people."""

from rich.text import Text

from ...common.tables import TextTable, text_table
from .inspect import Finding, Inspection


_PAIRS = 10
_REASONS = 10
_COLORS = {"error": "bold red", "warning": "yellow", "note": "cyan"}


def inspection_tables(inspection: Inspection, title: str) -> list[TextTable]:
    """Return classes, groups, labels per image, pairs of classes, image files and findings, each as a table.

    Args:
        inspection: From `inspect_images`.
        title: Name of the data.
    """
    tables = [_classes(inspection, title), _groups(inspection), _labels(inspection)]
    tables += [table for table in (_pairs(inspection), _images(inspection), _unreadable(inspection)) if table]
    return [*tables, _findings(inspection.findings)]


def _classes(inspection: Inspection, title: str) -> TextTable:
    heading = f"{title}: images of each class (group by {inspection.group_split})"
    unknown = {split for split, entry in inspection.splits.items() if any(entry.unknown_counts)}
    columns = [
        column for split in inspection.splits for column in ([split, "unknown"] if split in unknown else [split])
    ]
    table = text_table(heading, "class", "group", *columns, numbers_from=2)
    counts = inspection.group_counts
    for index in sorted(range(len(counts)), key=lambda index: -counts[index]):
        cells: list[str] = []
        for split, entry in inspection.splits.items():
            cells.append(str(entry.class_counts[index]))
            if split in unknown:
                cells.append(str(entry.unknown_counts[index]))
        table.add_row(inspection.label_names[index], inspection.groups[index], *cells)
    return table


def _groups(inspection: Inspection) -> TextTable:
    table = text_table(
        f"groups: head from {inspection.head_min} images, tail below {inspection.tail_max}",
        "group",
        "classes",
        "images of a class",
        *(f"labels of {split}" for split in inspection.splits),
        numbers_from=1,
    )
    totals = [sum(entry.class_counts) for entry in inspection.splits.values()]
    for group in ("head", "medium", "tail"):
        members = [index for index, own in enumerate(inspection.groups) if own == group]
        counts = [inspection.group_counts[index] for index in members]
        shares = [
            f"{100 * sum(entry.class_counts[index] for index in members) / total:.1f} %" if total else "-"
            for entry, total in zip(inspection.splits.values(), totals, strict=True)
        ]
        table.add_row(group, str(len(members)), f"{min(counts)} to {max(counts)}" if counts else "-", *shares)
    return table


def _labels(inspection: Inspection) -> TextTable:
    most = max(len(entry.labels_per_image) for entry in inspection.splits.values()) - 1
    columns = [str(number) for number in range(min(most, 5) + 1)]
    if most > 5:
        columns[-1] = "5+"
    table = text_table("images by number of labels", "split", "images", *columns, "mean", "most", numbers_from=1)
    for split, entry in inspection.splits.items():
        histogram = entry.labels_per_image
        cells = [histogram[number] if number < len(histogram) else 0 for number in range(len(columns))]
        cells[-1] = sum(histogram[len(columns) - 1 :])
        mean = sum(entry.class_counts) / entry.num_images
        table.add_row(
            split, f"{entry.num_images:,}", *map("{:,}".format, cells), f"{mean:.2f}", str(len(histogram) - 1)
        )
    return table


def _pairs(inspection: Inspection) -> TextTable | None:
    split = inspection.group_split if inspection.group_split in inspection.splits else next(iter(inspection.splits))
    entry = inspection.splits[split]
    if not entry.pairs:
        return None
    table = text_table(
        f"classes that occur together most often in {split} ({min(_PAIRS, len(entry.pairs))} of {len(entry.pairs):,} "
        "pairs)",
        "a",
        "b",
        "images with both",
        "of those with a",
        "of those with b",
        numbers_from=2,
    )
    for first, second, count in sorted(entry.pairs, key=lambda pair: -pair[2])[:_PAIRS]:
        # The rarer class second: how much of it comes along with the other is what matters.
        if entry.class_counts[first] < entry.class_counts[second]:
            first, second = second, first
        shares = (f"{100 * count / entry.class_counts[index]:.0f} %" for index in (first, second))
        table.add_row(*(inspection.label_names[index] for index in (first, second)), f"{count:,}", *shares)
    return table


def _images(inspection: Inspection) -> TextTable | None:
    heads = ["split", "read", "unreadable", "MB", "width", "height", "sizes", "formats", "pixel modes"]
    table = text_table("image files", *heads, numbers_from=1)
    for split, entry in inspection.splits.items():
        images = entry.images
        if images is None:
            return None
        table.add_row(
            split,
            f"{images.num_checked:,}",
            f"{len(images.unreadable):,}",
            f"{images.num_bytes / 1e6:,.1f}",
            _span(images.width),
            _span(images.height),
            f"{images.num_sizes:,}",
            *(
                ", ".join(f"{name} {count:,}" for name, count in part.items())
                for part in (images.formats, images.modes)
            ),
        )
    return table


def _span(values: tuple[int, int, int] | None) -> str:
    """Smallest, median and largest; one number where they are the same."""
    return "-" if values is None else " / ".join(map(str, values if values[0] < values[2] else values[:1]))


def _unreadable(inspection: Inspection) -> TextTable | None:
    reasons = [
        (split, reason)
        for split, entry in inspection.splits.items()
        for _, reason in (entry.images.unreadable if entry.images else ())
    ]
    if not reasons:
        return None
    table = text_table(f"unreadable images ({min(_REASONS, len(reasons))} of {len(reasons):,})", "split", "reason")
    for split, reason in reasons[:_REASONS]:
        table.add_row(split, reason)
    return table


def _findings(findings: tuple[Finding, ...]) -> TextTable:
    table = text_table("what would go wrong in training", "", "found", "mend", numbers_from=3)
    if not findings:
        table.add_row("", "nothing", "")
    for finding in findings:
        table.add_row(Text(finding.severity, _COLORS[finding.severity]), finding.message, finding.mend)
    return table


__all__ = ["inspection_tables"]
