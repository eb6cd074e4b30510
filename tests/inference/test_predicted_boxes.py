# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
import numpy as np
import pytest
import torch
from model.helpers import small_config
from PIL import Image

from modeling_cssfe.inference import Predictor, find_box
from modeling_cssfe.inference.boxes import map_evidence, otsu_threshold


def planted_map(rows=(4, 8), columns=(2, 6), value=5.0, side=14):
    planted = torch.zeros(side, side)
    planted[slice(*rows), slice(*columns)] = value
    return planted


@pytest.mark.parametrize("threshold", [0.5, "otsu"])
@pytest.mark.parametrize("size", [(280, 560), (33, 14)])
def test_a_planted_block_is_boxed_in_pixels_of_the_image(threshold, size):
    box = find_box(planted_map(), size, threshold)
    # Half the height is exactly at the block's edges, columns 2 to 6 and rows 4 to 8 of 14.
    expected = [2 / 14 * size[0], 4 / 14 * size[1], 6 / 14 * size[0], 8 / 14 * size[1]]
    cell = [size[0] / 14, size[1] / 14] * 2
    for value, wanted, one_cell in zip(box, expected, cell, strict=True):
        assert abs(value - wanted) <= one_cell / 8 + 1e-6


def test_a_box_at_the_edge_ends_with_the_image():
    assert find_box(planted_map((0, 14), (10, 14)), (140, 70), 0.5)[1:] == (0, 140, 70)


def test_of_two_parts_the_larger_is_boxed_though_the_peak_is_in_the_other():
    both = planted_map() + planted_map((11, 13), (11, 13), value=6.0)
    box = find_box(both, (14, 14), 0.4)
    assert box == pytest.approx((2, 4, 6, 8), abs=0.25)
    assert find_box(both, (14, 14), 0.9) == pytest.approx((11, 11, 13, 13), abs=0.5)


def test_a_lower_share_gives_a_larger_box():
    hill = torch.exp(-((torch.arange(14.0)[:, None] - 5) ** 2) / 8 - (torch.arange(14.0) - 7) ** 2 / 18)
    boxes = [find_box(hill, (140, 140), share) for share in (0.2, 0.5, 0.8)]
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in boxes]
    assert areas[0] > areas[1] > areas[2] > 0
    # exp(-d^2 / 18) = .5 at d = 3.53 cells, around the centre of column 7
    assert boxes[1][0] == pytest.approx((7.5 - 3.53) * 10, abs=2)
    assert boxes[1][2] == pytest.approx((7.5 + 3.53) * 10, abs=2)


def test_without_evidence_there_is_no_box_and_without_contrast_the_whole_image():
    assert find_box(torch.zeros(3, 3), (30, 20)) is None
    for threshold in ("otsu", 0.5):
        assert find_box(torch.full((3, 3), 2.0), (30, 20), threshold) == (0, 0, 30, 20)


def test_otsu_is_the_cut_with_the_largest_variance_between_classes():
    rng = np.random.default_rng(0)
    values = np.concatenate([rng.normal(1, 0.3, 900), rng.normal(4, 0.5, 300)])
    values = values - values.min()

    def between(cut):
        low, high = values[values < cut], values[values >= cut]
        return len(low) * len(high) * (low.mean() - high.mean()) ** 2

    best = max(between(cut) for cut in np.sort(values)[1:])
    # Of 256 bins' edges one may not part the values where the very best cut does.
    assert between(otsu_threshold(torch.tensor(values))) == pytest.approx(best, rel=1e-3)


def test_evidence_is_what_the_model_pools_with():
    maps = torch.tensor([[-3.0, 1.0], [0.0, 2.0]])
    positive, magnitude = maps.clamp_min(0), maps.abs()
    assert torch.equal(map_evidence(maps, small_config(preset="corrected")), positive)
    assert torch.equal(map_evidence(maps, small_config(preset="paper")), magnitude)
    assert torch.equal(map_evidence(maps, small_config(preset="released")), magnitude)
    assert torch.equal(map_evidence(maps, small_config(preset="paper", ablation="net0")), positive)
    weights = map_evidence(maps, small_config(map_pooling="softmax"))
    expected = maps.flatten().softmax(0).view(2, 2)
    torch.testing.assert_close(weights / weights.sum(), expected)


@pytest.mark.parametrize("tta", [[], ["flip", "five_crop"]])
def test_labels_above_threshold_are_boxed_from_the_enhanced_map_in_the_upright_image(planted, tmp_path, tta):
    exif = Image.Exif()
    exif[0x0112] = 6  # stored 60 x 40, stands 40 x 60
    Image.new("RGB", (60, 40)).save(tmp_path / "a.jpg", exif=exif)
    Image.new("RGB", (280, 140)).save(tmp_path / "b.png")
    maps = torch.stack([planted_map(), planted_map(), planted_map(value=-5.0), planted_map()])
    model, processor = planted([2.0, -2.0, 3.0, 0.1], maps, thresholds=[0.5, 0.5, 0.5, 0.9])
    predictor = Predictor(model, processor, boxes=True, box_threshold=0.5, tta=tta)
    [batch] = predictor.stream([str(tmp_path / "a.jpg"), str(tmp_path / "b.png")])
    for boxes, (width, height) in zip(batch.boxes, [(40, 60), (280, 140)], strict=True):
        assert list(boxes) == ["label 0", "label 2"]
        assert boxes["label 2"] is None  # preset `corrected` reads nothing where a map is negative
        wanted = (2 / 14 * width, 4 / 14 * height, 6 / 14 * width, 8 / 14 * height)
        assert boxes["label 0"] == pytest.approx(wanted, abs=max(width, height) / 14 / 8)
