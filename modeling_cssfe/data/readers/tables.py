# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""Tables of `datasets` (Parquet files, saved data sets, the Hub) to the features that every source shares.

Image bytes are neither copied nor decoded here: only the image column's type changes, and label columns are rewritten
where they are not ids of named classes yet.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .labels import ALL_UNKNOWN, LabelOptions, RowLabels, label_ids, pick_labels
from .records import existing_image, image_features, settle_names
from .splits import in_order


if TYPE_CHECKING:
    import datasets

_ID_COLUMNS = ("image_id", "id")
_IMAGE_COLUMNS = ("image", "img", "jpg", "png")


def unify_tables(
    tables: Mapping[str, "datasets.Dataset"],
    options: LabelOptions,
    label_names: Sequence[str] | None,
    where: str,
    *,
    root: Path | None = None,
    image_column: str | None = None,
    id_column: str | None = None,
) -> "datasets.DatasetDict":
    """Give tables the features `image_id`, `image` (encoded) and `labels`, and `unknown_labels` if there are any.

    Args:
        tables: One table a split.
        options: How labels are read where they are not ids of a `ClassLabel`.
        label_names: The label names and their order; by default the source's own.
        where: The source, for errors.
        root: Resolved folder within which image paths must lie; None leaves paths as they are.
        image_column: By default `image`, or the only column of images.
        id_column: By default `image_id` or `id`; else ids are made of the split and the row.

    Raises:
        ValueError: A split is empty or lacks a column, label names differ, or a label id is out of range.
        FileNotFoundError: An image path leads nowhere.
    """
    import datasets

    for split, table in tables.items():
        if len(table) == 0:
            raise ValueError(f"{where}: split {split!r} has no rows; add images or remove the empty split.")
    unified, rows, declared = {}, {}, None
    for split, table in tables.items():
        here = f"{where}, split {split!r}"
        image = _image_column(table, image_column, here)
        ids = _column(table, id_column, _ID_COLUMNS, here)
        labels, order = _labels(table, {image, ids} - {None}, options, here)
        if order is not None and declared is not None and list(order) != list(declared):
            differing = sorted(set(order) ^ set(declared))
            raise ValueError(
                f"{here} has other label names than the split before it, or another order"
                f"{': ' + ', '.join(differing[:5]) if differing else ''}; give all splits the same names."
            )
        declared = order if order is not None else declared
        rows[split] = labels
        unified[split] = _only_images(table, split, image, ids, root, here)
    names, rows = settle_names(rows, declared, label_names, where)
    encoded = {split: label_ids(members, names, f"{where}, split {split!r}") for split, members in rows.items()}
    with_unknown = any(any(unknown) for _, unknown in encoded.values())
    features = image_features(names, with_unknown)
    for split, (present, unknown) in encoded.items():
        table = unified[split].add_column("labels", present, feature=features["labels"])
        if with_unknown:
            table = table.add_column("unknown_labels", unknown, feature=features["unknown_labels"])
        # add_column reads the features back from Arrow, which knows no class names.
        table.info.features = features
        unified[split] = table.cast(features) if table.features != features else table
    return datasets.DatasetDict(in_order(unified))


def _labels(
    table: "datasets.Dataset", apart: set, options: LabelOptions, where: str
) -> tuple[list[RowLabels], Sequence[str] | None]:
    column = options.labels_column
    if column is None and options.label_columns is None:
        column = next((name for name in ("labels", "label") if name in table.column_names), None)
    if column is not None and column in table.column_names:
        names = getattr(_inner(table.features[column]), "names", None)
        if names is not None:
            present = _class_labels(table, column, names, options, where)
            unknown: list[RowLabels] = [RowLabels()] * len(present)
            if "unknown_labels" in table.column_names and column == "labels":
                own = getattr(_inner(table.features["unknown_labels"]), "names", names)
                unknown = _class_labels(table, "unknown_labels", own, LabelOptions(empty_cells="negative"), where)
            return [
                has if has is ALL_UNKNOWN else RowLabels(has.present, maybe.present)
                for has, maybe in zip(present, unknown, strict=True)
            ], names
    chosen = options.label_columns or ([column] if column is not None else table.column_names)
    wanted = [name for name in chosen if name in table.column_names and name not in apart]
    columns = {name: _cells(table, name) for name in wanted}
    return pick_labels(columns, options, where)


