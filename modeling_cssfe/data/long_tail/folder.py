# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""A drawn set as a folder: Parquet files of its splits, a report and a card; all of it, or nothing.

    DIR/README.md
    DIR/report.json
    DIR/data/train-00000-of-00001.parquet ...

`load_images(DIR)` and `datasets.load_dataset(DIR)` read it.
"""

import json
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...common.markdown import escape_markdown, markdown_table


if TYPE_CHECKING:
    import datasets

    from .make import LongTailDraw

_ROWS_PER_GROUP = 100
_SHARD_BYTES = 500_000_000


def save_long_tailed(draw: "LongTailDraw", output_dir: str | os.PathLike) -> None:
    """Write a drawn set; image files are copied into the Parquet files, byte by byte.

    The folder grows beside its place as `.DIR.incomplete` and is renamed when it is whole.

    Args:
        draw: From `make_long_tailed`.
        output_dir: Folder to make; it must not exist.

    Raises:
        FileExistsError: The folder exists.
        FileNotFoundError: An image of the set is gone.
    """
    target = Path(output_dir).expanduser().absolute()
    if os.path.lexists(target):
        raise FileExistsError(f"{str(output_dir)!r} exists; remove it, or name another folder.")
    growing = target.parent / f".{target.name}.incomplete"
    shutil.rmtree(growing, ignore_errors=True)
    (growing / "data").mkdir(parents=True)
    try:
        for split, rows in draw.dataset.items():
            write_split(rows, growing / "data", str(split))
        report = draw.report()
        (growing / "report.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
        (growing / "README.md").write_text(_card(report), encoding="utf-8")
        if os.path.lexists(target):
            raise FileExistsError(f"{str(output_dir)!r} appeared in the meantime; name another folder.")
        os.replace(growing, target)
    finally:
        shutil.rmtree(growing, ignore_errors=True)


def write_split(rows: "datasets.Dataset", folder: Path, split: str) -> None:
    """Write a split as Parquet files of at most some 500 MB, with the images' bytes in them.

    Args:
        rows: As `load_images` gives them.
        folder: Where to; it must exist.
        split: First part of the files' names.

    Raises:
        FileNotFoundError: An image is gone.
    """
    import datasets
    import pyarrow.parquet
    from datasets.table import embed_table_storage

    # Who reads the files wants images, not bytes; load_images turns decoding off again.
    features = datasets.Features(
        {name: datasets.Image() if isinstance(one, datasets.Image) else one for name, one in rows.features.items()}
    )
    shards: list[Path] = []
    writer, written = None, 0
    try:
        for table in rows.with_format("arrow").iter(batch_size=_ROWS_PER_GROUP):
            # Not `Dataset.to_parquet`, which leaves images in files as paths of this machine.
            table = embed_table_storage(table.cast(features.arrow_schema))
            if writer is None or written >= _SHARD_BYTES:
                if writer is not None:
                    writer.close()
                shards.append(folder / f"{split}-{len(shards):05d}.parquet")
                writer, written = pyarrow.parquet.ParquetWriter(shards[-1], features.arrow_schema), 0
            writer.write_table(table)
            written += table.nbytes
    finally:
        if writer is not None:
            writer.close()
    for number, shard in enumerate(shards):
        shard.rename(folder / f"{split}-{number:05d}-of-{len(shards):05d}.parquet")


def _card(report: dict[str, Any]) -> str:
    from huggingface_hub import DatasetCardData

    from ...version import __version__

    splits = list(report["images"])
    metadata = DatasetCardData(
        task_categories=["image-classification"],
        task_ids=["multi-label-image-classification"],
        tags=["long-tailed"],
        configs=[
            {
                "config_name": "default",
                "data_files": [{"split": split, "path": f"data/{split}-*.parquet"} for split in splits],
            }
        ],
    )
    images = ", ".join(f"{count} {split}" for split, count in report["images"].items())
    gap = "" if report["gap"] is None else f", gap {report['gap']:.3g}"
    lines = [
        "---",
        metadata.to_yaml(),
        "---",
        "",
        "# A long-tailed multi-label set",
        "",
        f"Training images were drawn from another set by the package cssfe {__version__}, so that the counts of the "
        "classes follow a long tail as closely as co-occurrence allows; validation and test are stratified parts of "
        "the rest. The terms are those of the source.",
        "",
        f"- Images: {images}",
        f"- Method: {report['method']}, {report['status']}{gap}",
        f"- Deviation (sum over classes of |reached - target| / target): {report['deviation']:.4g}",
        *(f"- `{name}`: {value!r}" for name, value in report["options"].items()),
        "",
        markdown_table(
            ["class", "available", "target", *splits],
            [
                [escape_markdown(row["name"]), row["available"], row["target"], *(row[split] for split in splits)]
                for row in report["classes"]
            ],
        ),
        "",
    ]
    return "\n".join(lines)


__all__ = ["save_long_tailed"]
