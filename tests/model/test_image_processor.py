# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""The image processor: sizes, pixel values, and labels from scores."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from modeling_cssfe import CSSFEConfig, CSSFEImageProcessor
from modeling_cssfe.data import decode_image
from modeling_cssfe.modeling_cssfe import CSSFEImageClassifierOutput


MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def picture(height: int, width: int, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8))


def test_the_defaults_are_448_pixels_and_imagenets_statistics():
    processor = CSSFEImageProcessor()
    assert dict(processor.size) == {"height": 448, "width": 448}
    assert tuple(processor.image_mean) == MEAN
    assert tuple(processor.image_std) == STD
    assert processor(picture(30, 50), return_tensors="pt")["pixel_values"].shape == (1, 3, 448, 448)


def test_pixels_that_need_no_resizing_are_only_scaled_and_normalised():
    image = picture(20, 30)
    processor = CSSFEImageProcessor(size={"height": 20, "width": 30})
    actual = processor(image, return_tensors="pt")["pixel_values"][0].double().numpy()
    expected = (np.asarray(image, dtype=np.float64) / 255 - np.array(MEAN)) / np.array(STD)
    np.testing.assert_allclose(actual, expected.transpose(2, 0, 1), atol=1e-5)


def test_resizing_is_bilinear_with_antialiasing_as_pillow_does_it():
    image = picture(97, 61)
    processor = CSSFEImageProcessor(size={"height": 32, "width": 24}, do_normalize=False)
    actual = processor(image, return_tensors="pt")["pixel_values"][0] * 255
    expected = np.asarray(image.resize((24, 32), Image.Resampling.BILINEAR), dtype=np.float64).transpose(2, 0, 1)
    # Both round to whole grey levels, not always to the same one.
    assert np.abs(actual.numpy() - expected).max() <= 1.01


def test_the_whole_image_is_kept_whatever_its_aspect_ratio():
    """A white edge at either end survives: nothing is cropped."""
    pixels = np.zeros((20, 200, 3), dtype=np.uint8)
    pixels[:, :20], pixels[:, -20:] = 255, 255
    processor = CSSFEImageProcessor(size={"height": 40, "width": 40}, do_normalize=False)
    row = processor(Image.fromarray(pixels), return_tensors="pt")["pixel_values"][0, 0, 20]
    assert row[0] > 0.9
    assert row[-1] > 0.9
    assert row[20] < 0.1


@pytest.mark.parametrize(
    ("kind", "expected"), [("16 bits", [[0, 1], [128, 255]]), ("transparent", [[255, 255], [128, 128]])]
)
def test_sixteen_bits_and_transparency_become_what_training_decodes(kind, expected, tmp_path):
    if kind == "16 bits":
        image = Image.fromarray(np.array([[255, 256], [128 * 256 + 255, 65535]], dtype=np.uint16))
    else:
        pixels = np.full((2, 2, 4), 128, dtype=np.uint8)
        pixels[0, :, 3], pixels[1, :, 3] = 0, 255
        image = Image.fromarray(pixels, "RGBA")
    image.save(tmp_path / "image.png")
    processor = CSSFEImageProcessor(size={"height": 2, "width": 2}, do_normalize=False)
    with Image.open(tmp_path / "image.png") as opened:
        actual = processor(opened, return_tensors="pt")["pixel_values"]
    wanted = torch.tensor(expected).expand(1, 3, 2, 2) / 255
    torch.testing.assert_close(actual, wanted)
    decoded = decode_image(tmp_path / "image.png")
    assert torch.equal(processor(decoded, return_tensors="pt")["pixel_values"], actual)


@pytest.mark.parametrize(("mode", "channels"), [("L", 1), ("RGBA", 4)])
def test_images_keep_the_channels_that_a_model_was_made_for(mode, channels):
    statistics = {"image_mean": [0.5] * channels, "image_std": [0.5] * channels}
    config = CSSFEConfig(num_channels=channels, image_size=12, **statistics)
    image = picture(12, 12).convert(mode)
    actual = CSSFEImageProcessor.from_model_config(config)(image, return_tensors="pt")["pixel_values"]
    wanted = torch.from_numpy(np.array(image, dtype=np.float32).reshape(12, 12, channels)).permute(2, 0, 1) / 127.5 - 1
    torch.testing.assert_close(actual[0], wanted)


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "1", "CMYK"])
def test_images_of_any_mode_become_three_channels(mode):
    image = picture(12, 12).convert(mode)
    processor = CSSFEImageProcessor(size={"height": 12, "width": 12})
    actual = processor(image, return_tensors="pt")["pixel_values"]
    assert torch.equal(actual, processor(image.convert("RGB"), return_tensors="pt")["pixel_values"])


@pytest.mark.parametrize(("mode", "kind"), [("I", "32-bit integer"), ("F", "floating-point")])
def test_pixels_whose_range_is_not_known_are_refused_as_in_training(mode, kind):
    with pytest.raises(ValueError, match=f"{kind} pixels.*scale it to 8 or 16 bits"):
        CSSFEImageProcessor()(Image.new(mode, (8, 8), 300), return_tensors="pt")


