# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
import io
import json
import os
import shutil

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
from PIL import Image

from modeling_cssfe.data import class_statistics, decode_image, load_images


NAMES = ["dog", "cat", "ant"]  # not sorted, so that a source's own order shows
LABELS = [[0, 2], [], [1], [0]]


@pytest.fixture
def load(tmp_path):
    """Load, with the converted files of `datasets` in a folder of the test."""
    return lambda path, **options: load_images(path, cache_dir=tmp_path / "cache", **options)


@pytest.fixture
def table(image_bytes):
    def build(names=NAMES, labels=LABELS, **columns) -> datasets.Dataset:
        features = {
            "image_id": datasets.Value("string"),
            "image": datasets.Image(),
            "labels": datasets.List(datasets.ClassLabel(names=names)),
        }
        rows = {
            "image_id": [f"i{n}" for n in range(len(labels))],
            "image": [{"bytes": image_bytes(n), "path": None} for n in range(len(labels))],
            "labels": labels,
        }
        return datasets.Dataset.from_dict({**rows, **columns}, features=datasets.Features(features))

    return build


def named(dataset: datasets.Dataset, column: str = "labels") -> list[list[str]]:
    names = dataset.features[column].feature.names
    return [sorted(names[label] for label in row) for row in dataset[column]]


def check(dataset: datasets.Dataset, image_bytes, names=NAMES, labels=LABELS) -> None:
    """The unified features, and what the four images of `table` hold."""
    assert dataset.features == datasets.Features(
        {
            "image_id": datasets.Value("string"),
            "image": datasets.Image(decode=False),
            "labels": datasets.List(datasets.ClassLabel(names=names)),
        }
    )
    assert list(dataset["image_id"]) == ["i0", "i1", "i2", "i3"]
    assert named(dataset) == [sorted(NAMES[label] for label in row) for row in labels]
    for index, cell in enumerate(dataset["image"]):
        expected = Image.open(io.BytesIO(image_bytes(index)))
        np.testing.assert_array_equal(np.asarray(decode_image(cell)), np.asarray(expected))


# ---- Parquet, saved data sets ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("inner", ["", "data"])
def test_a_parquet_folder_is_split_by_file_names(inner, table, load, tmp_path, image_bytes):
    folder = tmp_path / "set" / inner
    folder.mkdir(parents=True)
    table().select([0, 1]).to_parquet(folder / "train-00000-of-00002.parquet")
    table().select([2, 3]).to_parquet(folder / "train-00001-of-00002.parquet")
    table().to_parquet(folder / "val.parquet")
    loaded = load(tmp_path / "set")
    assert list(loaded) == ["train", "validation"]
    check(loaded["train"], image_bytes)
    check(loaded["validation"], image_bytes)


def test_one_parquet_file_is_one_split(table, load, tmp_path, image_bytes):
    table().to_parquet(tmp_path / "pictures.parquet")
    table().to_parquet(tmp_path / "test.parquet")
    check(load(tmp_path / "pictures.parquet")["train"], image_bytes)
    check(load(tmp_path / "test.parquet")["test"], image_bytes)


def test_a_saved_data_set_loads_whole_or_by_split(table, load, tmp_path, image_bytes):
    table().save_to_disk(tmp_path / "one")
    check(load(tmp_path / "one")["train"], image_bytes)
    datasets.DatasetDict({"train": table(), "valid": table()}).save_to_disk(tmp_path / "two")
    loaded = load(str(tmp_path / "two"))
    assert list(loaded) == ["train", "validation"]
    check(loaded["validation"], image_bytes)


def test_label_names_of_the_caller_decide_on_the_order(table, load, tmp_path, image_bytes):
    table().to_parquet(tmp_path / "train.parquet")
    wanted = ["ant", "bee", "cat", "dog"]
    loaded = load(tmp_path / "train.parquet", label_names=wanted)["train"]
    check(loaded, image_bytes, names=wanted)
    assert class_statistics(loaded).class_counts == (1, 0, 1, 2)
    with pytest.raises(ValueError, match=r"unknown label 'ant'.*add it to label_names"):
        load(tmp_path / "train.parquet", label_names=["dog", "cat"])


def test_an_unlabelled_image_has_an_id_of_split_and_row(table, load, tmp_path):
    table().remove_columns("image_id").to_parquet(tmp_path / "train.parquet")
    assert load(tmp_path)["train"]["image_id"][2] == "train-00000002"


