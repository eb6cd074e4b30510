# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
import hashlib
import io
import os
import runpy
import shutil
import sys
from pathlib import Path

import datasets
import pytest
from devkits import VOC_CLASSES, pack_tar, voc_xml, write_lists, write_voc_year
from PIL import Image

from modeling_cssfe.data import load_images
from modeling_cssfe.data.builders import record_builder
from modeling_cssfe.data.builders.lt_voc import LTVOC, VOC_PARTS


SCRIPT = Path(__file__).parents[2] / "data_scripts" / "prepare_lt_voc.py"
PERSON, DOG, CHAIR, CAT = (VOC_CLASSES.index(name) for name in ("person", "dog", "chair", "cat"))
# Besides these, two images of every class in 2012, so that validation can be drawn.
TRAIN = {
    "2008_000001": [("person", 0), ("person", 1), ("dog", 1)],
    "2009_000002": [("chair", 0), ("person", 0)],
}
TEST = {"000001": [("cat", 0), ("person", 1)], "000002": [("dog", 0)]}
UNUSED = {f"2010_{index:06d}": [(VOC_CLASSES[index % 20], 0)] for index in range(40)}
LISTS = {
    "train": {
        "VOCdevkit/VOC2012/JPEGImages/2008_000001.jpg": [PERSON, DOG],
        "VOCdevkit/VOC2012/JPEGImages/2009_000002.jpg": [CHAIR, PERSON],
    },
    "test": {
        "VOCdevkit/VOC2007/JPEGImages/000001.jpg": [PERSON, CAT],
        "VOCdevkit/VOC2007/JPEGImages/000002.jpg": [DOG],
    },
}


@pytest.fixture
def devkit(tmp_path):
    root = tmp_path / "voc"
    # Photographs of 2007 are in VOC2012 for segmentation only; here the list names one all the same.
    write_voc_year(root, "2012", {**TRAIN, "2007_000032": [("aeroplane", 0)], **UNUSED})
    write_voc_year(root, "2007", {"000005": [("sofa", 0)], **TEST})
    write_lists(tmp_path / "lists", "voc_lt", LISTS)
    return root


@pytest.fixture
def build(tmp_path, devkit):
    """Prepare a set and return its splits."""

    def prepared(**options):
        options = {"voc_root": str(devkit), "verify_lists": False, "verify_archives": False} | options
        options = {"lists": str(tmp_path / "lists"), "min_positives": 1, "cache_dir": str(tmp_path / "cache")} | options
        builder = LTVOC(**options)
        builder.download_and_prepare()
        return builder.as_dataset()

    return prepared


def labels_of(table, column="labels"):
    names = table.features[column].feature.names
    return {row["image_id"]: {names[i] for i in row[column]} for row in table.select_columns(["image_id", column])}


def test_train_and_test_are_the_lists_with_the_source_s_bytes(build, devkit):
    splits = build()
    assert list(splits) == ["train", "validation", "test"]
    assert labels_of(splits["train"]) == {"2008_000001": {"person", "dog"}, "2009_000002": {"chair", "person"}}
    assert labels_of(splits["test"]) == {"000001": {"cat", "person"}, "000002": {"dog"}}
    assert splits["train"].features["labels"].feature.names == VOC_CLASSES
    assert splits["train"].column_names == ["image_id", "image", "labels"]
    image = (devkit / "VOCdevkit" / "VOC2007" / "JPEGImages" / "000002.jpg").read_bytes()
    assert splits["test"][1]["image"]["bytes"] == image


def test_validation_comes_from_unused_images_of_2008_and_later_and_covers_every_class(build):
    validation = build()["validation"]
    assert set(validation["image_id"]) <= set(UNUSED)
    found = [name for names in labels_of(validation).values() for name in names]
    # Each image here has one label, so the smallest set with one positive of each class has one image each.
    assert sorted(found) == sorted(VOC_CLASSES)
    assert build(min_positives=2)["validation"].num_rows == 40


def test_validation_has_the_size_asked_for_and_follows_the_seed(build, tmp_path):
    first, again, other = (
        list(build(validation_size=20, seed=seed, cache_dir=str(tmp_path / f"cache{number}"))["validation"]["image_id"])
        for number, seed in enumerate((0, 0, 1))
    )
    assert len(first) == 20
    assert first == again != other


@pytest.mark.parametrize(
    ("difficult", "present", "unknown"),
    [
        ("positive", {"person", "dog"}, None),
        ("ignore", {"person"}, None),
        ("unknown", {"person"}, {"dog"}),
    ],
)
def test_difficult_objects_count_as_the_option_says(build, difficult, present, unknown):
    train = build(difficult=difficult)["train"]
    assert labels_of(train)["2008_000001"] == present
    if unknown is None:
        assert "unknown_labels" not in train.column_names
    else:
        assert labels_of(train, "unknown_labels")["2008_000001"] == unknown