def test_images_of_different_sizes_make_one_batch():
    processor = CSSFEImageProcessor(size={"height": 16, "width": 24})
    images = [picture(10, 20), picture(40, 8, 1), picture(16, 24, 2)]
    batch = processor(images, return_tensors="pt")["pixel_values"]
    assert batch.shape == (3, 3, 16, 24)
    for image, pixels in zip(images, batch, strict=True):
        assert torch.equal(processor(image, return_tensors="pt")["pixel_values"][0], pixels)


def test_the_processor_of_a_configuration_has_its_size_and_statistics(tmp_path):
    config = CSSFEConfig(image_size=[320, 448], image_mean=[0.1, 0.2, 0.3], image_std=[0.4, 0.5, 0.6])
    processor = CSSFEImageProcessor.from_model_config(config)
    assert processor(picture(9, 9), return_tensors="pt")["pixel_values"].shape == (1, 3, 320, 448)
    processor.save_pretrained(tmp_path)
    loaded = CSSFEImageProcessor.from_pretrained(tmp_path)
    assert loaded.to_dict() == processor.to_dict()
    assert tuple(loaded.image_mean) == (0.1, 0.2, 0.3)
    assert tuple(loaded.image_std) == (0.4, 0.5, 0.6)


LOGITS: Any = torch.tensor([[2.0, -1.0, 0.5], [-3.0, -2.0, -1.0]])


def sigmoid(value: float) -> float:
    return 1 / (1 + math.exp(-value))


def post_process(outputs, *arguments, **keywords):
    return CSSFEImageProcessor().post_process_multi_label_classification(outputs, *arguments, **keywords)


def test_labels_with_a_score_of_one_half_or_more_are_kept_highest_first():
    first, second = post_process(LOGITS, label_names=["person", "dog", "cow"])
    assert first == [
        {"label": "person", "score": pytest.approx(sigmoid(2.0))},
        {"label": "cow", "score": pytest.approx(sigmoid(0.5))},
    ]
    assert second == []


def test_each_class_has_its_own_threshold():
    first, second = post_process(LOGITS, [0.9, 0.25, 0.7])
    assert [entry["label"] for entry in first] == [1]
    assert [entry["label"] for entry in second] == [2] * (sigmoid(-1.0) >= 0.7)
    first, second = post_process(LOGITS, [0.9, 0.1, 0.2])
    assert [entry["label"] for entry in first] == [2, 1]
    assert [entry["label"] for entry in second] == [2, 1]


def test_a_threshold_that_is_reached_exactly_counts():
    assert [entry["label"] for entry in post_process(torch.zeros(1, 2), 0.5)[0]] == [0, 1]
    assert post_process(torch.zeros(1, 2), 0.51) == [[]]


def test_the_models_output_serves_as_well_as_its_logits():
    assert post_process(CSSFEImageClassifierOutput(logits=LOGITS)) == post_process(LOGITS)


def test_half_precision_logits_with_gradient_are_taken():
    logits = LOGITS.bfloat16().requires_grad_()
    assert [len(entries) for entries in post_process(logits)] == [2, 0]


def test_a_calibrated_probability_stands_beside_the_score_and_changes_no_decision():
    config = CSSFEConfig(
        class_counts=[3, 50, 500],
        calibration={"head": {"temperature": 2.0, "bias": -3.0}, "tail": {"temperature": 0.5, "bias": 1.0}},
    )
    plain = post_process(LOGITS)
    calibrated = post_process(LOGITS, calibration=config.class_calibration)
    expected = [  # of the first image; its logits are 2 and .5, and the second image has no label
        {"label": 0, "score": pytest.approx(sigmoid(2.0)), "probability": pytest.approx(sigmoid(2.0 / 0.5 + 1))},
        {"label": 2, "score": pytest.approx(sigmoid(0.5)), "probability": pytest.approx(sigmoid(0.5 / 2 - 3))},
    ]
    assert calibrated == [expected, []]
    assert [[{**entry, "probability": 0} for entry in row] for row in plain] == [
        [{**entry, "probability": 0} for entry in row] for row in calibrated
    ]


def test_a_dictionary_of_groups_is_no_calibration_of_classes():
    with pytest.raises(TypeError, match=r"pass config\.class_calibration"):
        post_process(LOGITS, calibration={"head": {"temperature": 1.0}})


@pytest.mark.parametrize(
    ("keywords", "part"),
    [
        ({"calibration": [(1.0, 0.0)]}, "calibration has 1 entries for 3 classes"),
        ({"thresholds": [0.5, 0.5]}, "thresholds has 2 entries for 3 classes"),
        ({"label_names": ["a"]}, "label_names has 1"),
    ],
    ids=["calibration", "thresholds", "names"],
)
def test_lists_of_another_length_are_refused_in_one_line(keywords, part):
    with pytest.raises(ValueError, match=part) as caught:
        post_process(LOGITS, **keywords)
    assert "\n" not in str(caught.value)
