# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""Saving and loading: to the bit, without network, in half precision, on any device map."""

import hashlib
import json
import socket

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoImageProcessor, AutoModel, AutoModelForImageClassification, PreTrainedModel

from modeling_cssfe import (
    CSSFEConfig,
    CSSFEForImageClassification,
    CSSFEImageProcessor,
    CSSFEModel,
    configuration_cssfe,
)
from modeling_cssfe.configuration_cssfe import ABLATIONS, PRESETS

from .helpers import images_for, small_model


def logits_of(model, images):
    with torch.no_grad():
        return model.eval()(images).logits


@pytest.fixture
def no_network(monkeypatch):
    def refuse(*arguments, **_):
        raise AssertionError(f"a network connection was tried: {arguments[1:]}")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket.socket, "connect_ex", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.mark.parametrize("ablation", ABLATIONS)
@pytest.mark.parametrize("preset", PRESETS)
def test_a_loaded_model_gives_the_same_logits_to_the_bit(preset, ablation, tmp_path, no_network):
    model = small_model(preset=preset, ablation=ablation)
    images = images_for(model)
    model.save_pretrained(tmp_path)
    loaded, info = CSSFEForImageClassification.from_pretrained(tmp_path, output_loading_info=True)
    assert {key: value for key, value in info.items() if value} == {}
    assert torch.equal(logits_of(loaded, images), logits_of(model, images))
    assert not loaded.training


def test_saving_a_loaded_model_writes_the_same_bytes(tmp_path):
    model = small_model()
    model.save_pretrained(tmp_path / "first")
    CSSFEForImageClassification.from_pretrained(tmp_path / "first").save_pretrained(tmp_path / "second")
    first, second = tmp_path / "first", tmp_path / "second"
    names = sorted(file.name for file in first.iterdir())
    assert names == sorted(file.name for file in second.iterdir())
    assert "model.safetensors" in names
    for name in names:
        digests = [hashlib.sha256((folder / name).read_bytes()).hexdigest() for folder in (first, second)]
        assert digests[0] == digests[1], name


def test_loading_never_touches_timms_or_clips_weights(tmp_path, no_network, monkeypatch):
    small_model().save_pretrained(tmp_path)

    def refuse(*_, **__):
        raise AssertionError("pretrained weights were asked for")

    monkeypatch.setattr("modeling_cssfe.modeling_cssfe.find_pretrained_file", refuse)
    monkeypatch.setattr("timm.models._builder.load_pretrained", refuse)
    CSSFEForImageClassification.from_pretrained(tmp_path)


def test_the_image_processor_is_there_before_anything_is_sent_to_the_hub(tmp_path, monkeypatch):
    sent = []

    def save(self, directory, *args, **kwargs):
        sent.append({file.name for file in tmp_path.iterdir()})

    monkeypatch.setattr(PreTrainedModel, "save_pretrained", save)
    small_model().save_pretrained(tmp_path, push_to_hub=True)
    assert "preprocessor_config.json" in sent[0]


def test_building_from_a_configuration_makes_no_network_call(no_network):
    CSSFEForImageClassification(CSSFEConfig(backbone="resnet18", image_size=64, num_labels=3))


def test_everything_saved_is_a_safetensors_tensor_json_or_code(tmp_path):
    small_model().save_pretrained(tmp_path)
    assert {file.suffix for file in tmp_path.iterdir()} == {".safetensors", ".json", ".py"}


def test_label_embeddings_travel_with_the_weights(tmp_path):
    model = small_model()
    embeddings = torch.randn(5, 7)
    model.set_label_embeddings(embeddings)
    model.save_pretrained(tmp_path)
    assert torch.equal(load_file(tmp_path / "model.safetensors")["cssfe.label_embeddings"], embeddings)
    loaded = CSSFEForImageClassification.from_pretrained(tmp_path)
    assert torch.equal(loaded.cssfe.label_embeddings, embeddings)


