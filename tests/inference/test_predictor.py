# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
import numpy as np
import pytest
import torch
from model.helpers import small_model
from PIL import Image, ImageOps
from transformers import AutoImageProcessor, pipeline

from modeling_cssfe import CSSFEForImageClassification, CSSFEImageProcessor
from modeling_cssfe.inference import Predictor, find_images, predict


@pytest.fixture(scope="module")
def files(photographs):
    return find_images([photographs])


@pytest.fixture(scope="module")
def stock(small_run):
    return pipeline("image-classification", model=str(small_run))


def by_name(answer):
    return {entry["label"]: entry["score"] for entry in answer}


def run(predictor, files):
    batches = list(predictor.stream(files))
    assert [image for batch in batches for image in batch.images] == list(files)
    return np.concatenate([batch.scores for batch in batches])


def test_one_by_one_scores_are_the_stock_pipelines_to_the_last_bit(small_run, files, stock):
    for entry, file in zip(predict(small_run, files, batch_size=1), files, strict=True):
        shown = [(label["label"], label["score"]) for label in entry["predictions"]]
        assert shown == [(label["label"], label["score"]) for label in stock(file, top_k=100)]


@pytest.mark.parametrize("num_workers", [0, 2])
def test_batches_have_the_stock_pipelines_scores(small_run, files, stock, num_workers):
    predictor = Predictor.from_pretrained(small_run, batch_size=8, num_workers=num_workers)
    expected = [by_name(answer) for answer in stock(files, top_k=100, batch_size=4)]
    expected = np.array([[scores[name] for name in predictor.label_names] for scores in expected])
    assert expected.std(axis=0).min() > 1e-3  # images do differ
    np.testing.assert_allclose(run(predictor, files), expected, rtol=0, atol=1e-6)


def test_an_image_processor_is_loaded_without_a_remark_about_its_backend(small_run, monkeypatch):
    from transformers.models.auto import image_processing_auto

    said = []
    monkeypatch.setattr(image_processing_auto.logger, "warning_once", said.append)
    assert type(AutoImageProcessor.from_pretrained(small_run)) is CSSFEImageProcessor
    assert said == []


def test_top_k_is_that_of_the_stock_pipeline(small_run, files, stock):
    for entry, answer in zip(predict(small_run, files[:5], top_k=2), stock(files[:5], top_k=2), strict=True):
        assert [label["label"] for label in entry["predictions"]] == [label["label"] for label in answer]


def test_thresholds_and_calibration_are_those_of_the_post_processing(small_run, files):
    model = CSSFEForImageClassification.from_pretrained(small_run)
    processor = CSSFEImageProcessor.from_pretrained(small_run)
    config = model.config
    assert config.calibration is not None
    seen = 0
    for entry, file in zip(predict(small_run, files), files, strict=True):
        with torch.no_grad():
            output = model(**processor(ImageOps.exif_transpose(Image.open(file)).convert("RGB"), return_tensors="pt"))
        [expected] = processor.post_process_multi_label_classification(
            output, config.thresholds, config.label_names, config.class_calibration
        )
        above = [label for label in entry["predictions"] if label["above_threshold"]]
        assert [label["label"] for label in above] == [label["label"] for label in expected]
        assert [label["probability"] for label in above] == pytest.approx([label["probability"] for label in expected])
        seen += len(above)
    assert 0 < seen < len(files) * config.num_labels


