# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
import json

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from model.helpers import images_for, small_model

from modeling_cssfe import CSSFEForImageClassification, CSSFEImageProcessor
from modeling_cssfe.export import ExportError, export_onnx
from modeling_cssfe.export import onnx as onnx_export
from modeling_cssfe.export.classifier import preprocess


def eager(model, pixels):
    with torch.no_grad():
        output = model(pixel_values=pixels)
    return {name: output[name].numpy() for name in ("logits", "class_activation_maps", "enhanced_activation_maps")}


@pytest.mark.parametrize(("batch", "height", "width"), [(1, 64, 96), (5, 64, 96), (2, 160, 64)])
def test_the_file_computes_what_the_model_does_at_any_batch_and_image_size(exported, batch, height, width):
    pixels = torch.randn(batch, 3, height, width, generator=torch.Generator().manual_seed(batch))
    session = onnxruntime.InferenceSession(exported.result.path, providers=["CPUExecutionProvider"])
    found = session.run(None, {"pixel_values": pixels.numpy()})
    for name, output in zip([entry.name for entry in session.get_outputs()], found, strict=True):
        np.testing.assert_allclose(output, eager(exported.model, pixels)[name], rtol=1e-4, atol=1e-5)


def test_logits_and_maps_of_photographs_are_the_models(exported, photographs):
    steps = json.loads(exported.result.path.with_suffix(".json").read_text(encoding="utf-8"))["preprocessing"]
    pixels = preprocess(photographs, steps)
    session = onnxruntime.InferenceSession(exported.result.path, providers=["CPUExecutionProvider"])
    expected = eager(exported.model, torch.from_numpy(pixels))
    for name, output in zip(expected, session.run(list(expected), {"pixel_values": pixels}), strict=True):
        np.testing.assert_allclose(output, expected[name], rtol=1e-4, atol=1e-5)
        assert output.std(axis=0).max() > 1e-3  # photographs do differ


def test_inputs_and_outputs_have_names_for_what_may_vary(exported):
    session = onnxruntime.InferenceSession(exported.result.path, providers=["CPUExecutionProvider"])
    assert [(entry.name, entry.shape) for entry in session.get_inputs()] == [
        ("pixel_values", ["batch", 3, "height", "width"])
    ]
    assert [entry.name for entry in session.get_outputs()] == [
        "logits",
        "class_activation_maps",
        "enhanced_activation_maps",
    ]
    assert session.get_outputs()[0].shape == ["batch", 5]


def test_preprocessing_labels_thresholds_and_calibration_lie_beside_the_file(exported):
    described = json.loads(exported.result.path.with_suffix(".json").read_text(encoding="utf-8"))
    processor = CSSFEImageProcessor.from_pretrained(exported.folder)
    assert described["preprocessing"] == {
        "height": 64,
        "width": 96,
        "resample": "bilinear",
        "rescale_factor": 1 / 255,
        "mean": list(processor.image_mean),
        "std": list(processor.image_std),
    }
    assert described["label_names"] == ["aeroplane", "bicycle", "bird", "boat", "kürbis"]
    # Counts 30, 5, 500, 100, 19 with the bounds 100 and 20.
    assert described["groups"] == ["medium", "tail", "head", "head", "tail"]
    assert described["class_counts"] == [30, 5, 500, 100, 19]
    assert described["thresholds"] == [0.1, 0.9, 0.5, 0.6, 0.4]
    assert described["calibration"] == [[1.0, 0.0], [0.5, 0.0], [2.0, -1.0], [2.0, -1.0], [0.5, 0.0]]
    assert (described["dynamic_image_size"], described["quantization"]) == (True, "none")
    assert max(described["differences"].values()) < 1e-4


def test_the_files_lie_in_a_folder_of_the_models_and_nothing_else_is_left(exported):
    folder = exported.folder / "onnx"
    names = ["model.onnx", "model.json", "onnx_classifier.py", "image_decoding.py"]
    assert [file.relative_to(folder).as_posix() for file in exported.result.files] == names
    assert not [path for path in folder.iterdir() if path.name.startswith(".")]