def test_unknown_labels_of_a_table_come_along(table, load, tmp_path):
    feature = datasets.List(datasets.ClassLabel(names=NAMES))
    source = table().add_column("unknown_labels", [[1], [0, 1, 2], [], []], feature=feature)
    source.cast(datasets.Features({**source.features, "unknown_labels": feature})).to_parquet(
        tmp_path / "train.parquet"
    )
    loaded = load(tmp_path, label_names=["ant", "cat", "dog"])["train"]
    assert named(loaded, "unknown_labels") == [["cat"], ["ant", "cat", "dog"], [], []]
    assert class_statistics(loaded).unknown_counts == (1, 2, 1)


def write_plain(path, columns: dict) -> None:
    """A Parquet file as other tools write it, without a word of features."""
    parquet.write_table(pa.table(columns), path)


@pytest.mark.parametrize(
    ("columns", "options", "names"),
    [
        ({"labels": [["dog", "ant"], [], ["cat"], ["dog"]]}, {}, ["ant", "cat", "dog"]),
        ({"label": ["dog|ant", "", "cat", "dog"]}, {}, ["ant", "cat", "dog"]),
        ({"labels": LABELS}, {"label_names": NAMES}, NAMES),
        ({"tags": LABELS}, {"label_names": NAMES, "labels_column": "tags"}, NAMES),
        ({"labels": [[1, 0, 1], [0, 0, 0], [0, 1, 0], [1, 0, 0]]}, {"label_names": NAMES}, NAMES),
        ({"dog": [1, 0, 0, 1], "cat": [0, 0, 1, 0], "ant": [1, 0, 0, 0]}, {}, NAMES),
        (
            {"dog": [1, 0, 0, 1], "cat": [0, 0, 1, 0], "ant": [1, 0, 0, 0], "age": [3, 4, 5, 6]},
            {"label_columns": NAMES},
            NAMES,
        ),
    ],
)
def test_tables_without_class_labels_are_understood(columns, options, names, load, tmp_path, image_bytes):
    ids = [f"i{n}" for n in range(4)]
    write_plain(tmp_path / "train.parquet", {"id": ids, "image": [image_bytes(n) for n in range(4)], **columns})
    check(load(tmp_path / "train.parquet", **options)["train"], image_bytes, names=names)


def test_a_table_may_hold_paths_inside_its_folder_only(load, tmp_path, write_image):
    folder = tmp_path / "set"
    write_image(folder / "images" / "a.png")
    write_image(tmp_path / "outside.png")
    write_plain(folder / "train.parquet", {"image": ["images/a.png"], "labels": [["dog"]]})
    cell = load(folder)["train"][0]["image"]
    assert cell == {"bytes": None, "path": str((folder / "images" / "a.png").resolve())}
    for name, message in (("../outside.png", "leads out of"), (str(tmp_path / "outside.png"), "is absolute")):
        write_plain(folder / "train.parquet", {"image": [name], "labels": [["dog"]]})
        with pytest.raises(ValueError, match=message):
            load(folder)


def test_bad_tables_are_one_line_errors(table, load, tmp_path, image_bytes):
    image = {"image": [image_bytes(0)]}
    path = tmp_path / "train.parquet"
    cases = [
        ({**image, "labels": [[7]]}, {"label_names": NAMES}, "row 0: label id 7 is out of range; with 3 label names"),
        ({**image, "labels": [[0]]}, {}, "label 0 is a number without a name"),
        ({**image, "labels": [None]}, {"label_names": NAMES}, "row 0 is empty; say with empty_cells="),
        ({**image, "labels": [["dog"]]}, {"label_names": ["dog", "dog"]}, "two labels named 'dog'"),
        ({**image, "labels": [["dgo"]]}, {"label_names": NAMES}, "unknown label 'dgo', did you mean 'dog'"),
        ({"photo": [image_bytes(0)], "labels": [["dog"]]}, {}, "no column 'image' among photo, labels"),
        ({**image, "labels": [["dog"]]}, {"id_column": "key"}, "no column 'key'"),
        (image, {}, "has no labels"),
    ]
    for columns, options, message in cases:
        write_plain(path, columns)
        with pytest.raises(ValueError, match=message) as caught:
            load(path, **options)
        assert "\n" not in str(caught.value)
        assert "train" in str(caught.value) or "label_names" in str(caught.value)
    path.write_bytes(b"PAR1 and then nothing")
    with pytest.raises(ValueError, match="cannot be read"):
        load(path)


def test_splits_with_different_label_names_are_refused(table, load, tmp_path):
    table().to_parquet(tmp_path / "train.parquet")
    table(names=["dog", "cat", "bee"]).to_parquet(tmp_path / "test.parquet")
    with pytest.raises(ValueError, match=r"'test\.parquet' of .* has other label names than 'train\.parquet'"):
        load(tmp_path)


