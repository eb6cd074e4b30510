# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""One function for every place where images and labels may lie: `load_images`."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from .coco import DIFFICULT_RULES, coco_files, read_coco
from .image_folder import METADATA_NAMES, metadata_files, read_image_folder
from .labels import LabelOptions
from .records import IMAGE_SUFFIXES, records_to_datasets
from .splits import files_by_split, split_of
from .tables import unify_tables
from .voc import flat_voc_folders, read_flat_voc, read_voc, voc_root
from .yolo import YAML_SUFFIXES, read_yolo, yolo_source


if TYPE_CHECKING:
    import datasets

ACCEPTED = (
    "'lt_digits', 'lt_voc', 'lt_coco', Parquet files, a saved or Hub data set, an image folder with metadata.jsonl or "
    "metadata.csv, COCO JSON, VOC XML, or YOLO text with data.yaml"
)


def load_images(
    path_or_name: str | os.PathLike,
    *,
    label_names: Sequence[str] | None = None,
    image_column: str | None = None,
    id_column: str | None = None,
    labels_column: str | None = None,
    label_columns: Sequence[str] | None = None,
    delimiter: str | None = None,
    empty_cells: str = "error",
    difficult: str = "positive",
    image_root: str | os.PathLike | None = None,
    config_name: str | None = None,
    revision: str | None = None,
    cache_dir: str | os.PathLike | None = None,
) -> "datasets.DatasetDict":
    """Load a multi-label image set from wherever it is, with the same features for all.

    The features are `image_id: string`, `image: Image(decode=False)` (bytes or an absolute path, decoded by the
    loader), `labels: List(ClassLabel)` and, only if some label is unknown, `unknown_labels: List(ClassLabel)`. Other
    columns are left behind. Splits are called `train`, `validation` and `test`.

    | `path_or_name` | is read as |
    |---|---|
    | `lt_digits` | the embedded `LTDigits` |
    | `lt_voc`, `lt_coco` | the benchmarks `LTVOC` and `LTCOCO`, downloaded, or made of what lies in `image_root` |
    | a folder of `*.parquet` (or with them in `data/`), or one such file | splits by file name |
    | a folder from `save_to_disk` | a saved `datasets` data set |
    | a folder with `metadata.jsonl` or `metadata.csv` | an image folder; `modeling_cssfe.data.readers.image_folder` |
    | a folder with `annotations/*.json`, or one JSON file | COCO; `modeling_cssfe.data.readers.coco` |
    | a folder with `Annotations/*.xml`, or XML files beside images | VOC; `modeling_cssfe.data.readers.voc` |
    | a folder with `data.yaml` or `classes.txt`, or one YAML file | YOLO text; `modeling_cssfe.data.readers.yolo` |
    | another name without a folder of that name | a data set of the Hugging Face Hub |

    Args:
        path_or_name: See the table.
        label_names: The label names in the wanted order, such as those of a trained model; by default the source's own
            order, or sorted names where it has none. A label that is not among them is an error; a name that the source
            does not have is a class without images.
        image_column: Column of images, or of file names in an image folder.
        id_column: Column of image ids.
        labels_column: Column of label lists (or text with delimiters); by default `labels` or `label`.
        label_columns: Columns of 1, 0 and -1 (unknown), one a label; by default all other columns, if there is no label
            column and all hold nothing else.
        delimiter: Between the names in a label cell of text; by default the one of `|`, `;`, `,` that occurs.
        empty_cells: What a missing label cell means: `"error"`, `"unknown"` or `"negative"`. Empty text in a column of
            label lists is an image without labels, unless this is `"unknown"`.
        difficult: What VOC objects marked difficult and COCO crowds say: `"positive"` (the class is present, as in the
            field's benchmarks), `"ignore"` (nothing), or `"unknown"`.
        image_root: Folder of the images of a COCO file or a YOLO data set, if they are not beside it; for `lt_voc` and
            `lt_coco`, the folder with the devkits or archives.
        config_name: Configuration of a Hub data set.
        revision: Commit, tag or branch of a Hub data set.
        cache_dir: Where `datasets` keeps its converted files; by default its own cache.

    Returns:
        One `datasets.Dataset` a split.

    Raises:
        FileNotFoundError: The path or Hub name does not exist, or an image that the data name does not.
        ValueError: The folder is empty or holds nothing that can be read, or something in it is wrong; the message is
            one line that names it.
    """
    options = LabelOptions(labels_column, tuple(label_columns) if label_columns else None, delimiter, empty_cells)
    if difficult not in DIFFICULT_RULES:
        raise ValueError(f"difficult must be one of {', '.join(DIFFICULT_RULES)}, got {difficult!r}.")
    text = os.fspath(path_or_name)
    cache = None if cache_dir is None else str(cache_dir)

    def unify(tables: "Mapping[str, datasets.Dataset]", root: Path | None = None) -> "datasets.DatasetDict":
        return unify_tables(
            tables, options, label_names, text, root=root, image_column=image_column, id_column=id_column
        )

    if text in ("lt_digits", "lt_voc", "lt_coco"):
        return unify(_built(text, image_root, difficult, cache))
    path = Path(text).expanduser()
    if not path.exists():
        if _looks_like_path(text):
            raise FileNotFoundError(f"there is no {text!r}; pass {ACCEPTED}.")
        return unify(_from_hub(text, config_name, revision, cache))
    root = path.resolve()
    asked_root = None if image_root is None else Path(image_root).expanduser()
    if path.is_file():
        if path.suffix == ".parquet":
            return unify(_read_parquet({split_of(path.stem) or "train": [root]}, cache, text), root.parent)
        if path.name in METADATA_NAMES:
            found = read_image_folder(root.parent, [root], options, image_column, id_column)
            return records_to_datasets(*found, label_names, text)
        if path.suffix == ".json":
            folder = root.parent.parent if root.parent.name == "annotations" else root.parent
            found_coco = read_coco([root], folder, asked_root, difficult)
            return records_to_datasets(*found_coco, label_names, text)
        if path.suffix in YAML_SUFFIXES:
            return records_to_datasets(*read_yolo(root, asked_root), label_names, text)
        raise ValueError(f"{text!r} is no data set file; pass {ACCEPTED}.")
    if not any(root.iterdir()):
        raise ValueError(f"the folder {text!r} is empty; pass {ACCEPTED}.")
    if (root / "dataset_dict.json").is_file() or (root / "state.json").is_file():
        return unify(_from_disk(root, text))
    parquet = sorted(root.glob("*.parquet")) or sorted((root / "data").glob("*.parquet"))
    if parquet:
        return unify(_read_parquet(files_by_split(parquet), cache, text), parquet[0].parent)
    tables = metadata_files(root)
    if tables:
        return records_to_datasets(
            *read_image_folder(root, tables, options, image_column, id_column), label_names, text
        )
    annotated = voc_root(root)
    if annotated is not None:
        return records_to_datasets(read_voc(annotated, difficult, label_names), None, label_names, text)
    annotations = coco_files(root)
    if annotations:
        return records_to_datasets(*read_coco(annotations, root, asked_root, difficult), label_names, text)
    flat = flat_voc_folders(root)
    if flat:
        return records_to_datasets(read_flat_voc(flat, difficult, label_names), None, label_names, text)
    named = yolo_source(root)
    if named is not None:
        return records_to_datasets(*read_yolo(named, asked_root), label_names, text)
    raise ValueError(f"the folder {text!r} {_what_it_holds(root)}; pass {ACCEPTED}.")