def test_unreadable_files_are_named_and_change_nothing_else(small_run, files, broken_file, tmp_path):
    predictor = Predictor.from_pretrained(small_run, batch_size=4)
    gone = str(tmp_path / "gone.png")
    # The second batch has nothing else, the first one and the last have some.
    mixed = [files[0], broken_file, *files[1:3], *[gone] * 4, *files[3:5], broken_file]
    batches = list(predictor.stream(mixed))
    assert [len(batch.images) for batch in batches] == [4, 4, 3]
    errors = [error for batch in batches for error in batch.errors]
    assert [error is not None for error in errors] == [name in (broken_file, gone) for name in mixed]
    assert "cannot be decoded" in errors[1]
    assert "does not exist" in errors[4]
    scores = np.concatenate([batch.scores for batch in batches])
    readable = [row for row, error in enumerate(errors) if error is None]
    np.testing.assert_allclose(scores[readable], run(predictor, files[:5]), rtol=0, atol=1e-6)
    assert np.isnan(np.delete(scores, readable, axis=0)).all()
    entries = list(predict(small_run, mixed[:2]))
    assert "error" not in entries[0]
    assert entries[1] == {"image": broken_file, "predictions": [], "error": errors[1]}


def test_max_pixels_refuses_larger_images(small_run, files):
    sizes = [Image.open(file).size for file in files]
    limit = sorted(width * height for width, height in sizes)[15]
    [batch] = Predictor.from_pretrained(small_run, max_pixels=limit).stream(files)
    assert [error is not None for error in batch.errors] == [width * height > limit for width, height in sizes]


def test_sizes_are_those_of_the_upright_image(small_run, files):
    [batch] = Predictor.from_pretrained(small_run).stream(files)
    turned = [file.endswith("01.jpg") for file in files]
    expected = [Image.open(f).size[::-1] if turn else Image.open(f).size for f, turn in zip(files, turned, strict=True)]
    assert sum(turned) == 1
    assert batch.sizes.tolist() == [list(size) for size in expected]