def test_a_damaged_saved_data_set_is_one_line(table, load, tmp_path):
    table().save_to_disk(tmp_path / "saved")
    for name in ("state.json", "dataset_info.json"):
        (tmp_path / "saved" / name).write_text("{}")
        with pytest.raises(ValueError, match=r"the saved data set '.*saved' cannot be read") as caught:
            load(tmp_path / "saved")
        assert "\n" not in str(caught.value)


def test_an_empty_split_is_refused(load, tmp_path):
    write_plain(tmp_path / "train.parquet", {"image": pa.array([], pa.binary()), "labels": pa.array([], pa.string())})
    with pytest.raises(ValueError, match="split 'train' has no rows"):
        load(tmp_path / "train.parquet")


# ---- image folders ---------------------------------------------------------------------------------------------------

METADATA = {
    "list.jsonl": '{"file_name": "i0", "labels": ["dog", "ant"]}\n\n{"file_name": "i1", "labels": []}\n'
    '{"file_name": "i2", "labels": ["cat"]}\n{"file_name": "i3", "labels": ["dog"]}\n',
    "text.csv": "file_name,labels\ni0,dog|ant\ni1,\ni2,cat\ni3,dog\n",
    "commas.csv": '\ufefffile_name,labels\r\ni0,"dog,ant"\r\ni1,\r\ni2,cat\r\ni3,dog\r\n',
    "columns.csv": "file_name,dog,cat,ant\ni0,1,0,1\ni1,0,0,0\ni2,0,1,0\ni3,1,0,0\n",
}


@pytest.fixture
def folder(tmp_path, write_image):
    root = tmp_path / "photos"
    for index in range(4):
        write_image(root / f"i{index}.png", seed=index).rename(root / f"i{index}")
    return root


@pytest.mark.parametrize("form", METADATA)
def test_an_image_folder_reads_its_metadata(form, folder, load, image_bytes):
    (folder / f"metadata.{form.split('.')[1]}").write_text(METADATA[form], encoding="utf-8", newline="")
    names = NAMES if form == "columns.csv" else sorted(NAMES)
    for path in (folder, folder / f"metadata.{form.split('.')[1]}"):
        loaded = load(path)
        assert list(loaded) == ["train"]
        check(loaded["train"], image_bytes, names=names)


def test_splits_of_an_image_folder_are_sub_folders_paths_or_a_column(tmp_path, load, write_image):
    for split in ("train", "val"):
        write_image(tmp_path / "a" / split / "x.png")
        (tmp_path / "a" / split / "metadata.csv").write_text("file_name,labels\nx.png,dog\n")
    shutil.copytree(tmp_path / "a", tmp_path / "b", ignore=shutil.ignore_patterns("*.csv"))
    (tmp_path / "b" / "metadata.csv").write_text("file_name,labels\ntrain/x.png,dog\nval/x.png,dog\n")
    shutil.copytree(tmp_path / "b", tmp_path / "c")
    (tmp_path / "c" / "metadata.csv").write_text(
        "file_name,labels,split,image_id\ntrain/x.png,dog,test,17\nval/x.png,dog,valid,18\n"
    )
    for name, splits in (("a", ["train", "validation"]), ("b", ["train", "validation"]), ("c", ["validation", "test"])):
        loaded = load(tmp_path / name)
        assert list(loaded) == splits
        assert [len(split) for split in loaded.values()] == [1, 1]
    assert loaded["test"]["image_id"][0] == "17"


@pytest.mark.parametrize(
    ("names", "splits"),
    [
        (("images/train/x.png", "images/val/x.png"), {"train": 1, "validation": 1}),
        (("train/x.png", "bus/x.png"), {"train": 2}),
        (("bus/x.png", "x.png"), {"train": 2}),
    ],
)
def test_folders_of_splits_may_lie_in_one_folder_and_classes_are_no_splits(names, splits, tmp_path, load, write_image):
    for name in names:
        write_image(tmp_path / "set" / name)
    (tmp_path / "set" / "metadata.csv").write_text("file_name,labels\n" + "".join(f"{name},dog\n" for name in names))
    assert {split: len(rows) for split, rows in load(tmp_path / "set").items()} == splits