def _read_parquet(files: dict[str, list[Path]], cache: str | None, where: str) -> "datasets.DatasetDict":
    import datasets
    import pyarrow.parquet

    try:
        first: tuple[Path, dict[str, list[str]]] | None = None
        for split, paths in files.items():
            heads = [pyarrow.parquet.read_metadata(path) for path in paths]
            if sum(head.num_rows for head in heads) == 0:
                raise _BadSplitError(f"{where}: split {split!r} has no rows; add images or remove the empty split.")
            for path, head in zip(paths, heads, strict=True):
                names = _class_names(datasets.Features.from_arrow_schema(head.schema.to_arrow_schema()))
                first = first or (path, names)
                # load_dataset reads all files by the features of the first: ids would silently change their meaning.
                if names != first[1]:
                    raise _BadSplitError(
                        f"{path.name!r} of {where!r} has other label names than {first[0].name!r}, or another order; "
                        "give all files the same names."
                    )
        return datasets.load_dataset(
            "parquet",
            data_files={split: [str(path) for path in paths] for split, paths in files.items()},
            cache_dir=cache,
        )
    except _BadSplitError:
        raise
    except (
        datasets.exceptions.DatasetGenerationError,
        datasets.exceptions.DatasetsError,
        ValueError,
        OSError,
    ) as error:
        raise ValueError(
            f"the Parquet files of {where!r} cannot be read ({_first_line(error.__cause__ or error)}); write them "
            "again."
        ) from error


