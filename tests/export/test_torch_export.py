# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
import json

import pytest
import torch
from model.helpers import images_for, small_model

from modeling_cssfe.cli import main
from modeling_cssfe.configuration_cssfe import ABLATIONS, PRESETS
from modeling_cssfe.export import ExportError, export_torch
from modeling_cssfe.export.description import with_image_size
from modeling_cssfe.export.torch_export import OUTPUT_NAMES, TOLERANCE, check_export, trace_model


# Backbones of other kinds than the convolutional one of all other tests, and whether an export takes other image sizes.
BACKBONES = {
    "test_vit": ({"depth": 2}, True),
    "test_convnext": ({"depths": [1, 1, 1, 1]}, True),
    "swin_tiny_patch4_window7_224": ({"embed_dim": 24, "depths": [2, 1], "num_heads": [3, 6], "window_size": 4}, False),
}


def expected_outputs(model, pixels):
    with torch.no_grad():
        output = model(pixel_values=pixels)
    return [getattr(output, name) for name in OUTPUT_NAMES if getattr(output, name) is not None]


def test_the_saved_graph_computes_what_the_model_does_at_any_batch_and_image_size(exported, same_graph, tmp_path):
    with same_graph():
        result = export_torch(exported.folder, tmp_path / "model.pt2")
    assert [file.name for file in tmp_path.iterdir() if file not in result.files] == []
    assert json.loads((tmp_path / "model.json").read_text(encoding="utf-8"))["format"] == "torch_export"
    run = torch.export.load(result.path).module()
    for shape in [(1, 3, 64, 96), (4, 3, 96, 128)]:
        pixels = torch.randn(shape, generator=torch.Generator().manual_seed(0))
        for found, right in zip(run(pixels), expected_outputs(exported.model, pixels), strict=True):
            torch.testing.assert_close(found, right, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("ablation", "preset"),
    # net3 of preset `corrected` is what all the other tests export.
    [(name, "corrected") for name in ABLATIONS if name != "net3"]
    + [("net3", name) for name in PRESETS if name != "corrected"],
)
def test_every_ablation_and_every_preset_can_be_exported(ablation, preset):
    model = small_model(ablation=ablation, preset=preset)
    traced = trace_model(model, model.config.image_height_and_width)
    pixels = images_for(model, batch=3)
    found = traced.program.module()(pixels)
    assert traced.output_names == OUTPUT_NAMES[: 3 if ablation in ("net2", "net3") else 2]
    for left, right in zip(found, expected_outputs(model, pixels), strict=True):
        torch.testing.assert_close(left, right, rtol=1e-4, atol=1e-5)
    # The released gate fixes the map size.
    assert traced.dynamic_image_size == (not (preset == "released" and ablation in ("net2", "net3")))