def test_tar_files_give_the_same_set_as_the_folders(build, devkit, tmp_path):
    folders = build()
    packed = tmp_path / "tars"
    packed.mkdir()
    for part in VOC_PARTS:
        pack_tar(devkit, part.prefix.rstrip("/"), packed / part.archive)
    archives = build(voc_root=str(packed))
    for split in folders:
        assert folders[split].to_dict() == archives[split].to_dict()


def test_a_folder_that_has_only_trainval_of_2007_gives_way_to_the_tar_of_test(build, devkit):
    pack_tar(devkit, "VOCdevkit/VOC2007", devkit / VOC_PARTS[1].archive)
    for stem in TEST:
        (devkit / "VOCdevkit" / "VOC2007" / "JPEGImages" / f"{stem}.jpg").unlink()
    assert set(build()["test"]["image_id"]) == set(TEST)


def test_the_folder_vocdevkit_itself_is_a_root(build, devkit):
    assert build(voc_root=str(devkit / "VOCdevkit"))["train"].num_rows == 2


def test_lists_that_changed_are_not_answered_from_the_cache(build, tmp_path):
    assert build()["test"].num_rows == 2
    write_lists(tmp_path / "lists", "voc_lt", {"test": {"VOCdevkit/VOC2007/JPEGImages/000002.jpg": [DOG]}})
    assert build()["test"].num_rows == 1


def change_annotation(devkit, year, stem, change):
    file = devkit / "VOCdevkit" / f"VOC{year}" / "Annotations" / f"{stem}.xml"
    file.write_text(change(file.read_text()))


def test_annotations_that_changed_in_place_are_not_answered_from_the_cache(build, devkit):
    def labels_of(built):
        return dict(zip(built["validation"]["image_id"], built["validation"]["labels"], strict=True))["2010_000003"]

    assert labels_of(build(validation_size=40)) == [3]
    file = devkit / "VOCdevkit" / "VOC2012" / "Annotations" / "2010_000003.xml"
    file.write_text(voc_xml("2012", "2010_000003", [("cat", 0), ("dog", 0)]))
    assert labels_of(build(validation_size=40)) == [CAT, DOG]


@pytest.mark.parametrize("difficult", ["positive", "ignore", "unknown"])
def test_a_list_that_contradicts_an_annotation_is_an_error_that_shows_the_difference(build, devkit, difficult):
    change_annotation(devkit, 2007, "000002", lambda text: text.replace("dog", "sheep"))
    with pytest.raises(ValueError, match=r"voc_lt_test.*1 of its images.*000002.*list has dog.*annotation has sheep"):
        build(difficult=difficult)


def test_contradictions_can_be_settled_by_the_list_and_are_counted(build, devkit, caplog):
    change_annotation(devkit, 2007, "000002", lambda text: text.replace("dog", "sheep"))
    built = build(on_contradiction="use_list")
    assert dict(zip(built["test"]["image_id"], built["test"]["labels"], strict=True))["000002"] == [DOG]
    assert "1 of its images" in caplog.text
    with pytest.raises(ValueError, match="on_contradiction must be 'error' or 'use_list', got 'list'"):
        build(on_contradiction="list")


def break_xml(devkit, tmp_path):
    change_annotation(devkit, 2012, "2008_000001", lambda text: text[:-20])


def unknown_class(devkit, tmp_path):
    change_annotation(devkit, 2012, "2008_000001", lambda text: text.replace(">dog<", ">dgo<"))


def no_annotation(devkit, tmp_path):
    (devkit / "VOCdevkit/VOC2012/Annotations/2008_000001.xml").unlink()


def no_image(devkit, tmp_path):
    (devkit / "VOCdevkit/VOC2012/JPEGImages/2008_000001.jpg").unlink()


def empty_image(devkit, tmp_path):
    (devkit / "VOCdevkit/VOC2012/JPEGImages/2008_000001.jpg").write_bytes(b"")


def truncated_image(devkit, tmp_path):
    file = devkit / "VOCdevkit/VOC2012/JPEGImages/2008_000001.jpg"
    file.write_bytes(file.read_bytes()[:-100])


def image_that_links_out(devkit, tmp_path):
    file = devkit / "VOCdevkit/VOC2012/JPEGImages/2008_000001.jpg"
    shutil.move(file, tmp_path / "outside.jpg")
    file.symlink_to(tmp_path / "outside.jpg")


