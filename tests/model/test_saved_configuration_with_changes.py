# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""`from_pretrained` with fields given by name: what they put out of date does not stay, and all are checked at once."""

import pytest
import torch

from modeling_cssfe import CSSFEConfig, CSSFEForImageClassification

from .helpers import images_for, small_config, small_model


NAMES = ["cat", "dog", "cow", "elk"]
SAVED = {"label_names": NAMES, "class_counts": [300, 40, 5, 2], "num_samples": 320, "thresholds": [0.1, 0.2, 0.3, 0.4]}


@pytest.fixture
def saved(tmp_path):
    small_model(num_labels=4, calibration={"tail": {"temperature": 2.0}}, **SAVED).save_pretrained(tmp_path)
    return tmp_path


def test_without_changes_it_is_what_was_saved(saved):
    config = CSSFEConfig.from_pretrained(saved)
    assert (config.label_names, config.class_counts, config.num_samples) == (NAMES, [300, 40, 5, 2], 320)
    assert config.thresholds == [0.1, 0.2, 0.3, 0.4]
    assert config.class_calibration[3] == (2.0, 0.0)


@pytest.mark.parametrize(
    "changes",
    [
        {"label_names": ["fox", "owl", "eel"], "class_counts": [150, 20, 3]},
        {"id2label": {0: "fox", 1: "owl", 2: "eel"}, "label2id": {"fox": 0, "owl": 1, "eel": 2}},
        {"num_labels": 3},
    ],
)
@torch.no_grad()
def test_other_classes_replace_all_that_was_known_of_the_saved_ones(changes, saved):
    model = CSSFEForImageClassification.from_pretrained(saved, ignore_mismatched_sizes=True, **changes)
    config = model.config
    assert config.num_labels == 3
    assert config.class_counts == changes.get("class_counts")
    assert (config.num_samples, config.thresholds, config.calibration) == (None, None, None)
    if "num_labels" not in changes:
        assert config.label_names == ["fox", "owl", "eel"]
        assert config.label2id == {"fox": 0, "owl": 1, "eel": 2}
    assert model(images_for(model)).logits.shape == (2, 3)


def test_the_same_number_of_classes_under_other_names_keeps_their_counts(saved):
    config = CSSFEConfig.from_pretrained(saved, label_names=["a", "b", "c", "d"])
    assert config.label_names == ["a", "b", "c", "d"]
    assert config.class_counts == [300, 40, 5, 2]


def test_another_loss_drops_the_saved_ones_options(saved):
    model = CSSFEForImageClassification.from_pretrained(saved, loss="bce")
    labels = torch.tensor([[1, 0, 0, 1], [0, 1, 0, 0]])
    with torch.no_grad():
        output = model(images_for(model), labels=labels)
    wanted = torch.nn.functional.binary_cross_entropy_with_logits(output.logits, labels.float())
    torch.testing.assert_close(output.loss, wanted)
    config = CSSFEConfig.from_pretrained(saved, loss="db_focal", loss_kwargs={"gamma": 1.0})
    assert config.loss_kwargs == {"gamma": 1.0}


def test_another_preset_sets_its_fields_and_a_field_given_beside_it_wins(saved, caplog):
    config = CSSFEConfig.from_pretrained(saved, preset="released", map_gate=False)
    fresh = CSSFEConfig(preset="released")
    assert (config.mask_mode, config.classifier, config.hidden_size) == (
        fresh.mask_mode,
        fresh.classifier,
        fresh.hidden_size,
    )
    assert config.map_gate is False
    assert "hidden_size" in caplog.text
    assert "map_gate" not in caplog.text
    paper = CSSFEConfig.from_pretrained(saved, preset="paper")
    assert paper.loss_kwargs["margin"] == 0.0


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"class_counts": [1, 2]}, "class_counts has 2 entries for 4 classes"),
        ({"thresholds": [0.5] * 7}, "thresholds has 7 entries for 4 classes"),
        ({"head_min": 1}, "need 0 < tail_max <= head_min"),
        ({"mask_mode": "none"}, "unknown mask_mode 'none'"),
    ],
)
def test_a_change_that_does_not_fit_is_an_error_at_once(changes, part, saved):
    for load in (CSSFEConfig.from_pretrained, CSSFEForImageClassification.from_pretrained):
        with pytest.raises(ValueError, match=part):
            load(saved, **changes)