def slow_mean(model, processor, file, tta):
    """The mean over all views, each made with Pillow and run by itself."""
    image = Image.open(file)
    image = ImageOps.exif_transpose(image).convert("RGB")
    views = [(image, (64, 96))]
    if "five_crop" in tta:
        width, height = round(image.width * 224 / 248), round(image.height * 224 / 248)
        x, y = image.width - width, image.height - height
        for left, top in ((0, 0), (x, 0), (0, y), (x, y), (x // 2, y // 2)):
            views.append((image.crop((left, top, left + width, top + height)), (64, 96)))
    if "multi_scale" in tta:
        views += [(image, (32, 64)), (image, (96, 128))]  # maps of 1 x 2 and 3 x 4 cells of 32 px beside 2 x 3
    total = []
    for view, (height, width) in views:
        pixels = processor(view, size={"height": height, "width": width}, return_tensors="pt")["pixel_values"]
        total.append(pixels)
        if "flip" in tta:
            total.append(pixels.flip(3))
    with torch.no_grad():
        return torch.stack([model(pixels).logits[0].double().sigmoid() for pixels in total]).mean(0), len(total)


@pytest.mark.parametrize(
    ("tta", "num_views"),
    [
        (["flip"], 2),
        (["five_crop"], 6),
        (["multi_scale"], 3),
        (["flip", "five_crop"], 12),
        (["multi_scale", "flip", "five_crop"], 16),
    ],
)
def test_test_time_augmentation_is_the_mean_over_views(small_run, files, broken_file, tta, num_views):
    predictor = Predictor.from_pretrained(small_run, batch_size=3, tta=tta)
    chosen = [files[0], broken_file, *files[1:4]]
    scores = run(predictor, chosen)
    plain = run(Predictor.from_pretrained(small_run), chosen)
    for row, file in enumerate(chosen):
        if file == broken_file:
            continue
        expected, count = slow_mean(predictor.model, predictor.views.processor, file, tta)
        assert count == num_views
        np.testing.assert_allclose(scores[row], expected, rtol=0, atol=1e-6)
        assert np.abs(scores[row] - plain[row]).max() > 1e-4


def test_flip_agrees_with_mirrored_files(small_run, files, tmp_path):
    image = ImageOps.exif_transpose(Image.open(files[0])).convert("RGB")
    image.save(tmp_path / "image.png")
    ImageOps.mirror(image).save(tmp_path / "mirrored.png")
    plain = run(Predictor.from_pretrained(small_run), find_images([tmp_path]))
    flipped = run(Predictor.from_pretrained(small_run, tta=["flip"]), find_images([tmp_path]))
    # Resizing rounds to whole grey levels, which mirrored images may do the other way.
    np.testing.assert_allclose(flipped, np.stack([plain.mean(axis=0)] * 2), atol=5e-4)
    assert np.abs(plain[0] - plain[1]).max() > 3e-3


def test_the_calibrated_probability_of_views_is_that_of_their_mean(small_run, files):
    predictor = Predictor.from_pretrained(small_run, tta=["flip"])
    [batch] = predictor.stream(files[:4])
    for index, (temperature, bias) in enumerate(predictor.config.class_calibration):
        mean = batch.scores[:, index].astype(np.float64)
        expected = 1 / (1 + np.exp(-(np.log(mean / (1 - mean)) / temperature + bias)))
        np.testing.assert_allclose(batch.probabilities[:, index], expected, atol=1e-5)


def test_a_confident_logit_is_calibrated_as_it_is_and_not_as_the_1_that_its_score_is(planted, files):
    calibration = {"head": {"temperature": 10.0, "bias": -1.0}}
    model, processor = planted([30.0, -30.0], torch.zeros(2, 2, 2), calibration=calibration)
    [batch] = Predictor(model, processor).stream(files[:1])
    assert batch.scores[0, 0] == 1
    np.testing.assert_allclose(batch.probabilities[0], [1 / (1 + np.exp(-2.0)), 1 / (1 + np.exp(4.0))], rtol=1e-3)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_logits_that_are_not_finite_are_an_error_that_names_the_image(planted, files, broken_file, value):
    model, processor = planted([1.0, value], torch.zeros(2, 2, 2))
    with pytest.raises(RuntimeError, match=f"logits for '{files[0]}' are not finite") as caught:
        list(Predictor(model, processor).stream([broken_file, *files[:2]]))
    assert "\n" not in str(caught.value)


def test_the_sizes_of_multi_scale_are_whole_cells():
    from modeling_cssfe.inference.views import other_sizes

    assert other_sizes(small_model(map_size=(14, 14))) == ((320, 320), (576, 576))
    assert other_sizes(small_model(map_size=(2, 3))) == ((32, 64), (96, 128))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"preset": "released"}, "multi_scale needs a model that takes other image sizes: .*gate"),
        ({"map_size": (1, 3)}, "multi_scale needs feature maps of 2 x 2 or more, the model's are 1 x 3"),
    ],
)
def test_multi_scale_is_refused_where_the_model_takes_one_size(settings, message):
    model = small_model(**settings)
    with pytest.raises(ValueError, match=message) as caught:
        Predictor(model, CSSFEImageProcessor.from_model_config(model.config), tta=["multi_scale"])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size is 0"),
        ({"num_workers": -1}, "num_workers is -1"),
        ({"max_pixels": 0}, "max_pixels is 0"),
        ({"device": "nowhere"}, "device 'nowhere'"),
        ({"mixed_precision": "fp8"}, "choose one of no, bf16, fp16"),
        ({"mixed_precision": "fp16", "device": "cpu"}, "needs a GPU"),
        ({"tta": ["five_crops"]}, "Did you mean 'five_crop'"),
        ({"boxes": True, "box_threshold": "otzu"}, "box_threshold is 'otzu'"),
        ({"boxes": True, "box_threshold": 1.5}, "box_threshold is 1.5"),
    ],
)
def test_a_bad_option_is_one_line(options, message):
    model = small_model()
    with pytest.raises(ValueError, match=message) as caught:
        Predictor(model, CSSFEImageProcessor.from_model_config(model.config), **options)
    assert "\n" not in str(caught.value)


def test_bf16_is_near(small_run, files):
    exact = run(Predictor.from_pretrained(small_run, device="cpu"), files[:6])
    near = run(Predictor.from_pretrained(small_run, device="cpu", mixed_precision="bf16"), files[:6])
    assert near.dtype == np.float32
    assert 0 < np.abs(near - exact).max() < 0.05
