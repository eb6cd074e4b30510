# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
import json
import shutil

import datasets
import pytest

from modeling_cssfe.cli import main
from modeling_cssfe.data import load_images
from modeling_cssfe.data.readers.records import image_features


# Four images in every form that the package reads: their labels, and what the counts of any form must be.
LABELS = {"i0": ["dog", "ant"], "i1": [], "i2": ["cat"], "i3": ["dog"]}
COUNTS = {"ant": 1, "cat": 1, "dog": 2}
NAMES = list(COUNTS)


def table(names, image_bytes):
    rows = {
        "image_id": list(LABELS),
        "image": [{"bytes": image_bytes(seed), "path": None} for seed in range(4)],
        "labels": [[NAMES.index(label) for label in labels] for labels in LABELS.values()],
    }
    return datasets.Dataset.from_dict(rows, features=image_features(names))


def parquet(root, write_image, image_bytes):
    table(NAMES, image_bytes).to_parquet(root / "train.parquet")


def saved(root, write_image, image_bytes):
    datasets.DatasetDict({"train": table(NAMES, image_bytes)}).save_to_disk(root)


def photos(root, write_image):
    for seed, name in enumerate(LABELS):
        write_image(root / f"{name}.png", seed=seed)


def folder_with(text, name="metadata.csv"):
    def write(root, write_image, image_bytes):
        photos(root, write_image)
        (root / name).write_text(text)

    return write


def coco(root, write_image, image_bytes, images="train2017"):
    photos(root / images, write_image)
    annotations = [
        {"image_id": image, "category_id": NAMES.index(label)} for image, row in LABELS.items() for label in row
    ]
    content = {
        "categories": [{"id": number, "name": name} for number, name in enumerate(NAMES)],
        "images": [{"id": name, "file_name": f"{name}.png"} for name in LABELS],
        "annotations": [*annotations, {"image_id": "i1", "category_id": 1, "iscrowd": 1}],
    }
    (root / "annotations").mkdir()
    (root / "annotations" / "instances_train2017.json").write_text(json.dumps(content))


def voc(root, write_image, image_bytes, annotations="Annotations", images="JPEGImages"):
    photos(root / images, write_image)
    (root / annotations).mkdir(exist_ok=True)
    for name, labels in LABELS.items():
        entries = "".join(f"<object><name>{label}</name><difficult>0</difficult></object>" for label in labels)
        entries += "<object><name>cat</name><difficult>1</difficult></object>" if name == "i1" else ""
        (root / annotations / f"{name}.xml").write_text(f"<annotation>{entries}</annotation>")


def flat_voc(root, write_image, image_bytes):
    voc(root, write_image, image_bytes, "train", "train")


def yolo(root, write_image, image_bytes):
    photos(root / "images", write_image)
    (root / "labels").mkdir()
    for name, labels in LABELS.items():
        lines = [f"{NAMES.index(label)} .5 .5 .1 .1\n" for label in labels]
        (root / "labels" / f"{name}.txt").write_text("".join(lines))
    (root / "data.yaml").write_text(f"train: images\nnames: {json.dumps(NAMES)}\n")


