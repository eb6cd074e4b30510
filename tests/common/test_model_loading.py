import json
import logging
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor

from modeling_cssfe.cli import main
from modeling_cssfe.common.model_loading import load_cssfe_config, load_image_classifier
from modeling_cssfe.training import load_trained_model


OWN_VERBS = ("predict", "explain", "export", "push", "card", "thresholds")
LOADING_VERBS = ("predict", "explain", "export", "push", "thresholds", "evaluate")


@pytest.fixture(scope="module")
def vit(tmp_path_factory):
    """The folder of a small stock ViT of the tiny data's classes."""
    folder = tmp_path_factory.mktemp("vit")
    names = dict(enumerate(["blue", "green", "red"]))
    config = ViTConfig(
        hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8, image_size=32, patch_size=16,
        id2label=names, label2id={name: index for index, name in names.items()},
        problem_type="multi_label_classification",
    )  # fmt: skip
    ViTForImageClassification(config).save_pretrained(folder)
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


@pytest.fixture
def copy(tiny_run, tmp_path):
    """A copy of a run whose weights a test may change: `copy(change)` -> folder."""

    def make(change, source=tiny_run):
        folder = shutil.copytree(source, tmp_path / "model")
        weights = load_file(folder / "model.safetensors")
        change(weights)
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
        return folder

    return make


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    from PIL import Image

    file = tmp_path_factory.mktemp("image") / "one.png"
    Image.new("RGB", (48, 48), (200, 40, 40)).save(file)
    return file


@pytest.fixture
def command(tiny_data, image, tmp_path):
    """The arguments of a verb for a model's folder."""

    def build(verb, folder):
        out = tmp_path / "out"
        return {
            "predict": ["predict", str(folder), str(image), "--output", str(out / "scores.csv")],
            "explain": ["explain", str(folder), str(image), "--output", str(out / "maps.png")],
            "export": ["export", str(folder), "--format", "torch_export", "--output", str(out / "model.pt2")],
            "push": ["push", str(folder), "someone/model", "--output", str(out)],
            "card": ["card", str(folder), "--output", str(out)],
            "thresholds": ["thresholds", str(folder), "--data", str(tiny_data), "--output_dir", str(out)],
            "evaluate": ["evaluate", str(folder), "--data", str(tiny_data), "--output", str(out / "figures.json")],
        }[verb]

    return build


def refused(arguments, capsys, tmp_path):
    """The one line that a command says when it refuses a model, having written nothing."""
    assert main(arguments) == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert not (tmp_path / "out").exists()
    return said[-1]


@pytest.mark.parametrize("verb", OWN_VERBS)
def test_a_model_of_another_kind_is_refused_by_the_verbs_of_this_one(verb, vit, command, capsys, tmp_path):
    said = refused(command(verb, vit), capsys, tmp_path)
    assert repr(str(vit)) in said
    assert "'vit'" in said


def test_a_model_of_another_kind_is_loaded_where_any_classifier_is(vit):
    model, _ = load_image_classifier(vit)
    wanted = load_file(vit / "model.safetensors")["classifier.weight"]
    assert torch.equal(model.classifier.weight, wanted)


@pytest.mark.parametrize("verb", LOADING_VERBS)
def test_weights_that_lack_a_tensor_are_refused(verb, copy, command, capsys, tmp_path):
    folder = copy(lambda weights: weights.pop("classifier.weight"))
    said = refused(command(verb, folder), capsys, tmp_path)
    assert repr(str(folder)) in said
    assert "lack 1 tensor(s)" in said
    assert "classifier.weight" in said


def test_weights_of_another_kind_of_model_that_lack_a_tensor_are_refused(vit, copy):
    folder = copy(lambda weights: weights.pop("classifier.bias"), vit)
    with pytest.raises(ValueError, match=r"lack 1 tensor.*classifier\.bias"):
        load_image_classifier(folder)


@pytest.mark.parametrize("load", [load_trained_model, load_image_classifier])
def test_a_tensor_of_another_shape_is_named_with_both_shapes(load, copy):
    folder = copy(lambda weights: weights.update({"classifier.weight": torch.zeros(7, 2)}))
    with pytest.raises(ValueError, match=r"classifier\.weight has the shape \(7, 2\), expected \(") as caught:
        load(folder)
    assert "\n" not in str(caught.value)
    assert str(folder) in str(caught.value)


@pytest.mark.parametrize("load", [load_trained_model, load_image_classifier])
@pytest.mark.parametrize("kept", [4, 500, -100])
def test_a_cut_weight_file_is_named(load, kept, copy):
    folder = copy(lambda weights: None)
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:kept])
    with pytest.raises(ValueError, match=r"model\.safetensors' is damaged .*copy or download") as caught:
        load(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", ["{}", "[]", "{", '{"model_type": "cssfe_2"}'])
@pytest.mark.parametrize("load", [load_trained_model, load_image_classifier, load_cssfe_config])
def test_a_configuration_of_nothing_is_one_short_line(load, content, copy):
    folder = copy(lambda weights: None)
    (folder / "config.json").write_text(content)
    with pytest.raises(ValueError, match=r"model") as caught:
        load(folder)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 700
    assert str(folder) in str(caught.value)


@pytest.mark.parametrize("verb", LOADING_VERBS)
@pytest.mark.parametrize("value", [float("nan"), float("-inf")])
def test_weights_that_are_not_finite_are_refused_with_the_first_tensor(verb, value, copy, command, capsys, tmp_path):
    folder = copy(lambda weights: weights["classifier.weight"].flatten()[1].fill_(value))
    said = refused(command(verb, folder), capsys, tmp_path)
    size = load_file(folder / "model.safetensors")["classifier.weight"].numel()
    assert "not finite: classifier.weight" in said
    assert f"1 of {size} values" in said


def test_statistics_that_are_not_numbers_are_refused(copy):
    name = "cssfe.backbone.timm_model.bn1.running_mean"
    folder = copy(lambda weights: weights[name].fill_(float("nan")))
    with pytest.raises(ValueError, match="not finite: cssfe.backbone.timm_model.bn1.running_mean".replace(".", r"\.")):
        load_trained_model(folder)


def test_tensors_that_the_model_has_no_place_for_are_told_in_one_line(copy, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)  # so that its own table would show
    folder = copy(lambda weights: weights.update({"left.over": torch.zeros(2)}))
    load_trained_model(folder)
    assert [record.getMessage() for record in caplog.records] == [
        f"The weights of {str(folder)!r} hold 1 tensor(s) that the model has no place for, such as left.over; they are "
        "left out."
    ]


def test_the_card_reads_a_configuration_by_its_kind(tiny_run):
    written = json.loads((tiny_run / "config.json").read_text())
    assert load_cssfe_config(tiny_run).class_counts == written["class_counts"]
