# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
import json

import datasets
import numpy as np
import pytest
from PIL import Image

from modeling_cssfe.analysis.boxes import load_boxes
from modeling_cssfe.analysis.visible_boxes import boxes_of_class, visible_boxes, visible_window


# Two objects of the image "a", 100 x 50 px, as pixels from the corner: x0, y0, x1, y1.
RED, BLUE = (10.0, 20.0, 30.0, 40.0), (0.0, 0.0, 100.0, 25.0)


def write_voc(root, width=100):
    root.mkdir()
    Image.new("RGB", (100, 50)).save(root / "a.png")
    objects = "".join(
        f"<object><name>{name}</name><difficult>{difficult}</difficult><bndbox><xmin>{x0 + 1:g}</xmin>"
        f"<ymin>{y0 + 1:g}</ymin><xmax>{x1:g}</xmax><ymax>{y1:g}</ymax></bndbox></object>"
        for name, difficult, (x0, y0, x1, y1) in (("red", 0, RED), ("blue", 1, BLUE))
    )
    size = f"<size><width>{width}</width><height>50</height><depth>3</depth></size>"
    (root / "a.xml").write_text(f"<annotation>{size}{objects}</annotation>")
    return root


def write_coco(root):
    root.mkdir()
    Image.new("RGB", (100, 50)).save(root / "a.png")
    boxes = [(x0, y0, x1 - x0, y1 - y0) for x0, y0, x1, y1 in (RED, BLUE)]
    content = {
        "images": [{"id": "a", "file_name": "a.png", "width": 100, "height": 50}],
        "categories": [{"id": 7, "name": "red"}, {"id": 9, "name": "blue"}],
        "annotations": [
            {"id": 1, "image_id": "a", "category_id": 7, "bbox": boxes[0], "iscrowd": 0},
            {"id": 2, "image_id": "a", "category_id": 9, "bbox": boxes[1], "iscrowd": 1},
        ],
    }
    (root / "train.json").write_text(json.dumps(content))
    return root


def table(nested):
    names = ["blue", "red"]
    boxes = [[x0, y0, x1 - x0, y1 - y0] for x0, y0, x1, y1 in (RED, BLUE)]
    if nested:
        objects = {"bbox": boxes, "category": [1, 0], "difficult": [False, True]}
        feature = {
            "bbox": datasets.List(datasets.List(datasets.Value("float32"))),
            "category": datasets.List(datasets.ClassLabel(names=names)),
            "difficult": datasets.List(datasets.Value("bool")),
        }
    else:
        keys = ("xmin", "ymin", "xmax", "ymax")
        objects = [
            {**dict(zip(keys, corners, strict=True)), "label": name, "difficult": hard}
            for name, corners, hard in (("red", RED, False), ("blue", BLUE, True))
        ]
        feature = datasets.List(
            {**dict.fromkeys(keys, datasets.Value("float32")), "label": datasets.Value("string"),
             "difficult": datasets.Value("bool")}
        )  # fmt: skip
    features = datasets.Features(
        image_id=datasets.Value("string"),
        image=datasets.Image(),
        labels=datasets.List(datasets.ClassLabel(names=names)),
        objects=feature,
    )
    content = {"image_id": ["a"], "image": [Image.new("RGB", (100, 50))], "labels": [[0, 1]], "objects": [objects]}
    return datasets.Dataset.from_dict(content, features=features)


def write_source(kind, root):
    if kind == "voc":
        return write_voc(root)
    if kind == "coco":
        return write_coco(root)
    root.mkdir()
    if kind == "metadata":
        row = {"file_name": "a.png", "image_id": "a", "labels": ["red", "blue"], "width": 100, "height": 50}
        row["objects"] = {
            "bbox": [[x0, y0, x1 - x0, y1 - y0] for x0, y0, x1, y1 in (RED, BLUE)],
            "categories": ["red", "blue"],
            "iscrowd": [0, 1],
        }
        (root / "metadata.jsonl").write_text(json.dumps(row) + "\n")
    elif kind == "saved":
        table(nested=True).save_to_disk(str(root))
    else:
        table(nested=kind == "parquet_nested").to_parquet(str(root / "train.parquet"))
    return root


@pytest.mark.parametrize("kind", ["voc", "coco", "metadata", "parquet_nested", "parquet_list", "saved"])
def test_every_source_gives_the_same_boxes(kind, tmp_path):
    source = write_source(kind, tmp_path / "data")
    found = load_boxes(source, ["a", "b"], ["red", "blue"], "train")
    assert list(found) == ["a"]
    fractions = found["a"].fractions(100, 50)
    assert boxes_of_class(found["a"], "red", fractions).tolist() == [pytest.approx([0.1, 0.4, 0.3, 0.8])]
    assert boxes_of_class(found["a"], "blue", fractions).tolist() == [pytest.approx([0, 0, 1, 0.5])]
    # The blue one is marked difficult.
    assert len(boxes_of_class(found["a"], "blue", fractions, "leave_out")) == 0
    assert len(boxes_of_class(found["a"], "red", fractions, "leave_out")) == 1