def test_an_export_that_differs_is_refused_with_the_figure_and_nothing_is_written(
    exported, same_graph, tmp_path, monkeypatch
):
    honest = onnx_export.onnx_runner

    def shifted(path, *arguments):
        run = honest(path, *arguments)
        return lambda pixels: [run(pixels)[0] + 0.25, *run(pixels)[1:]]

    monkeypatch.setattr(onnx_export, "onnx_runner", shifted)
    with (
        same_graph(),
        pytest.raises(ExportError, match=r"logits differ from the model's by 0\.(2|1|0)\d* \(allowed: 1e-04\)"),
    ):
        export_onnx(exported.folder, tmp_path / "model.onnx")
    assert list(tmp_path.iterdir()) == []


def test_a_model_without_enhancement_has_two_outputs_in_the_oldest_opset_too(tmp_path):
    model = small_model(ablation="net1")
    model.save_pretrained(tmp_path)
    result = export_onnx(tmp_path, opset=18)
    assert [entry.version for entry in onnx.load(result.path).opset_import if not entry.domain] == [18]
    session = onnxruntime.InferenceSession(result.path, providers=["CPUExecutionProvider"])
    assert [entry.name for entry in session.get_outputs()] == ["logits", "class_activation_maps"]
    pixels = images_for(model)
    loaded = CSSFEForImageClassification.from_pretrained(tmp_path).eval()
    with torch.no_grad():
        expected = loaded(pixels)
    logits, maps = session.run(None, {"pixel_values": pixels.numpy()})
    np.testing.assert_allclose(logits, expected.logits.numpy(), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(maps, expected.class_activation_maps.numpy(), rtol=1e-4, atol=1e-5)


# Twelve seconds, as torch takes ten to make a graph.
def test_a_discriminant_that_hears_the_pretrained_classifier_is_exported_for_any_image_size(tmp_path):
    model = small_model(map_size=(4, 5), discriminant_share=0.5, num_pretrained_labels=6)
    model.save_pretrained(tmp_path)
    session = onnxruntime.InferenceSession(export_onnx(tmp_path).path, providers=["CPUExecutionProvider"])
    for size in ((128, 160), (96, 352), (320, 64)):
        pixels = torch.randn(3, 3, *size)
        (logits,) = session.run(["logits"], {"pixel_values": pixels.numpy()})
        np.testing.assert_allclose(logits, eager(model, pixels)["logits"], rtol=1e-4, atol=1e-5)


def test_an_interrupted_export_leaves_the_older_file_whole(exported, same_graph, tmp_path):
    target = tmp_path / "model.onnx"
    target.write_bytes(b"older")

    def broken(traced, path, opset):
        path.write_bytes(b"half")
        raise KeyboardInterrupt

    with same_graph(), pytest.MonkeyPatch.context() as patched:
        patched.setattr(onnx_export, "_write_graph", broken)
        with pytest.raises(KeyboardInterrupt):
            export_onnx(exported.folder, target)
    assert [(file.name, file.read_bytes()) for file in tmp_path.iterdir()] == [("model.onnx", b"older")]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"quantize": "int4"}, "unknown quantize 'int4': choose one of none, dynamic, static"),
        ({"quantize": "static"}, "give calibration_data"),
        ({"calibration_data": "lt_digits"}, "calibration_data is for static"),
        ({"quantize": "static", "calibration_data": "lt_digits", "calibration_images": 0}, "calibration_images is 0"),
        ({"opset": 9}, "opset is 9; give a number from 18"),
        ({"output": "model.pt2"}, "must be a file that ends in .onnx"),
        ({"image_size": 0}, "image_size is 0"),
    ],
)
def test_a_wrong_argument_is_named(model_folder, options, message):
    with pytest.raises(ValueError, match=message) as raised:
        export_onnx(model_folder, **options)
    assert "\n" not in str(raised.value)


def test_a_missing_package_is_named_with_the_command_that_installs_it(model_folder, monkeypatch):
    find = onnx_export.importlib.util.find_spec
    monkeypatch.setattr(
        onnx_export.importlib.util, "find_spec", lambda name: None if name == "onnxscript" else find(name)
    )
    with pytest.raises(ValueError, match=r"needs onnxscript; run `pip install 'cssfe\[export\]'`"):
        export_onnx(model_folder)