def test_groups_and_mask_come_back_though_only_the_counts_are_saved(tmp_path):
    model = small_model(num_labels=9)
    model.save_pretrained(tmp_path)
    with safe_open(tmp_path / "model.safetensors", "pt") as file:
        assert "cssfe.group_ranks" not in set(file.keys())
    loaded = CSSFEForImageClassification.from_pretrained(tmp_path)
    assert loaded.cssfe.group_ranks.tolist() == [1, 2, 0, 0, 2, 1, 2, 1, 0]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_loading_in_half_precision_keeps_the_embeddings_in_fp32(dtype, tmp_path):
    model = small_model()
    model.save_pretrained(tmp_path)
    loaded = CSSFEForImageClassification.from_pretrained(tmp_path, dtype=dtype)
    assert {parameter.dtype for parameter in loaded.parameters()} == {dtype}
    assert loaded.cssfe.label_embeddings.dtype == torch.float32
    assert torch.equal(loaded.cssfe.label_embeddings, model.cssfe.label_embeddings)
    images = images_for(model)
    difference = (logits_of(loaded, images).float() - logits_of(model, images)).abs().max()
    assert difference < (0.15 if dtype == torch.bfloat16 else 0.03)
    loaded.save_pretrained(tmp_path / "half")
    again = CSSFEForImageClassification.from_pretrained(tmp_path / "half", dtype=dtype)
    assert torch.equal(again.cssfe.label_embeddings, model.cssfe.label_embeddings)
    assert torch.equal(logits_of(again, images), logits_of(loaded, images))


def test_casting_a_model_keeps_the_embeddings_in_fp32():
    model = small_model()
    before = model.cssfe.label_embeddings.clone()
    for cast in (model.bfloat16, model.half, model.double, model.float):
        cast()
        assert model.cssfe.label_embeddings.dtype == torch.float32
        assert torch.equal(model.cssfe.label_embeddings, before)
        assert "cssfe.label_embeddings" in model.state_dict()


@pytest.mark.parametrize("device_map", ["auto", "cpu", {"": "cpu"}], ids=str)
def test_a_device_map_loads_the_same_model(device_map, tmp_path):
    model = small_model()
    model.save_pretrained(tmp_path)
    loaded = CSSFEForImageClassification.from_pretrained(tmp_path, device_map=device_map)
    images = images_for(model)
    assert torch.equal(logits_of(loaded, images.to(loaded.device)).cpu(), logits_of(model, images))


def test_a_model_on_the_meta_device_has_no_memory_and_fills_from_a_state_dict():
    model = small_model()
    with torch.device("meta"):
        empty = CSSFEForImageClassification(model.config)
    assert {tensor.device.type for tensor in [*empty.parameters(), *empty.buffers()]} == {"meta"}
    empty.to_empty(device="cpu")
    empty.init_weights()
    assert torch.equal(empty.cssfe.group_ranks, model.cssfe.group_ranks)
    empty.load_state_dict(model.state_dict())
    images = images_for(model)
    assert torch.equal(logits_of(empty, images), logits_of(model, images))


def test_loading_does_not_depend_on_or_change_the_random_state(tmp_path):
    small_model().save_pretrained(tmp_path)
    torch.manual_seed(7)
    first = CSSFEForImageClassification.from_pretrained(tmp_path).state_dict()
    torch.manual_seed(8)
    second = CSSFEForImageClassification.from_pretrained(tmp_path).state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_checkpoint_that_lacks_tensors_is_filled_with_finite_values_and_said_so(tmp_path):
    model = small_model(preset="paper")
    model.save_pretrained(tmp_path)
    kept = load_file(tmp_path / "model.safetensors")
    dropped = [name for name in kept if "timm_model.layer4" in name or "enhancement" in name or "classifier" in name]
    save_file({name: kept[name] for name in kept.keys() - set(dropped)}, tmp_path / "model.safetensors")
    loaded, info = CSSFEForImageClassification.from_pretrained(tmp_path, output_loading_info=True)
    assert set(info["missing_keys"]) == set(dropped)
    for name, tensor in loaded.state_dict().items():
        assert tensor.isfinite().all(), name
        if name not in dropped:
            assert torch.equal(tensor, kept[name]), name
        if name.endswith("running_var"):
            assert (tensor > 0).all()
    assert logits_of(loaded, images_for(model)).isfinite().all()


