# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
import json

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import numpy_helper

from modeling_cssfe.data import load_images
from modeling_cssfe.export import export_onnx
from modeling_cssfe.export.classifier import preprocess
from modeling_cssfe.export.quantization import load_calibration_pixels


@pytest.fixture(scope="module")
def dynamic(exported, same_graph):
    with same_graph():
        return export_onnx(exported.folder, quantize="dynamic")


@pytest.fixture(scope="module")
def static(exported, tiny_data, same_graph):
    with same_graph():
        return export_onnx(exported.folder, quantize="static", calibration_data=tiny_data, calibration_images=12)


def initializers(path):
    return {entry.name: numpy_helper.to_array(entry) for entry in onnx.load(path).graph.initializer}


def test_files_are_named_after_their_quantisation_and_their_json_says_it(dynamic, static):
    assert dynamic.path.name == "model_int8_dynamic.onnx"
    assert static.path.name == "model_int8_static.onnx"
    for result, word in ((dynamic, "dynamic"), (static, "static")):
        described = json.loads(result.path.with_suffix(".json").read_text(encoding="utf-8"))
        assert (described["quantization"], described["file"]) == (word, result.path.name)


def test_dynamic_weights_are_within_half_a_step_of_the_fp32_ones(exported, dynamic):
    # The products with constant weights, in fp32 and in 8 bits, in the same order.
    whole, small = initializers(exported.result.path), initializers(dynamic.path)
    quantized = [name for name, array in small.items() if array.dtype == np.int8 and array.ndim == 2]
    assert len(quantized) >= 4
    checked = 0
    for name in quantized:
        scale = small[name.replace("_quantized", "_scale")]
        near = [array for array in whole.values() if array.shape in (small[name].shape, small[name].shape[::-1])]
        restored = small[name].astype(np.float64) * scale
        distances = [
            np.abs(restored - (array if array.shape == restored.shape else array.T)).max() / scale.max()
            for array in near
            if array.dtype == np.float32
        ]
        checked += bool(distances) and min(distances) <= 0.5 + 1e-3
    # Others were folded with constants before they were quantised.
    assert checked >= 4


def test_static_quantisation_makes_convolutions_and_linear_layers_8_bit(static):
    arrays = initializers(static.path)
    convolutions = [array for array in arrays.values() if array.dtype == np.int8 and array.ndim == 4]
    original = [node for node in onnx.load(static.path).graph.node if node.op_type == "Conv"]
    assert len(convolutions) == len(original) > 5
    assert [name for name, array in arrays.items() if array.dtype == np.int8 and array.ndim == 2]


def test_ranges_come_from_the_training_images(exported, tiny_data, static):
    steps = json.loads(static.path.with_suffix(".json").read_text(encoding="utf-8"))["preprocessing"]
    pixels = load_calibration_pixels(tiny_data, steps, 12)
    images = [row["bytes"] for row in load_images(tiny_data)["train"].data.column("image").to_pylist()]
    training = preprocess(images, steps)
    # Each of the drawn images is one of the training split, and none is drawn twice.
    found = [int(np.abs(training - one).max(axis=(1, 2, 3)).argmin()) for one in pixels]
    np.testing.assert_array_equal(training[found], pixels)
    assert len(set(found)) == 12
    graph = onnx.load(static.path).graph
    node = next(node for node in graph.node if node.op_type == "QuantizeLinear" and node.input[0] == "pixel_values")
    scale = initializers(static.path)[node.input[1]]
    np.testing.assert_allclose(scale, (max(pixels.max(), 0) - min(pixels.min(), 0)) / 255, rtol=1e-5)


@pytest.mark.parametrize("kind", ["dynamic", "static"])
def test_scores_stay_near_those_of_the_model_and_the_figure_is_reported(kind, exported, tiny_data, dynamic, static):
    result = {"dynamic": dynamic, "static": static}[kind]
    steps = json.loads(result.path.with_suffix(".json").read_text(encoding="utf-8"))["preprocessing"]
    pixels = load_calibration_pixels(tiny_data, steps, 8)
    session = onnxruntime.InferenceSession(result.path, providers=["CPUExecutionProvider"])
    with torch.no_grad():
        expected = exported.model(torch.from_numpy(pixels)).logits
    found = torch.from_numpy(session.run(["logits"], {"pixel_values": pixels})[0])
    difference = ((found - expected).abs().max() / expected.abs().max().clamp(min=1)).item()
    assert 0 < difference < 0.2
    if kind == "static":  # whose figure is that of these images
        assert result.differences["logits"] == pytest.approx(difference, rel=1e-3)


def test_empty_calibration_data_are_refused(tiny_data):
    empty = load_images(tiny_data)["train"].select([])
    steps = {"height": 8, "width": 8, "resample": "bilinear", "rescale_factor": 1, "mean": [0] * 3, "std": [1] * 3}
    with pytest.raises(ValueError, match="holds no images"):
        load_calibration_pixels(empty, steps, 4)
