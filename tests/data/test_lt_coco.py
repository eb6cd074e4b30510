# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
import json
import runpy
import shutil
import sys
from pathlib import Path

import pytest
from devkits import COCO_IDS, pack_zip, write_coco, write_lists

from modeling_cssfe.data import load_images
from modeling_cssfe.data.builders.lt_coco import COCO_PARTS, LTCOCO
from modeling_cssfe.data.builders.official_lists import COCO_NAMES


SCRIPT = Path(__file__).parents[2] / "data_scripts" / "prepare_lt_coco.py"
PERSON, CAR, TOOTHBRUSH = 0, 2, 79
TRAIN = {9: [(PERSON, 0), (PERSON, 1), (CAR, 1)], 25: [(TOOTHBRUSH, 0)]}
TEST = {139: [(PERSON, 1), (TOOTHBRUSH, 0), (TOOTHBRUSH, 0)], 285: []}
UNUSED = {1000 + index: [(index, 0)] for index in range(80)} | {5000: []}
LISTS = {
    "train": {"train2017/000000000009.jpg": [PERSON, CAR], "train2017/000000000025.jpg": [TOOTHBRUSH]},
    "test": {"val2017/000000000139.jpg": [PERSON, TOOTHBRUSH], "val2017/000000000285.jpg": []},
}


@pytest.fixture
def coco(tmp_path):
    root = tmp_path / "coco"
    write_coco(root, {"train2017": {**TRAIN, **UNUSED}, "val2017": TEST}, COCO_NAMES)
    write_lists(tmp_path / "lists", "coco_lt", LISTS)
    return root


@pytest.fixture
def build(tmp_path, coco):
    """Prepare a set and return its splits."""

    def prepared(**options):
        options = {"coco_root": str(coco), "verify_lists": False, "verify_archives": False} | options
        options = {"lists": str(tmp_path / "lists"), "min_positives": 1, "cache_dir": str(tmp_path / "cache")} | options
        builder = LTCOCO(**options)
        builder.download_and_prepare()
        return builder.as_dataset()

    return prepared


def labels_of(table, column="labels"):
    return {row["image_id"]: set(row[column]) for row in table.select_columns(["image_id", column])}


def test_the_splits_are_the_lists_and_unused_images_of_train2017(build, coco):
    splits = build()
    assert list(splits) == ["train", "validation", "test"]
    assert labels_of(splits["train"]) == {"000000000009": {PERSON, CAR}, "000000000025": {TOOTHBRUSH}}
    assert labels_of(splits["test"]) == {"000000000139": {PERSON, TOOTHBRUSH}, "000000000285": set()}
    # One label an image: one positive of every class takes 80 images, and the one without label stays out.
    assert set(splits["validation"]["image_id"]) == {f"{image:012d}" for image in range(1000, 1080)}
    assert splits["train"][1]["image"]["bytes"] == (coco / "train2017" / "000000000025.jpg").read_bytes()


@pytest.mark.parametrize(
    ("difficult", "first", "unknown"),
    [("positive", {PERSON, CAR}, None), ("ignore", {PERSON}, None), ("unknown", {PERSON}, {CAR})],
)
def test_crowds_count_as_the_option_says(build, difficult, first, unknown):
    train = build(difficult=difficult)["train"]
    assert labels_of(train)["000000000009"] == first
    if unknown is not None:
        assert labels_of(train, "unknown_labels")["000000000009"] == unknown


def test_zip_files_and_the_folder_images_give_the_same_set(build, coco, tmp_path):
    folders = build()
    packed = tmp_path / "zips"
    packed.mkdir()
    for part in COCO_PARTS:
        pack_zip(coco, part.prefix.rstrip("/"), packed / part.archive)
    archives = build(coco_root=str(packed))
    (coco / "images").mkdir()
    for name in ("train2017", "val2017"):
        (coco / name).rename(coco / "images" / name)
    below_images = build()
    for split in folders:
        assert folders[split].to_dict() == archives[split].to_dict() == below_images[split].to_dict()


