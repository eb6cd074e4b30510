# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""The README.md of a prepared data set: what it is, its terms, its counts, and checksums of what it was made from."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ...common.markdown import escape_markdown, markdown_table
from .downloads import file_digest


if TYPE_CHECKING:
    from .record_builder import RecordBuilder


def render_dataset_card(
    builder: "RecordBuilder", files: Mapping[str, Sequence[Path]], counts: Mapping[str, Sequence[int]], root: Path
) -> str:
    """Return the card of a set that a builder has just prepared.

    Args:
        builder: It has a plan.
        files: The Parquet files of each split, below `root`.
        counts: Images of each class in each split.
        root: The set's folder.

    Returns:
        Markdown, headed by the metadata that the Hub and `datasets` read.

    Raises:
        ValueError: The builder has no plan.
    """
    import datasets
    from huggingface_hub import DatasetCardData

    from ...configuration_cssfe import assign_groups
    from ...version import __version__

    if builder.plan is None:
        raise ValueError("the builder has no plan, because its set came from the cache; prepare it into a new folder.")
    rows = builder.plan.rows
    metadata = DatasetCardData(
        pretty_name=builder.PRETTY_NAME,
        license="other",
        task_categories=["image-classification"],
        task_ids=["multi-label-image-classification"],
        configs=[
            {
                "config_name": "default",
                "data_files": [
                    {"split": split, "path": [str(file.relative_to(root)) for file in parts]}
                    for split, parts in files.items()
                ],
            }
        ],
    )
    info = builder.info.copy()
    info.config_name = "default"
    datasets.info.DatasetInfosDict({"default": info}).to_dataset_card_data(metadata)
    names = list(builder.label_names())
    groups = assign_groups(counts["train"])
    splits = list(rows)
    unlabeled = {split: sum(not row.labels for row in members) for split, members in rows.items()}
    class_rows = [
        [escape_markdown(names[label]), groups[label], *(counts[split][label] for split in splits)]
        for label in sorted(range(len(names)), key=lambda label: -counts["train"][label])
    ]
    class_rows.append(["images", "", *(len(rows[split]) for split in splits)])
    class_rows.append(["images without label", "", *(unlabeled[split] for split in splits)])
    lines = [
        "---",
        metadata.to_yaml(),
        "---",
        "",
        f"# {builder.PRETTY_NAME}",
        "",
        builder.ABOUT,
        "",
        f"Written by `{type(builder).__name__}` {builder.VERSION} of the package cssfe {__version__}. Images are the "
        "bytes of the source.",
        "",
        "## Terms",
        "",
        builder.LICENSES,
        "",
        "## Options",
        "",
        *(f"- `{name}`: {value!r}" for name, value in builder.options().items()),
        "",
        "## Images of each class",
        "",
        "Groups by training images: head from 100, tail below 20.",
        "",
        markdown_table(["class", "group", *splits], class_rows),
        "",
        "## Made from",
        "",
        *(f"- {name}: {fact}" for name, fact in builder.plan.sources.items()),
        "",
        "## Files",
        "",
        "| file | sha256 |",
        "|---|---|",
        *(
            f"| {file.relative_to(root).as_posix()} | {file_digest(file)} |"
            for parts in files.values()
            for file in parts
        ),
        "",
    ]
    return "\n".join(lines)


__all__ = ["render_dataset_card"]