def _class_labels(
    table: "datasets.Dataset", column: str, names: Sequence[str], options: LabelOptions, where: str
) -> list[RowLabels]:
    rows = []
    for index, cell in enumerate(_cells(table, column)):
        if cell is None:
            if options.empty_cells == "error":
                raise ValueError(
                    f"{where}, row {index}: {column!r} is empty; say with empty_cells='unknown' or "
                    "empty_cells='negative' what that means."
                )
            rows.append(ALL_UNKNOWN if options.empty_cells == "unknown" else RowLabels())
            continue
        ids = cell if isinstance(cell, list) else [cell]
        for label in ids:
            if label is None or not 0 <= label < len(names):
                raise ValueError(
                    f"{where}, row {index}: label id {label} is out of range; with {len(names)} label names ids run "
                    f"from 0 to {len(names) - 1}."
                )
        rows.append(RowLabels(tuple(names[label] for label in ids)))
    return rows


def _only_images(
    table: "datasets.Dataset", split: str, image: str, ids: str | None, root: Path | None, where: str
) -> "datasets.Dataset":
    """Return the table with the columns `image_id` and `image`, in this order."""
    import datasets

    images = table.select_columns([image]).cast_column(image, datasets.Image(decode=False))
    if root is not None:
        images = _with_paths_inside(images, image, root, where)
    if image != "image":
        images = images.rename_column(image, "image")
    names = (
        [str(name) for name in _cells(table, ids)]
        if ids is not None
        else [f"{split}-{index:08d}" for index in range(len(table))]
    )
    with_ids = images.add_column("image_id", names, feature=datasets.Value("string"))
    return with_ids.select_columns(["image_id", "image"])


def _with_paths_inside(images: "datasets.Dataset", column: str, root: Path, where: str) -> "datasets.Dataset":
    """Check and resolve the paths of images that come without bytes."""
    import datasets
    import pyarrow as pa

    chunks = images.with_format("arrow")[:][column].chunks
    if all(chunk.field("bytes").null_count == 0 for chunk in chunks):
        return images
    checked, row = [], 0
    for chunk in chunks:
        data = chunk.field("bytes")
        paths = chunk.field("path").to_pylist()
        for offset, absent in enumerate(data.is_null().to_pylist()):
            if absent:
                paths[offset] = existing_image(root, paths[offset] or "", f"{where}, row {row + offset}")
        row += len(chunk)
        checked.append(pa.StructArray.from_arrays([data, pa.array(paths, pa.string())], ["bytes", "path"]))
    features = datasets.Features({column: datasets.Image(decode=False)})
    return datasets.Dataset(pa.table({column: pa.chunked_array(checked)}, schema=features.arrow_schema))


def _image_column(table: "datasets.Dataset", asked: str | None, where: str) -> str:
    import datasets

    found = _column(table, asked, _IMAGE_COLUMNS, where)
    if found is None:
        images = [name for name, feature in table.features.items() if isinstance(feature, datasets.Image)]
        found = images[0] if len(images) == 1 else None
    if found is None:
        raise ValueError(
            f"{where} has no column 'image' among {', '.join(table.column_names)}; name it with image_column=...."
        )
    return found


def _column(table: "datasets.Dataset", asked: str | None, usual: Sequence[str], where: str) -> str | None:
    if asked is not None and asked not in table.column_names:
        raise ValueError(f"{where} has no column {asked!r}; its columns are {', '.join(table.column_names)}.")
    return asked or next((name for name in usual if name in table.column_names), None)


def _inner(feature: Any) -> Any:
    """Return the feature of a list's elements, or the feature itself."""
    if isinstance(feature, list):
        return feature[0]
    return getattr(feature, "feature", feature)


def _cells(table: "datasets.Dataset", column: str) -> list:
    return table.select_columns([column]).with_format("arrow")[:][column].to_pylist()


__all__ = ["unify_tables"]