def test_a_shrunk_photograph_keeps_its_boxes_and_a_turned_one_is_an_error(tmp_path):
    found = load_boxes(write_voc(tmp_path / "data"), ["a"], ["red"])["a"]
    assert found.fractions(50, 25).tolist() == found.fractions(100, 50).tolist()
    with pytest.raises(ValueError, match="of 100 x 50 pixels, but this one has 50 x 100"):
        found.fractions(50, 100)


def test_without_a_size_in_the_annotation_the_image_says_it(tmp_path):
    found = load_boxes(write_voc(tmp_path / "data", width=0), ["a"], ["red"])["a"]
    assert found.fractions(200, 100).tolist() == [pytest.approx([0.05, 0.2, 0.15, 0.4])]


def test_data_without_boxes_and_wrong_boxes_are_one_line_errors(tmp_path):
    (tmp_path / "plain").mkdir()
    plain = table(nested=True).remove_columns("objects")
    plain.to_parquet(str(tmp_path / "plain" / "train.parquet"))
    with pytest.raises(ValueError, match="has no boxes, so localization cannot be measured"):
        load_boxes(tmp_path / "plain", ["a"], ["red"])
    with pytest.raises(ValueError, match="'lt_voc' has no boxes"):
        load_boxes("lt_voc", ["a"], ["red"])
    with pytest.raises(FileNotFoundError, match="there is no"):
        load_boxes(str(tmp_path / "nowhere.json"), ["a"], ["red"])
    voc = write_voc(tmp_path / "voc")
    with pytest.raises(ValueError, match="none of the 1 images"):
        load_boxes(voc, ["z"], ["red"])
    with pytest.raises(ValueError, match="it has boxes of blue, red"):
        load_boxes(voc, ["a"], ["green"])
    text = (voc / "a.xml").read_text()
    (voc / "a.xml").write_text(text.replace("<xmax>30</xmax>", "<xmax>5</xmax>"))
    with pytest.raises(ValueError, match="'red' has no area"):
        load_boxes(voc, ["a"], ["red"])
    (voc / "a.xml").write_text(text.replace("<xmax>30</xmax>", ""))
    with pytest.raises(ValueError, match="has no area"):
        load_boxes(voc, ["a"], ["red"])


@pytest.mark.parametrize(("width", "height"), [(200, 100), (90, 150), (64, 64)])
def test_boxes_follow_a_processor_that_crops(width, height):
    from transformers import CLIPImageProcessor

    processor = CLIPImageProcessor(
        size={"shortest_edge": 80}, crop_size={"height": 64, "width": 64}, do_normalize=False, do_rescale=False
    )
    box = np.array([[0.3, 0.4, 0.9, 0.7]])
    x0, y0, x1, y1 = np.round(box[0] * (width, height, width, height)).astype(int)
    canvas = np.zeros((height, width, 3), dtype=np.uint8)
    canvas[y0:y1, x0:x1] = 255
    pixels = processor(images=Image.fromarray(canvas), return_tensors="np")["pixel_values"][0].mean(0)
    rows, columns = np.nonzero(pixels > 127)
    expected = np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]) / 64
    exact = np.array([[x0, y0, x1, y1]]) / (width, height, width, height)
    found = visible_boxes(exact, visible_window(processor, width, height))
    assert np.allclose(found[0], expected, atol=1.5 / 64)


def test_a_box_that_the_crop_cuts_off_is_left_out():
    assert len(visible_boxes(np.array([[0.0, 0.0, 0.1, 1.0]]), (0.25, 0.0, 0.75, 1.0))) == 0
    assert visible_boxes(np.array([[0.0, 0.0, 0.5, 1.0]]), (0.25, 0.0, 0.75, 1.0)).tolist() == [[0, 0, 0.5, 1]]


def test_boxes_of_digits_hold_the_ink_that_the_builder_paints(monkeypatch):
    from sklearn.datasets import load_digits

    from modeling_cssfe.data.builders import lt_digits as builder

    found = load_boxes("lt_digits", [f"test-{number:04d}" for number in range(8)], builder.LABEL_NAMES, "test")
    assert len(found) == 8
    # The builder itself paints the same scenes; what it paints last are the digits, in the order of the labels.
    source = load_digits()
    pools = builder._source_pools(source.target, 0)[2]
    labels = builder._draw_labels(builder._generator(0, 2), (160,) * 10, 1000)
    painted = []
    usual = builder._glyph_mask
    monkeypatch.setattr(builder, "_glyph_mask", lambda *given: painted.append(usual(*given)) or painted[-1])
    for number in range(8):
        painted.clear()
        builder._draw_scene(builder._generator(0, 2, 1 + number), labels[number], pools, source.images / 16.0)
        boxes = found[f"test-{number:04d}"]
        assert boxes.names == tuple(builder.LABEL_NAMES[label] for label in labels[number])
        for (window, mask), (x0, y0, x1, y1) in zip(painted[-len(boxes.names) :], boxes.corners, strict=True):
            ink = np.zeros((96, 96), dtype=bool)
            ink[window] = mask > 0
            rows, columns = np.nonzero(ink)
            assert (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1) == (x0, y0, x1, y1)