def test_images_beside_the_folders_of_splits_are_refused(tmp_path, load, write_image):
    names = ("train/x.png", "test/x.png", "x.png")
    for name in names:
        write_image(tmp_path / "set" / name)
    (tmp_path / "set" / "metadata.csv").write_text("file_name,labels\n" + "".join(f"{name},dog\n" for name in names))
    with pytest.raises(ValueError, match=r"'x\.png' is in no split's folder.*add a column 'split'"):
        load(tmp_path / "set")


def test_two_classes_that_exclude_each_other_may_be_vectors(folder, load):
    rows = [{"file_name": "i0", "labels": [1, 0]}, {"file_name": "i1", "labels": [0, 1]}]
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert named(load(folder, label_names=["dog", "cat"])["train"]) == [["dog"], ["cat"]]


def test_unknown_cells_of_label_columns_become_unknown_labels(folder, load):
    (folder / "metadata.csv").write_text("file_name,dog,cat\ni0,1,-1\ni1,,0\n")
    loaded = load(folder, empty_cells="unknown")["train"]
    assert named(loaded) == [["dog"], []]
    assert named(loaded, "unknown_labels") == [["cat"], ["dog"]]
    with pytest.raises(ValueError, match="column 'dog', row 1 is empty"):
        load(folder)


@pytest.mark.parametrize("name", ["../secret.png", "sub/../../secret.png", "link.png", "linked/secret.png"])
def test_an_image_folder_names_nothing_outside_itself(name, folder, load, tmp_path, write_image):
    write_image(tmp_path / "secret.png")
    (folder / "sub").mkdir()
    os.symlink(tmp_path / "secret.png", folder / "link.png")
    os.symlink(tmp_path, folder / "linked")
    (folder / "metadata.jsonl").write_text(json.dumps({"file_name": name, "labels": ["dog"]}))
    with pytest.raises(ValueError, match=r"row 0: the image path .* leads out of .*; put the image inside"):
        load(folder)


def test_a_split_folder_may_be_a_link_inside_but_not_out_of_the_root(folder, load, tmp_path):
    (folder / "version2").mkdir()
    (folder / "i0").rename(folder / "version2" / "i0")
    (folder / "version2" / "metadata.csv").write_text("file_name,labels\ni0,dog\n")
    (folder / "train").symlink_to(folder / "version2")
    assert len(load(folder)["train"]) == 1
    (folder / "version2").rename(tmp_path / "outside")
    (folder / "train").unlink()
    (folder / "train").symlink_to(tmp_path / "outside")
    with pytest.raises(ValueError, match=r"train is a link that leads out of"):
        load(folder)


@pytest.mark.parametrize("name", ["/etc/hostname", "C:\\x.png", "\\\\host\\x.png"])
def test_absolute_paths_in_metadata_are_refused(name, folder, load):
    (folder / "metadata.jsonl").write_text(json.dumps({"file_name": name, "labels": ["dog"]}))
    with pytest.raises(ValueError, match="is absolute; write it relative to"):
        load(folder)


@pytest.mark.parametrize(
    ("file", "text", "error", "message"),
    [
        ("metadata.csv", "file_name,labels\nnone.png,dog\n", FileNotFoundError, "names the image 'none.png'"),
        ("metadata.csv", "file_name,labels\n,dog\n", ValueError, "is empty or malformed"),
        ("metadata.csv", "name,labels\ni0,dog\n", ValueError, "no column 'file_name'; its columns are name, labels"),
        ("metadata.csv", "file_name,labels\ni0,dog,cat\n", ValueError, "row 1 has 3 cells, the header 2; quote"),
        ("metadata.csv", "file_name,labels\n", ValueError, "has no rows"),
        ("metadata.csv", "", ValueError, "has no rows"),
        ("metadata.csv", "file_name,a,a\ni0,1,0\n", ValueError, "two columns named 'a'"),
        ("metadata.csv", 'file_name,labels\ni0,"a\ni1,b\n', ValueError, "cannot be read as CSV"),
        ("metadata.csv", 'file_name,labels\ni0,"a\nb"\n', ValueError, r"'a\\nb' holds a character that no text has"),
        ("metadata.jsonl", '{"file_name": "i0", "labels": ["\\ud800"]}', ValueError, "a character that no text has"),
        ("metadata.jsonl", '{"file_name": "i0", "labels": ' + "[" * 100_000, ValueError, "line 1 is no JSON"),
        ("metadata.csv", "file_name,labels,split\ni0,dog,all\n", ValueError, "split 'all' is none of"),
        ("metadata.csv", "file_name,labels\ni0,dog\ni0,ant\n", ValueError, "lists .* twice"),
        ("metadata.jsonl", '{"file_name": "i0", "labels": ["dog"]}\n{oops\n', ValueError, "line 2 is no JSON"),
        ("metadata.jsonl", '["i0"]\n', ValueError, "line 1 is no JSON object"),
        ("metadata.jsonl", '{"file_name": "i0", "labels": null}', ValueError, "row 0 is empty; say with empty_cells"),
        ("metadata.jsonl", '{"file_name": "i0", "labels": {"a": 1}}', ValueError, "row 0 has {'a': 1} for labels"),
        ("metadata.jsonl", '{"file_name": "i0", "labels": []}', ValueError, "no image has a label"),
    ],
)
def test_bad_metadata_are_one_line_errors(file, text, error, message, folder, load):
    (folder / file).write_text(text)
    with pytest.raises(error, match=message) as caught:
        load(folder)
    assert "\n" not in str(caught.value)