def test_a_new_loss_in_the_configuration_of_a_model_is_used_and_a_loss_set_by_hand_stays():
    model = small_model(num_labels=4, **SAVED)
    labels = torch.tensor([[1, 0, 0, 1], [0, 1, 0, 0]])
    first = model(images_for(model), labels=labels)
    model.config.loss, model.config.loss_kwargs = "bce", None
    second = model(images_for(model), labels=labels)
    wanted = torch.nn.functional.binary_cross_entropy_with_logits(second.logits, labels.float())
    torch.testing.assert_close(second.loss, wanted)
    assert first.loss != second.loss
    model.set_loss(torch.nn.MultiLabelSoftMarginLoss())
    model.config.loss = "asl"
    assert isinstance(model.loss_function, torch.nn.MultiLabelSoftMarginLoss)


def test_counts_come_as_arrays_and_tensors_too():
    import numpy as np

    labels = np.array([[1.0, 0.0], [1.0, 1.0], [1.0, 0.0]])
    for counts in (labels.sum(0), list(labels.sum(0).astype(np.int64)), torch.from_numpy(labels).sum(0)):
        assert CSSFEConfig(class_counts=counts).class_counts == [3, 1]


@pytest.mark.parametrize(
    ("options", "part"),
    [
        ({"class_counts": [3, 2.5]}, r"class_counts is \[3, 2.5\]: give a whole number a class"),
        ({"class_counts": {"a": 3, "b": 1}}, "class_counts is {'a': 3, 'b': 1}: give a whole number a class"),
        ({"class_counts": [3, float("nan")]}, "give a whole number a class"),
        ({"label_names": "person"}, "label_names is the text 'person': give a list of names"),
        ({"label_names": []}, "there is no class"),
        ({"num_labels": 0}, "there is no class"),
        ({"label_names": ["a", " "]}, "label name of class 1 is empty"),
    ],
)
def test_counts_and_names_that_are_none_are_an_error_in_one_line(options, part):
    with pytest.raises(ValueError, match=part) as caught:
        CSSFEConfig(**options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "part"),
    [
        ({"loss": "db"}, "the loss 'db' needs num_samples of the training images: give it to CSSFEConfig"),
        ({"loss": "pg", "loss_kwargs": {"nonsense": 1}, "num_samples": 400}, "has no option 'nonsense'"),
        ({"loss_kwargs": {"gama": 1}}, "loss_kwargs {'gama': 1} do not fit the loss 'asl'"),
    ],
)
def test_the_factory_finds_a_loss_that_cannot_be_built(options, part):
    with pytest.raises(ValueError, match=part) as caught:
        CSSFEForImageClassification.from_backbone(
            "test_resnet",
            label_names=NAMES,
            class_counts=[300, 40, 5, 2],
            backbone_weights=False,
            label_embeddings="random",
            **options,
        )
    assert "\n" not in str(caught.value)


def test_statistics_among_the_losss_options_win_over_the_configurations():
    model = CSSFEForImageClassification(
        small_config(num_labels=2, class_counts=[30, 5], loss="db", loss_kwargs={"num_samples": 1000})
    )
    assert model.loss_function.num_samples == 1000


def test_embeddings_come_as_arrays_too():
    import numpy as np

    embeddings = np.arange(28, dtype=np.float32).reshape(4, 7)
    model = CSSFEForImageClassification.from_backbone(
        "test_resnet", label_names=NAMES, backbone_weights=False, label_embeddings=embeddings
    )
    assert torch.equal(model.cssfe.label_embeddings, torch.from_numpy(embeddings))
    model.set_label_embeddings(embeddings + 1)
    assert model.cssfe.label_embeddings[0, 0] == 1
