# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
import json
import math
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2.functional import resize as torchvision_resize
from transformers import pipeline

from modeling_cssfe import CSSFEForImageClassification, CSSFEImageProcessor
from modeling_cssfe.export import CSSFEOnnxClassifier
from modeling_cssfe.export.classifier import RESAMPLING, preprocess, resize
from modeling_cssfe.export.description import with_image_size
from modeling_cssfe.inference import predict


SIZES = [(150, 220), (64, 96), (64, 300), (7, 5), (1, 1), (63, 97), (500, 333), (1201, 13)]


@pytest.mark.parametrize("resample", RESAMPLING)
@pytest.mark.parametrize("size", SIZES)
def test_resize_is_torchvisions_to_the_bit(resample, size):
    pixels = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    mode = InterpolationMode[resample.upper()]
    tensor = torch.from_numpy(pixels).permute(2, 0, 1).contiguous()
    expected = torchvision_resize(tensor, [64, 96], interpolation=mode, antialias=True)
    np.testing.assert_array_equal(resize(pixels, 64, 96, resample), expected.permute(1, 2, 0).numpy())


def test_resize_names_a_filter_that_it_does_not_know():
    with pytest.raises(ValueError, match="unknown resample 'lanczos': choose one of bilinear, bicubic"):
        resize(np.zeros((4, 4, 3), np.uint8), 2, 2, "lanczos")


def test_pixel_values_are_those_of_the_image_processor(image_files):
    processor = CSSFEImageProcessor(size={"height": 64, "width": 96}, resample=3, image_mean=[0.4, 0.5, 0.6])
    images = [Image.open(file).convert("RGB") for file in image_files[:1]]
    expected = processor(images, return_tensors="np")["pixel_values"]
    np.testing.assert_allclose(preprocess(images, with_image_size(processor)), expected, atol=1e-6)


def test_answers_are_those_of_the_pipeline_for_files_of_any_kind(exported, image_files):
    answers = CSSFEOnnxClassifier(exported.result.path)(image_files)
    for found, expected in zip(answers, predict(exported.folder, image_files), strict=True):
        assert [entry["label"] for entry in found] == [entry["label"] for entry in expected["predictions"]]
        for left, right in zip(found, expected["predictions"], strict=True):
            assert left["score"] == pytest.approx(right["score"], abs=1e-5)
            assert left["probability"] == pytest.approx(right["probability"], abs=1e-5)
            assert left["above_threshold"] == right["above_threshold"]


def test_scores_of_photographs_are_those_of_the_stock_pipeline(exported, photographs):
    import io

    model = CSSFEForImageClassification.from_pretrained(exported.folder)
    processor = CSSFEImageProcessor.from_pretrained(exported.folder)
    classify = pipeline("image-classification", model=model, image_processor=processor)
    answers = CSSFEOnnxClassifier(exported.result.path, num_threads=1)(photographs)
    for image, answer in zip(photographs, answers, strict=True):
        expected = {entry["label"]: entry["score"] for entry in classify(Image.open(io.BytesIO(image)), top_k=100)}
        assert {entry["label"]: entry["score"] for entry in answer} == pytest.approx(expected, abs=1e-4)


def test_paths_bytes_pillow_images_and_arrays_are_the_same_image(exported, image_files):
    classify = CSSFEOnnxClassifier(exported.result.path, batch_size=1)
    file = image_files[0]
    opened = Image.open(file)
    single = classify(file)
    assert classify([str(file), file.read_bytes(), opened, np.asarray(opened)]) == [single] * 4
    assert classify([]) == []


def test_scores_thresholds_and_probabilities_are_those_of_the_formulas(exported, image_files):
    classify = CSSFEOnnxClassifier(exported.result.path)
    logits = dict(zip(classify.label_names, classify.logits(image_files[:1])[0].tolist(), strict=True))
    limits = dict(zip(classify.label_names, [0.1, 0.9, 0.5, 0.6, 0.4], strict=True))
    # Counts 30, 5, 500, 100, 19: medium, tail, head, head, tail; the medium group is not calibrated.
    pairs = dict(zip(classify.label_names, [(1, 0), (0.5, 0), (2, -1), (2, -1), (0.5, 0)], strict=True))
    answer = classify(image_files[0], top_k=4)
    assert len(answer) == 4
    assert [entry["label"] for entry in answer] == sorted(logits, key=lambda name: -logits[name])[:4]
    for entry in answer:
        name = entry["label"]
        temperature, bias = pairs[name]
        score = 1 / (1 + math.exp(-logits[name]))
        assert entry["score"] == pytest.approx(score, abs=1e-6)
        assert entry["above_threshold"] == (score >= limits[name])
        assert entry["probability"] == pytest.approx(1 / (1 + math.exp(-logits[name] / temperature - bias)), abs=1e-6)


def test_it_runs_beside_the_model_where_torch_transformers_and_this_package_are_missing(
    exported, image_files, tmp_path
):
    folder = tmp_path / "deployed"
    folder.mkdir()
    for file in exported.result.files:
        shutil.copy(file, folder)
    code = (
        "import json, sys\n"
        "for name in ('torch', 'torchvision', 'transformers', 'datasets', 'modeling_cssfe'):\n"
        "    sys.modules[name] = None\n"
        "from onnx_classifier import CSSFEOnnxClassifier\n"
        "print(json.dumps(CSSFEOnnxClassifier('model.onnx')(sys.argv[1:])))\n"
    )
    command = [sys.executable, "-c", code, *map(str, image_files)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    expected = [entry["predictions"] for entry in predict(exported.folder, image_files)]
    for left, right in zip(json.loads(done.stdout), expected, strict=True):
        assert [entry["label"] for entry in left] == [entry["label"] for entry in right]
        assert [entry["score"] for entry in left] == pytest.approx([entry["score"] for entry in right], abs=1e-5)


def test_files_that_are_missing_or_do_not_belong_together_are_refused(exported, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"there is no .*model\.onnx"):
        CSSFEOnnxClassifier(tmp_path / "model.onnx")
    shutil.copy(exported.result.path, tmp_path / "model.onnx")
    with pytest.raises(FileNotFoundError, match=r"there is no .*model\.json"):
        CSSFEOnnxClassifier(tmp_path / "model.onnx")
    described = json.loads(exported.result.path.with_suffix(".json").read_text(encoding="utf-8"))
    described["label_names"] = described["label_names"][:3]
    (tmp_path / "model.json").write_text(json.dumps(described), encoding="utf-8")
    with pytest.raises(ValueError, match=r"names 3 classes and model\.onnx has 5"):
        CSSFEOnnxClassifier(tmp_path / "model.onnx")


def test_wrong_numbers_and_broken_images_are_refused(exported, image_files, tmp_path):
    with pytest.raises(ValueError, match="batch_size 0"):
        CSSFEOnnxClassifier(exported.result.path, batch_size=0)
    classify = CSSFEOnnxClassifier(exported.result.path)
    with pytest.raises(ValueError, match="top_k is 0"):
        classify(image_files[0], top_k=0)
    (tmp_path / "text.png").write_text("no image")
    with pytest.raises(ValueError, match=r"text\.png.*cannot be decoded"):
        classify(tmp_path / "text.png")