def test_two_metadata_tables_in_one_folder_are_refused(folder, load):
    (folder / "metadata.csv").write_text("file_name,labels\ni0,dog\n")
    (folder / "metadata.jsonl").write_text('{"file_name": "i0", "labels": ["dog"]}')
    with pytest.raises(ValueError, match=r"both metadata\.jsonl and metadata\.csv; keep one"):
        load(folder)


# ---- places without data ---------------------------------------------------------------------------------------------


def test_a_missing_path_is_named():
    for path in ("./nothing", "/no/such/folder", "nothing/to/see", "photos.parquet"):
        with pytest.raises(FileNotFoundError, match=f"there is no '{path}'; pass 'lt_digits', .*Parquet files"):
            load_images(path)


def test_a_name_that_the_hub_does_not_give_is_named(monkeypatch):
    def refuse(path, **_):
        raise datasets.exceptions.DatasetNotFoundError(f"Dataset '{path}' doesn't exist on the Hub\nor is private")

    monkeypatch.setattr(datasets, "load_dataset", refuse)
    with pytest.raises(FileNotFoundError, match="no folder 'someone/photos', and the Hugging Face Hub gives") as caught:
        load_images("someone/photos")
    assert "\n" not in str(caught.value)


def test_a_hub_data_set_is_unified_like_any_other(monkeypatch, table, image_bytes):
    def give(path, **options):
        assert (path, options["name"], options["revision"]) == ("someone/photos", "small", "main")
        return datasets.DatasetDict({"train": table(), "valid": table()})

    monkeypatch.setattr(datasets, "load_dataset", give)
    loaded = load_images("someone/photos", config_name="small", revision="main")
    assert list(loaded) == ["train", "validation"]
    check(loaded["train"], image_bytes)


def test_folders_without_data_say_what_would_be_read(tmp_path, load, write_image):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="is empty; pass 'lt_digits'"):
        load(tmp_path / "empty")
    with pytest.raises(ValueError, match=r"holds images but neither metadata\.jsonl nor metadata\.csv"):
        load(write_image(tmp_path / "bare" / "a.png").parent)
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.txt").write_text("x")
    with pytest.raises(ValueError, match="holds no data that can be read"):
        load(tmp_path / "notes")
    with pytest.raises(ValueError, match="is no data set file"):
        load(tmp_path / "notes" / "a.txt")


def test_unknown_rules_are_refused(tmp_path):
    with pytest.raises(ValueError, match="difficult must be one of positive, ignore, unknown, got 'maybe'"):
        load_images(tmp_path, difficult="maybe")


# ---- real photographs ------------------------------------------------------------------------------------------------

# From the README beside the photographs.
# fmt: off
VOC07_COUNTS = {
    "person": 775, "chair": 343, "car": 249, "diningtable": 157, "bottle": 154, "pottedplant": 100, "sofa": 82,
    "tvmonitor": 64, "dog": 48, "bicycle": 34, "cat": 29, "motorbike": 20, "bus": 17, "boat": 14, "horse": 11,
    "bird": 8, "train": 7, "aeroplane": 6, "sheep": 5, "cow": 4,
}
# fmt: on


def test_the_real_photographs_have_the_counts_of_their_readme(voc07_lt, load):
    loaded = load(voc07_lt)
    assert {split: len(images) for split, images in loaded.items()} == {"train": 1033, "validation": 1478}
    statistics = class_statistics(loaded["train"])
    assert dict(zip(statistics.label_names, statistics.class_counts, strict=True)) == VOC07_COUNTS
    assert statistics.label_names == tuple(sorted(VOC07_COUNTS))
    assert isinstance(loaded["train"][0]["image"]["bytes"], bytes)
    assert decode_image(loaded["validation"][0]["image"]).mode == "RGB"