COLUMNS = "file_name,ant,cat,dog\ni0.png,1,0,1\ni1.png,{},0,0\ni2.png,0,1,0\ni3.png,0,0,1\n"
LIST = '{"file_name": "i0.png", "labels": ["dog", "ant"]}\n{"file_name": "i1.png", "labels": []}\n{"file_name": "i2.png", "labels": ["cat"]}\n{"file_name": "i3.png", "labels": ["dog"]}\n'  # noqa: E501
TEXT = "file_name,labels\ni0.png,dog|ant\ni1.png,\ni2.png,cat\ni3.png,dog\n"
CROWDED = {**COUNTS, "cat": 2}
# What is written, options of the command, and the counts and unknown labels that must come out.
SOURCES = {
    "parquet": (parquet, [], COUNTS, 0),
    "saved data set": (saved, [], COUNTS, 0),
    "label names of the caller": (parquet, ["--label_names", "dog", "cat", "ant"], COUNTS, 0),
    "list column": (folder_with(LIST, "metadata.jsonl"), [], COUNTS, 0),
    "text column": (folder_with(TEXT), [], COUNTS, 0),
    "text column, empty cells unknown": (folder_with(TEXT), ["--empty_cells", "unknown"], COUNTS, 3),
    "another text column": (
        folder_with(
            "photo,tags,key\n" + TEXT.split("\n", 1)[1].replace("|", "/").replace("\ni", ",k\ni")[:-1] + ",k\n"
        ),
        ["--labels_column", "tags", "--delimiter", "/", "--image_column", "photo", "--id_column", "key"],
        COUNTS,
        0,
    ),
    "label columns": (folder_with(COLUMNS.format(0)), [], COUNTS, 0),
    "label columns, one -1": (folder_with(COLUMNS.format(-1)), [], COUNTS, 1),
    "label columns, one empty, unknown": (folder_with(COLUMNS.format("")), ["--empty_cells", "unknown"], COUNTS, 1),
    "label columns, one empty, negative": (folder_with(COLUMNS.format("")), ["--empty_cells", "negative"], COUNTS, 0),
    "chosen label columns": (
        folder_with(COLUMNS.format("7")),
        ["--label_columns", "cat", "dog"],
        {"cat": 1, "dog": 2},
        0,
    ),
    "coco": (coco, [], CROWDED, 0),
    "coco without crowds": (coco, ["--difficult", "ignore"], COUNTS, 0),
    "coco, images elsewhere": (
        lambda root, *rest: coco(root, *rest, images="pictures/all"),
        ["--image_root", "{root}/pictures/all", "--difficult", "unknown"],
        COUNTS,
        1,
    ),
    "voc": (voc, [], CROWDED, 0),
    "voc without difficult objects": (voc, ["--difficult", "unknown"], COUNTS, 1),
    "xml beside images": (flat_voc, ["--difficult", "ignore"], COUNTS, 0),
    "yolo": (yolo, [], COUNTS, 0),
}


@pytest.fixture
def inspect(tmp_path, monkeypatch, capsys):
    """Run the command without its picture, and return exit code, what it wrote as JSON, and what it printed."""
    monkeypatch.setattr("modeling_cssfe.data.inspection.plots.draw_inspection", lambda inspection, path: None)

    def run(data, *options):
        file = tmp_path / "found.json"
        file.unlink(missing_ok=True)
        code = main(["data", "inspect", str(data), "--json", str(file), "--cache_dir", str(tmp_path / "cache"),
                     *options])  # fmt: skip
        return code, json.loads(file.read_text()) if file.exists() else None, capsys.readouterr()

    return run


@pytest.mark.parametrize("source", SOURCES)
def test_every_source_and_its_options_go_through_the_command_line(source, inspect, tmp_path, write_image, image_bytes):
    write, options, counts, unknown = SOURCES[source]
    root = tmp_path / "set"
    root.mkdir()
    write(root, write_image, image_bytes)
    code, found, printed = inspect(root, *(option.format(root=root) for option in options))
    assert code == 0, printed.err
    assert dict(zip(found["label_names"], found["splits"]["train"]["class_counts"], strict=True)) == counts
    assert sum(found["splits"]["train"]["unknown_counts"]) == unknown
    assert found["splits"]["train"]["images"]["num_checked"] == 4
    assert found["splits"]["train"]["images"]["unreadable"] == []
    assert {"no_validation_split", "no_test_split"} < {finding["kind"] for finding in found["findings"]}


def test_a_name_of_the_hub_is_read_with_its_configuration_and_revision(inspect, monkeypatch, image_bytes):
    def give(path, **options):
        assert (path, options["name"], options["revision"]) == ("someone/photos", "small", "v2")
        return datasets.DatasetDict({"train": table(NAMES, image_bytes), "test": table(NAMES, image_bytes)})

    monkeypatch.setattr(datasets, "load_dataset", give)
    code, found, printed = inspect("someone/photos", "--config_name", "small", "--revision", "v2", "--split", "test")
    assert code == 0, printed.err
    assert list(found["splits"]) == ["test"]
    assert found["splits"]["test"]["class_counts"] == list(COUNTS.values())


