# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
import json

import numpy as np
import pytest
import torch
from PIL import Image
from planted import planted_model

from modeling_cssfe.analysis.boxes import load_boxes
from modeling_cssfe.analysis.localization import FIGURES, measure_localization
from modeling_cssfe.data import load_images
from modeling_cssfe.explain.kinds import available_kinds


COLOURS = {"red": (255, 0, 0), "blue": (0, 0, 255)}


def write_scenes(root, scenes, flip=False):
    """A COCO folder of images 128 x 64; scenes list (colour, drawn box, annotated box), boxes in pixels."""
    root.mkdir()
    names = list(COLOURS)
    content = {"images": [], "annotations": [], "categories": [{"id": i, "name": name} for i, name in enumerate(names)]}
    for number, scene in enumerate(scenes):
        canvas = np.zeros((64, 128, 3), dtype=np.uint8)
        file = f"{number}.png"
        content["images"].append({"id": number, "file_name": file, "width": 128, "height": 64})
        for colour, (x0, y0, x1, y1), annotated in scene:
            canvas[y0:y1, x0:x1] = COLOURS[colour]
            a0, b0, a1, b1 = annotated
            if flip:
                a0, a1 = 128 - a1, 128 - a0
            own = {"id": len(content["annotations"]), "image_id": number, "category_id": names.index(colour)}
            content["annotations"].append({**own, "bbox": [a0, b0, a1 - a0, b1 - b0], "iscrowd": 0})
        Image.fromarray(canvas[:, ::-1] if flip else canvas).save(root / file)
    (root / "test.json").write_text(json.dumps(content))
    return root


def measured(root, model=None, **options):
    model, processor = planted_model() if model is None else model
    dataset = load_images(root)["test"]
    boxes = load_boxes(root, dataset["image_id"], model.config.label_names, "test")
    return measure_localization(model, processor, dataset, boxes, resamples=20, **options)


RIGHT = ("red", (32, 16, 64, 48), (32, 16, 64, 48))
WRONG = ("blue", (96, 0, 128, 32), (0, 32, 32, 64))


def test_a_map_on_the_object_finds_it_and_one_elsewhere_does_not(tmp_path):
    result = measured(write_scenes(tmp_path / "data", [[RIGHT, WRONG]] * 3), kinds=["cam"])
    figures = result.kinds["cam"].figures
    assert figures["pointing"].per_class["red"].value == 1
    assert figures["pointing"].per_class["blue"].value == 0
    # The map is 1 in its 2 x 4 cells; enlarging it carries a little over the edges.
    assert figures["energy"].per_class["red"].value > 0.75
    assert figures["energy"].per_class["blue"].value == 0
    assert figures["box_iou"].per_class["red"].value > 0.9
    assert figures["box_accuracy_70"].groups["head"].value == 1
    assert figures["box_accuracy_30"].groups["tail"].value == 0
    # Both boxes cover 32 x 32 of 128 x 64 pixels.
    assert result.box_area.groups["all"].value == pytest.approx(1 / 8)
    assert (result.num_images, result.num_maps) == (3, 6)


def test_figures_stay_when_images_and_boxes_are_mirrored(tmp_path):
    scenes = [[("red", (8, 8, 48, 40), (0, 16, 40, 56)), WRONG], [RIGHT]]
    plain = measured(write_scenes(tmp_path / "plain", scenes), kinds=["cam"]).kinds["cam"].figures
    mirrored = measured(write_scenes(tmp_path / "mirrored", scenes, flip=True), kinds=["cam"]).kinds["cam"].figures
    for name in FIGURES:
        for group in ("head", "tail"):
            got, expected = mirrored[name].groups[group].value, plain[name].groups[group].value
            assert got == pytest.approx(expected, abs=0.02), name


def test_single_images_and_batches_agree_for_every_kind_of_map(tmp_path):
    model = planted_model()
    kinds = available_kinds(model[0])
    root = write_scenes(tmp_path / "data", [[RIGHT], [RIGHT, WRONG], [WRONG]])
    single, batch = (measured(root, model, batch_size=size, kinds=kinds) for size in (1, 3))
    assert set(single.kinds) == set(kinds) >= {"cam", "grad_cam"}
    for kind in kinds:
        for name in FIGURES:
            for group in ("head", "tail"):
                one, all_ = (r.kinds[kind].figures[name].groups[group] for r in (single, batch))
                assert one.value == pytest.approx(all_.value, abs=1e-6)
                assert (one.low, one.high) == pytest.approx((all_.low, all_.high), abs=1e-6)


def test_maps_that_point_nowhere_are_counted_and_score_nothing(tmp_path):
    model, processor = planted_model(gains=(0.0, 0.0))
    result = measured(write_scenes(tmp_path / "data", [[RIGHT]]), (model, processor), kinds=["cam"])
    assert result.kinds["cam"].flat_maps == 1
    assert result.kinds["cam"].figures["pointing"].groups["head"].value == 0


def test_the_magnitude_finds_an_object_under_negative_values(tmp_path):
    model, processor = planted_model()
    with torch.no_grad():
        model.cssfe.class_activation.weight.neg_()
    root = write_scenes(tmp_path / "data", [[RIGHT]])
    found = {
        sign: measured(root, (model, processor), kinds=["cam"], sign=sign).kinds["cam"].figures["energy"]
        for sign in ("positive", "magnitude")
    }
    assert found["positive"].groups["head"].value == 0
    assert found["magnitude"].groups["head"].value > 0.75


def test_wrong_options_are_one_line_errors(tmp_path):
    root = write_scenes(tmp_path / "data", [[RIGHT]])
    for options, message in (
        ({"sign": "both"}, "sign"),
        ({"difficult": "no"}, "difficult"),
        ({"tolerance": 2.0}, "tolerance is 2"),
        ({"kinds": ["cams"]}, "did you mean 'cam'"),
        ({"kinds": ["cam"], "layer": "layer3"}, "have no layer to choose"),
    ):
        with pytest.raises(ValueError, match=message):
            measured(root, **options)