def list_that_climbs_out(devkit, tmp_path):
    name = "VOCdevkit/VOC2012/JPEGImages/../../../../lists/x.jpg"
    write_lists(tmp_path / "lists", "voc_lt", {"train": {name: [0]}})


def list_of_unknown_class(devkit, tmp_path):
    write_lists(tmp_path / "lists", "voc_lt", {"train": {"VOCdevkit/VOC2012/JPEGImages/2008_000001.jpg": [20]}})


def shared_image(devkit, tmp_path):
    write_lists(tmp_path / "lists", "voc_lt", {"train": LISTS["test"]})


def no_list(devkit, tmp_path):
    (tmp_path / "lists" / "voc_lt_test.txt").unlink()


def no_devkit(devkit, tmp_path):
    shutil.rmtree(devkit / "VOCdevkit" / "VOC2007")


BROKEN = {
    break_xml: (ValueError, r"2008_000001\.xml is no XML"),
    unknown_class: (ValueError, r"2008_000001\.xml: unknown label 'dgo', did you mean 'dog'"),
    no_annotation: (FileNotFoundError, r"no file 'Annotations/2008_000001\.xml'"),
    no_image: (FileNotFoundError, r"1 of 2 images of split 'train' are missing.*2008_000001\.jpg"),
    empty_image: (ValueError, r"2008_000001\.jpg' is empty \(0 bytes\)"),
    truncated_image: (ValueError, r"2008_000001\.jpg' cannot be decoded"),
    image_that_links_out: (ValueError, r"leads out of"),
    list_that_climbs_out: (ValueError, r"image path .* leads out of"),
    list_of_unknown_class: (ValueError, r"voc_lt_train\.txt, line 1: class 20 does not exist"),
    shared_image: (ValueError, r"in the lists of train and test"),
    no_list: (FileNotFoundError, r"no list 'voc_lt_test\.txt'"),
    no_devkit: (FileNotFoundError, r"neither a folder VOCdevkit/VOC2007 nor VOC2007 nor the file VOCtest"),
}


@pytest.mark.parametrize("damage", BROKEN, ids=lambda damage: damage.__name__)
def test_a_broken_source_is_a_one_line_error_that_names_it(build, devkit, tmp_path, damage):
    damage(devkit, tmp_path)
    error, message = BROKEN[damage]
    with pytest.raises(error, match=message) as caught:
        build()
    assert "\n" not in str(caught.value)


def test_too_few_unused_images_of_a_class_are_named(build):
    with pytest.raises(ValueError, match=r"fewer than 3 positives of aeroplane 2, bicycle 2.*lower min_positives"):
        build(min_positives=3)
    with pytest.raises(ValueError, match="validation_size must be 1 to 40"):
        build(validation_size=41)


def test_counts_other_than_expected_show_the_classes_that_differ(build):
    counts = {"train": [2 if name == "person" else int(name in ("dog", "chair")) for name in VOC_CLASSES]}
    build(expected_counts=counts)
    counts["train"][DOG] = 3
    with pytest.raises(ValueError, match=r"voc_lt_train\.txt.*: dog 1 instead of 3; use"):
        build(expected_counts=counts)


def test_a_list_of_another_checksum_is_an_error_that_names_both(build, tmp_path):
    found = hashlib.sha256((tmp_path / "lists" / "voc_lt_train.txt").read_bytes()).hexdigest()
    with pytest.raises(ValueError, match=f"{found}, expected 2111a5e58ae8b67a.*verify_lists=False"):
        build(verify_lists=True)


def test_an_archive_of_another_checksum_is_an_error_that_names_both(build, devkit, tmp_path):
    pack_tar(devkit, "VOCdevkit/VOC2012", tmp_path / VOC_PARTS[0].archive)
    found = hashlib.md5((tmp_path / VOC_PARTS[0].archive).read_bytes()).hexdigest()
    with pytest.raises(ValueError, match=f"{found}, expected 6cd6e144f989b92b.*verify_archives=False"):
        build(voc_root=str(tmp_path), verify_archives=True)