def change_annotations(coco, change, folder="val2017"):
    file = coco / "annotations" / f"instances_{folder}.json"
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))


def truncated_json(coco, tmp_path):
    file = coco / "annotations" / "instances_val2017.json"
    file.write_text(file.read_text()[:-30])


def no_categories(coco, tmp_path):
    change_annotations(coco, lambda content: content.pop("categories"))


def two_categories_of_one_name(coco, tmp_path):
    change_annotations(coco, lambda content: content["categories"][1].update(name="person"))


def other_categories(coco, tmp_path):
    change_annotations(coco, lambda content: content["categories"][1].update(name="tricycle"))


def contradiction(coco, tmp_path):
    change_annotations(coco, lambda content: content["annotations"][0].update(category_id=COCO_IDS[CAR]))


def image_not_annotated(coco, tmp_path):
    change_annotations(coco, lambda content: content["images"].pop())


def image_without_name(coco, tmp_path):
    change_annotations(coco, lambda content: content["images"][0].pop("file_name"))


def image_outside(coco, tmp_path):
    shutil.copy(coco / "train2017" / "000000001000.jpg", coco / "outside.jpg")
    change_annotations(coco, lambda content: content["images"][2].update(file_name="../outside.jpg"), "train2017")


def image_missing(coco, tmp_path):
    (coco / "train2017" / "000000001007.jpg").unlink()


def truncated_zip(coco, tmp_path):
    archive = coco / "val2017.zip"
    pack_zip(coco, "val2017", archive)
    archive.write_bytes(archive.read_bytes()[:-40])
    shutil.rmtree(coco / "val2017")


BROKEN = {
    truncated_json: (ValueError, r"instances_val2017\.json is no JSON"),
    no_categories: (ValueError, r"instances_val2017\.json has no list 'categories'"),
    two_categories_of_one_name: (ValueError, r"instances_val2017\.json.*two labels named 'person'"),
    other_categories: (ValueError, r"other categories than COCO 2017.*tricycle"),
    contradiction: (ValueError, r"000000000139\.jpg': only the list has person, only the annotation has car"),
    image_not_annotated: (ValueError, r"lack 1 images of the lists, the first 'val2017/000000000285\.jpg'"),
    image_without_name: (ValueError, r"an image lacks 'file_name'"),
    image_outside: (ValueError, r"image path '\.\./outside\.jpg' leads out of"),
    image_missing: (FileNotFoundError, r"1 of 80 images of split 'validation' are missing.*000000001007"),
    truncated_zip: (ValueError, r"val2017\.zip is neither a tar nor a zip file"),
}


@pytest.mark.parametrize("damage", BROKEN, ids=lambda damage: damage.__name__)
def test_a_broken_source_is_a_one_line_error_that_names_it(build, coco, tmp_path, damage):
    damage(coco, tmp_path)
    error, message = BROKEN[damage]
    with pytest.raises(error, match=message) as caught:
        build()
    assert "\n" not in str(caught.value)


def test_the_script_writes_parquet_that_load_images_reads(coco, build, tmp_path, monkeypatch):
    options = ["--coco_root", coco, "--lists", tmp_path / "lists", "--no_verify", "--min_positives", 1]
    values = [SCRIPT, "--output_dir", tmp_path / "out", *options]
    monkeypatch.setattr(sys, "argv", [str(value) for value in values])
    with pytest.raises(SystemExit) as leave:
        runpy.run_path(str(SCRIPT), run_name="__main__")
    assert leave.value.code == 0
    loaded = load_images(tmp_path / "out", cache_dir=tmp_path / "c")
    for split, table in build().items():
        assert loaded[split].to_dict() == table.to_dict()
    card = (tmp_path / "out" / "README.md").read_text()
    assert "| images without label |  | 0 | 0 | 1 |" in card
    assert "CC BY 4.0" in card