def test_auto_classes_find_the_registered_classes(tmp_path):
    small_model().save_pretrained(tmp_path)
    assert type(AutoConfig.from_pretrained(tmp_path)) is CSSFEConfig
    assert type(AutoModel.from_pretrained(tmp_path)) is CSSFEModel
    assert type(AutoModelForImageClassification.from_pretrained(tmp_path)) is CSSFEForImageClassification
    assert type(AutoImageProcessor.from_pretrained(tmp_path)) is CSSFEImageProcessor


def test_the_base_model_loads_from_a_classifiers_checkpoint(tmp_path):
    model = small_model()
    model.save_pretrained(tmp_path)
    base = CSSFEModel.from_pretrained(tmp_path)
    images = images_for(model)
    with torch.no_grad():
        assert torch.equal(base(images).class_tokens, model.cssfe(images).class_tokens)


@pytest.mark.parametrize("counts", [None, [9, 8, 7]])
def test_another_number_of_labels_drops_the_saved_counts_and_says_so(counts, tmp_path):
    from transformers.testing_utils import CaptureLogger

    small_model().save_pretrained(tmp_path)
    changes = {"num_labels": 3} | ({} if counts is None else {"class_counts": counts})
    with CaptureLogger(configuration_cssfe.logger) as captured:
        model = CSSFEForImageClassification.from_pretrained(tmp_path, ignore_mismatched_sizes=True, **changes)
    assert model.config.class_counts == counts
    assert logits_of(model, images_for(model)).shape == (2, 3)
    if counts is None:
        assert captured.out.count("Give class_counts=[...]") == 1
    else:
        assert captured.out == ""


def test_a_trained_backbone_can_be_given_a_head_for_other_labels(tmp_path):
    model = small_model()
    model.save_pretrained(tmp_path)
    config = CSSFEConfig.from_pretrained(tmp_path).to_dict()
    config = CSSFEConfig(
        **{**config, "id2label": {0: "a", 1: "b", 2: "c"}, "label2id": None, "class_counts": [9, 8, 7]}
    )
    loaded = CSSFEForImageClassification.from_pretrained(tmp_path, config=config, ignore_mismatched_sizes=True)
    assert logits_of(loaded, images_for(model)).shape == (2, 3)
    for name, tensor in model.cssfe.backbone.state_dict().items():
        assert torch.equal(loaded.cssfe.backbone.state_dict()[name], tensor), name
    with pytest.raises(RuntimeError, match="mismatch"):
        CSSFEForImageClassification.from_pretrained(tmp_path, config=config)


def test_sharded_checkpoints_load_to_the_bit(tmp_path):
    model = small_model()
    model.save_pretrained(tmp_path, max_shard_size="20KB")
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 1
    images = images_for(model)
    loaded = CSSFEForImageClassification.from_pretrained(tmp_path)
    assert torch.equal(logits_of(loaded, images), logits_of(model, images))


def test_the_image_processor_is_saved_beside_the_weights_and_never_overwritten(tmp_path):
    model = small_model(image_mean=[0.1, 0.2, 0.3])
    model.save_pretrained(tmp_path)
    stored = json.loads((tmp_path / "preprocessor_config.json").read_text())
    assert stored["size"] == {"height": 64, "width": 96}
    assert stored["image_mean"] == [0.1, 0.2, 0.3]
    CSSFEImageProcessor(size={"height": 8, "width": 8}).save_pretrained(tmp_path)
    model.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "preprocessor_config.json").read_text())["size"] == {"height": 8, "width": 8}