def _built(
    name: str, root: str | os.PathLike | None, difficult: str, cache: str | None
) -> dict[str, "datasets.Dataset"]:
    builder: datasets.DatasetBuilder
    if name == "lt_digits":
        from ..builders.lt_digits import LTDigits

        builder = LTDigits(cache_dir=cache)
    elif name == "lt_voc":
        from ..builders.lt_voc import LTVOC

        builder = LTVOC(voc_root=None if root is None else str(root), difficult=difficult, cache_dir=cache)
    else:
        from ..builders.lt_coco import LTCOCO

        builder = LTCOCO(coco_root=None if root is None else str(root), difficult=difficult, cache_dir=cache)
    builder.download_and_prepare()
    return builder.as_dataset()


class _BadSplitError(ValueError):
    """The files can be read, but a split is empty or gives label ids another meaning."""


def _class_names(features: "datasets.Features") -> dict[str, list[str]]:
    inner = {column: getattr(feature, "feature", feature) for column, feature in features.items()}
    return {column: feature.names for column, feature in inner.items() if hasattr(feature, "names")}


def _from_disk(root: Path, where: str) -> dict[str, "datasets.Dataset"]:
    import datasets

    try:
        loaded = datasets.load_from_disk(str(root))
    except (OSError, ValueError, KeyError, IndexError) as error:  # IndexError: a split without rows
        raise ValueError(
            f"the saved data set {where!r} cannot be read ({_first_line(error)}); save it again."
        ) from error
    return _splits(loaded)


def _from_hub(
    name: str, config_name: str | None, revision: str | None, cache: str | None
) -> dict[str, "datasets.Dataset"]:
    import datasets

    try:
        loaded = datasets.load_dataset(name, name=config_name, revision=revision, cache_dir=cache)
    except ValueError as error:
        # Such as an unknown or missing configuration name.
        raise ValueError(f"the data set {name!r} cannot be loaded: {_first_line(error)}") from error
    except (OSError, datasets.exceptions.DatasetsError) as error:
        raise FileNotFoundError(
            f"there is no folder {name!r}, and the Hugging Face Hub gives no data set of that name "
            f"({_first_line(error)}); pass {ACCEPTED}."
        ) from error
    return _splits(loaded)


def _splits(loaded: "datasets.Dataset | datasets.DatasetDict") -> dict[str, "datasets.Dataset"]:
    import datasets

    if isinstance(loaded, datasets.Dataset):
        return {"train": loaded}
    # `valid`, `val` and `dev` are other names of validation; names that are none of the three splits stay.
    renamed: dict[str, datasets.Dataset] = {}
    for name, table in loaded.items():
        split = split_of(name) if name.lower() in ("valid", "val", "dev", "training", "testing") else name
        if split in renamed:
            raise ValueError(f"the data set has two splits that mean {split!r}; rename one.")
        renamed[split or name] = table
    return renamed


def _looks_like_path(text: str) -> bool:
    return (
        text.startswith((".", "/", "~"))
        or os.path.isabs(text)
        or "\\" in text
        or text.count("/") > 1
        or text.endswith("/")
        or Path(text).suffix.lower()
        in (".parquet", ".json", ".jsonl", ".csv", ".xml", *YAML_SUFFIXES, ".zip", ".tar", ".gz")
    )


def _what_it_holds(root: Path) -> str:
    if any(path.suffix.lower() in IMAGE_SUFFIXES for path in root.iterdir()):
        return "holds images but neither metadata.jsonl nor metadata.csv, which name their labels"
    return "holds no data that can be read"


def _first_line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return (text[:300] + "...") if len(text) > 300 else text or type(error).__name__


__all__ = ["load_images"]