def test_a_graph_that_can_be_traced_for_any_size_and_not_saved_so_is_saved_for_one(tmp_path):
    # Dilated strides pad by a size that torch has no symbol for.
    small_model(backbone_kwargs={"output_stride": 8}).save_pretrained(tmp_path / "model")
    result = export_torch(tmp_path / "model")
    assert not result.dynamic_image_size
    assert max(result.differences.values()) < TOLERANCE
    pixels = torch.randn(3, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    model = type(small_model()).from_pretrained(tmp_path / "model")
    found = torch.export.load(result.path).module()(pixels)
    for left, right in zip(found, expected_outputs(model, pixels), strict=True):
        torch.testing.assert_close(left, right, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("backbone", BACKBONES)
def test_the_image_size_varies_where_the_backbone_lets_it(backbone):
    kwargs, dynamic = BACKBONES[backbone]
    model = small_model(backbone=backbone, backbone_kwargs=kwargs, image_size=128, feature_size=None)
    traced = trace_model(model, (128, 128))
    assert traced.dynamic_image_size == dynamic
    pixels = torch.randn(3, 3, *((160, 192) if dynamic else (128, 128)), generator=torch.Generator().manual_seed(2))
    for left, right in zip(traced.program.module()(pixels), expected_outputs(model, pixels), strict=True):
        torch.testing.assert_close(left, right, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("wrong", ["shifted", "nan", "transposed"])
def test_what_computes_something_else_is_refused(exported, wrong):
    model, traced = exported.model, exported.traced

    def run(pixels):
        logits, maps, enhanced = expected_outputs(model, pixels)
        if wrong == "shifted":
            maps = maps + 2 * TOLERANCE * maps.abs().max().clamp(min=1)
        elif wrong == "nan":
            logits = logits * torch.nan
        else:
            enhanced = enhanced.transpose(2, 3)
        return logits, maps, enhanced

    message = {"shifted": "class_activation_maps differ .* by 0.0002", "nan": "by inf", "transposed": "have the shape"}
    with pytest.raises(ExportError, match=message[wrong]):
        check_export(traced, run)


def test_another_image_size_is_traced_and_written_into_the_preprocessing(model_folder, tmp_path):
    with torch.inference_mode():  # in which torch could not trace
        export_torch(model_folder, tmp_path / "model.pt2", image_size=128)
    described = json.loads((tmp_path / "model.json").read_text(encoding="utf-8"))
    assert described["image_size"] == [128, 128]
    assert (described["preprocessing"]["height"], described["preprocessing"]["width"]) == (128, 128)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("config", '{"model_type": "cssfe"}', "is no description of an export"),
        ("model", '{"file": "model.onnx"}', r"belongs to 'model\.onnx'"),
        ("list", "[1]", "is no description"),
        ("broken", "{", "is no description"),
    ],
)
def test_a_json_of_the_same_name_that_is_something_elses_is_not_replaced(
    model_folder, tmp_path, name, content, message
):
    (tmp_path / f"{name}.json").write_text(content)
    with pytest.raises(ValueError, match=message) as raised:
        export_torch(model_folder, tmp_path / f"{name}.pt2")
    assert "\n" not in str(raised.value)
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [(f"{name}.json", content)]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"do_normalize": False}, "do_normalize=False"),
        ({"do_center_crop": True}, "do_center_crop=True"),
        ({"resample": 1}, "bilinear, bicubic only"),
        ({"size": {"shortest_edge": 64}}, "needs a height and a width"),
    ],
)
def test_steps_of_an_image_processor_that_an_export_cannot_say_are_refused(change, message):
    from modeling_cssfe import CSSFEImageProcessor

    with pytest.raises(ValueError, match=message):
        with_image_size(CSSFEImageProcessor(**change))


def test_the_command_writes_into_the_models_folder_and_reports(model_folder, same_graph, capsys):
    with same_graph():
        assert main(["export", str(model_folder), "--format", "torch_export"]) == 0
    assert (model_folder / "torch_export" / "model.pt2").is_file()
    printed = capsys.readouterr().out
    assert "largest difference of logits" in printed
    assert "any that the backbone takes" in printed


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{model}", "--format", "tflite"], "invalid choice"),
        (["{model}", "--format", "torch_export", "--quantize", "dynamic"], "--quantize is for --format onnx"),
        (["{model}", "--format", "torch_export", "--opset", "20"], "--opset is for --format onnx"),
        (["{model}", "--quantize", "int4"], "unknown quantize 'int4'"),
        (["{model}", "--quantize", "static"], "give calibration_data"),
        (["{model}", "--output", "{model}"], "must be a file that ends in .onnx"),
        (["someone/model"], "--output"),
        (["{model}/nowhere"], "--output"),
    ],
)
def test_wrong_arguments_of_the_command_end_in_one_line(model_folder, arguments, message, capsys):
    assert main(["export", *(argument.format(model=model_folder) for argument in arguments)]) == 2
    error = capsys.readouterr().err.strip()
    assert message in error
    assert len(error.splitlines()) == 1