def test_a_set_whose_preparation_broke_off_is_not_taken_for_whole(build, devkit, tmp_path):
    image = devkit / "VOCdevkit" / "VOC2007" / "JPEGImages" / "000002.jpg"  # the last one to be written
    content = image.read_bytes()
    image.write_bytes(b"no image")
    with pytest.raises(ValueError, match="000002"):
        build()
    assert not list((tmp_path / "cache").rglob("*.arrow"))
    image.write_bytes(content)
    assert build()["test"].num_rows == 2


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"difficult": "maybe"}, "difficult must be one of positive, ignore, unknown, got 'maybe'"),
        ({"validation_size": 0}, "validation_size must be >= 1 or None, got 0"),
        ({"min_positives": 0}, "min_positives must be >= 1, got 0"),
        ({"seed": -1}, "seed must be >= 0, got -1"),
    ],
)
def test_options_out_of_range_are_refused(option, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        LTVOC(cache_dir=str(tmp_path), **option)


@pytest.mark.parametrize(("name", "file"), [("lt_voc", "voc_lt_train"), ("lt_coco", "coco_lt_train")])
def test_load_images_knows_the_benchmarks_by_name(name, file, tmp_path, monkeypatch):
    def no_network(manager, url):
        raise ConnectionError(f"nothing answers for {url}")

    monkeypatch.setattr(datasets.DownloadManager, "download", no_network)
    with pytest.raises(ConnectionError, match=rf"{file}\.txt.*pass lists=FOLDER"):
        load_images(name, image_root=tmp_path, cache_dir=tmp_path / "cache")


# The scripts.


@pytest.fixture
def script(devkit, tmp_path, monkeypatch):
    """Run the preparation script; return its exit code."""

    def run(*arguments, output="out"):
        usual = ["--voc_root", devkit, "--lists", tmp_path / "lists", "--no_verify", "--min_positives", 1]
        values = [SCRIPT, "--output_dir", tmp_path / output, *usual, *arguments]
        monkeypatch.setattr(sys, "argv", [str(value) for value in values])
        with pytest.raises(SystemExit) as leave:
            runpy.run_path(str(SCRIPT), run_name="__main__")
        return leave.value.code

    return run


def test_the_script_writes_parquet_that_load_images_reads_and_a_card(script, build, tmp_path, capsys):
    assert script("--difficult", "unknown") == 0
    assert "2 train, 20 validation, 2 test images" in capsys.readouterr().out
    loaded, built = load_images(tmp_path / "out", cache_dir=tmp_path / "c"), build(difficult="unknown")
    for split, table in built.items():
        assert loaded[split].to_dict() == table.to_dict()
        assert loaded[split].features == table.features
    card = (tmp_path / "out" / "README.md").read_text()
    assert "| person | tail | 2 | 1 | 0 |" in card  # the cat's image has only a difficult person
    assert "`difficult`: 'unknown'" in card
    for file in [*(tmp_path / "out" / "data").iterdir(), *(tmp_path / "lists").iterdir()]:
        assert hashlib.sha256(file.read_bytes()).hexdigest() in card
    assert os.listdir(tmp_path / "out") in (["README.md", "data"], ["data", "README.md"])
    assert not list(tmp_path.glob(".out*"))


def test_the_prepared_folder_is_a_data_set_of_its_own(script, tmp_path):
    script()
    loaded = datasets.load_dataset(str(tmp_path / "out"), cache_dir=str(tmp_path / "c"))
    assert {split: len(table) for split, table in loaded.items()} == {"train": 2, "validation": 20, "test": 2}
    assert Image.open(io.BytesIO(loaded["test"][0]["image"]["bytes"])).size == (24, 16)


def test_the_script_refuses_a_folder_that_exists(script, tmp_path, capsys):
    (tmp_path / "out").mkdir()
    assert script() == 2
    assert "out' exists; remove it, or name another folder" in capsys.readouterr().err


def test_a_failed_script_leaves_nothing_and_the_next_starts_clean(script, devkit, tmp_path, capsys):
    image = devkit / "VOCdevkit" / "VOC2007" / "JPEGImages" / "000002.jpg"
    content = image.read_bytes()
    image.write_bytes(b"")
    assert script() == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
    assert len(lines) == 1
    assert "000002.jpg' is empty (0 bytes)" in lines[0]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["lists", "voc"]
    # What a killed run would have left.
    (tmp_path / ".out.incomplete" / "whole").mkdir(parents=True)
    (tmp_path / ".out.incomplete" / "whole" / "half.parquet").write_bytes(b"half")
    image.write_bytes(content)
    assert script() == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["README.md", "data"]
    assert not list(tmp_path.glob(".out*"))


def test_an_interrupted_script_says_so_and_leaves_nothing(script, tmp_path, monkeypatch, capsys):
    def interrupt(content, image_id):
        raise KeyboardInterrupt

    monkeypatch.setattr(record_builder, "decode_image", interrupt)
    assert script() == 1
    assert "interrupted; nothing was left in" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["lists", "voc"]


def test_a_wrong_argument_is_one_line_and_exit_code_2(script, capsys):
    assert script("--validation_size", "many") == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