def test_every_option_of_load_images_is_one_of_the_command(capsys):
    import inspect as signatures

    assert main(["data", "inspect", "--help"]) == 0
    shown = capsys.readouterr().out
    for name in list(signatures.signature(load_images).parameters)[1:]:
        assert f"--{name} " in shown


def test_what_is_found_is_printed_drawn_and_an_error_is_exit_code_1(tmp_path, write_image, image_bytes, capsys):
    yolo(tmp_path / "set", write_image, image_bytes)
    (tmp_path / "set" / "images" / "i2.png").write_bytes(b"")
    shutil.copy(tmp_path / "set" / "images" / "i0.png", tmp_path / "set" / "images" / "i3.png")
    picture = tmp_path / "deep" / "picture.png"
    code = main(["data", "inspect", str(tmp_path / "set"), "--output", str(picture)])
    printed = capsys.readouterr()
    assert code == 1
    assert picture.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    words = " ".join(printed.out.replace("│", " ").split())
    assert "images/i2.png" in words
    assert "is empty (0 bytes)" in words
    assert "images/i3.png = images/i0.png" in words
    assert words.index("error") < words.index("warning") < words.index("note")
    lines = [line for line in printed.err.splitlines() if "error:" in line]
    assert len(lines) == 1
    assert "unreadable_image" in lines[0]
    assert "Traceback" not in printed.err


def test_labels_alone_are_looked_at_if_images_are_skipped(inspect, tmp_path, write_image, image_bytes):
    yolo(tmp_path / "set", write_image, image_bytes)
    (tmp_path / "set" / "images" / "i2.png").write_bytes(b"")
    code, found, printed = inspect(tmp_path / "set", "--skip_images")
    assert code == 0
    assert found["splits"]["train"]["images"] is None
    assert "image files" not in printed.out


def test_names_in_brackets_are_printed_as_they_are(inspect, tmp_path, write_image):
    write_image(tmp_path / "set" / "i.png")
    (tmp_path / "set" / "metadata.jsonl").write_text('{"file_name": "i.png", "labels": ["[red]", "[/]"]}')
    code, _, printed = inspect(tmp_path / "set")
    assert code == 0
    assert "[red]" in printed.out
    assert "[/]" in printed.out


@pytest.mark.parametrize(
    ("spoil", "options", "message"),
    [
        (lambda root: (root / "images" / "i1.png").unlink(), [], "has no image for"),
        (lambda root: (root / "labels" / "i1.txt").write_text("9 0 0 0 0"), [], "class number 9 has no name"),
        (lambda root: (root / "data.yaml").write_text("train: images\nnames: [a, a, b]"), [], "two labels named 'a'"),
        (lambda root: None, ["--split", "tset"], "has no split 'tset'"),
        (lambda root: None, ["--output", "{root}/picture.gif"], "choose a .png or .svg"),
        (lambda root: None, ["--label_names", "ant", "dgo", "cat"], "unknown label 'dog', did you mean 'dgo'"),
        (lambda root: None, ["--head_min", "2"], "tail_max <= head_min"),
        (lambda root: None, ["--num_threads", "0"], "num_threads must be >= 1, got 0"),
        (lambda root: None, ["--empty_cells", "maybe"], "invalid choice"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(spoil, options, message, inspect, tmp_path, write_image, image_bytes):
    root = tmp_path / "set"
    yolo(root, write_image, image_bytes)
    spoil(root)
    code, found, printed = inspect(root, *(option.format(root=root) for option in options))
    assert code == 2
    assert found is None
    lines = [line for line in printed.err.splitlines() if "error:" in line]
    assert len(lines) == 1
    assert message in lines[0]
    assert "Traceback" not in printed.err
