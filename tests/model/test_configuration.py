# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""The configuration: presets, precedence, round trips, groups, names, and every problem in one message."""

import json
from collections import Counter
from pathlib import Path

import pytest
from huggingface_hub.errors import StrictDataclassFieldValidationError
from transformers import AutoConfig

from modeling_cssfe import CSSFEConfig, CSSFEForImageClassification, assign_groups
from modeling_cssfe.configuration_cssfe import ABLATIONS, CHOICES, PRESETS
from modeling_cssfe.losses import list_losses
from modeling_cssfe.presets_cssfe import LOSSES


# Training images of each class, by name: the benchmark's own list, in the papers' order.
LT_VOC = {
    "person": 775,
    "chair": 479,
    "car": 249,
    "diningtable": 240,
    "bottle": 154,
    "pottedplant": 100,
    "sofa": 82,
    "tvmonitor": 64,
    "dog": 48,
    "bicycle": 34,
    "cat": 29,
    "motorbike": 20,
    "bus": 17,
    "boat": 14,
    "horse": 11,
    "bird": 8,
    "train": 7,
    "aeroplane": 6,
    "sheep": 5,
    "cow": 4,
}
LT_COCO_TRAIN = Path(__file__).parents[3] / "shared" / "data" / "lt_lists" / "coco_lt_train.txt"
FIELDS = [field for field in PRESETS["paper"] if field != "asl_margin"]


def test_no_arguments_give_a_valid_configuration():
    config = CSSFEConfig()
    assert config.preset == "corrected"
    assert config.ablation == "net3"
    assert config.problem_type == "multi_label_classification"


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_sets_every_field_that_is_not_given(preset):
    config = CSSFEConfig(preset=preset)
    assert {field: getattr(config, field) for field in FIELDS} == {field: PRESETS[preset][field] for field in FIELDS}
    assert config.loss_kwargs is not None
    assert config.loss_kwargs["margin"] == PRESETS[preset]["asl_margin"]


def test_presets_have_the_same_fields_and_differ_where_paper_and_code_do():
    assert all(set(preset) == set(PRESETS["paper"]) for preset in PRESETS.values())
    differing = {field for field in PRESETS["paper"] if PRESETS["paper"][field] != PRESETS["released"][field]}
    table = {
        "mask_mode": ("multiply_weights", "multiply_scores"),
        "map_value_projection": ("per_class", "none"),
        "enhancement_residual": (False, True),
        "map_gate": (False, True),
        "label_projection": ("linear", "mlp"),
        "label_dropout": (0.0, 0.1),
        "fusion_residual": (True, False),
        "classifier": ("per_class_linear", "dot_product"),
        "asl_margin": (0.0, 0.05),
        "feature_size": (None, 2048),
    }
    assert differing == set(table)
    for field, (paper, released) in table.items():
        assert PRESETS["paper"][field] == paper
        assert PRESETS["released"][field] == released


def test_the_corrected_preset_blocks_reverse_flow_keeps_residuals_and_takes_any_resolution():
    config = CSSFEConfig(preset="corrected")
    assert config.mask_mode == "remove"
    assert config.fusion_residual
    assert not config.map_gate
    assert config.map_value_projection != "spatial"


def values_to_give(field) -> tuple:
    if field in CHOICES:
        return tuple(CHOICES[field])
    if isinstance(PRESETS["paper"][field], bool):
        return (False, True)
    return (0.25, 0.0) if "dropout" in field or "share" in field else (3, 48)


@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.parametrize("preset", PRESETS)
def test_a_field_given_by_name_wins_over_the_preset_and_survives_json(preset, field, tmp_path):
    for value in values_to_give(field):
        config = CSSFEConfig(preset=preset, **{field: value})
        assert getattr(config, field) == value
        config.save_pretrained(tmp_path)
        loaded = CSSFEConfig.from_pretrained(tmp_path)
        assert getattr(loaded, field) == value
        assert loaded.to_dict() == config.to_dict()


@pytest.mark.parametrize("other", PRESETS)
@pytest.mark.parametrize("preset", PRESETS)
def test_fields_that_equal_another_presets_survive_json(preset, other, tmp_path):
    values = {field: value for field, value in PRESETS[other].items() if field != "asl_margin" and value is not None}
    config = CSSFEConfig(preset=preset, **values)
    config.save_pretrained(tmp_path)
    loaded = CSSFEConfig.from_pretrained(tmp_path)
    assert {field: getattr(loaded, field) for field in values} == values
    assert loaded.preset == preset


def test_the_json_file_states_every_field_of_the_preset(tmp_path):
    """A later version may change a preset; a saved model must not change with it."""
    CSSFEConfig(preset="released").save_pretrained(tmp_path)
    stored = json.loads((tmp_path / "config.json").read_text())
    for field in FIELDS:
        if PRESETS["released"][field] is not None:
            assert stored[field] == PRESETS["released"][field]


def test_a_whole_configuration_survives_json(tmp_path):
    config = CSSFEConfig(
        backbone="resnet18",
        backbone_kwargs={"output_stride": 16},
        image_size=[320, 448],
        label_names=list(LT_VOC),
        class_counts=list(LT_VOC.values()),
        num_samples=1142,
        head_min=90,
        tail_max=10,
        preset="paper",
        ablation="net2",
        label_embedding_provenance={"source": "tensor"},
        loss="bce",
        loss_kwargs={"reduction": "sum"},
        thresholds=[0.5] * 20,
        calibration={"head": {"temperature": 1.3, "bias": -0.2}, "tail": {"temperature": 0.5}},
    )
    config.save_pretrained(tmp_path)
    loaded = AutoConfig.from_pretrained(tmp_path)
    assert type(loaded) is CSSFEConfig
    assert {**loaded.to_dict(), "_name_or_path": ""} == config.to_dict()
    assert loaded.label_names == list(LT_VOC)
    assert loaded.groups == config.groups
    assert loaded.image_height_and_width == (320, 448)


def test_all_problems_are_reported_in_one_error():
    with pytest.raises(ValueError, match="CSSFEConfig has 9 problem") as caught:
        CSSFEConfig(
            label_names=["cat", "dog", "dog"],
            class_counts=[5, 0, 3, 4],
            preset="paper",
            ablation="net4",
            mask_mode="mulitply_weights",
            image_size=[1, 2, 3],
            hidden_size=0,
            hidden_dropout_prob=1.0,
            image_std=[1.0, 0.0, 1.0],
            head_min=10,
            tail_max=20,
        )
    message = str(caught.value)
    assert "\n" not in message
    for part in ("'net4'", "mulitply_weights", "[1, 2, 3]", "hidden_size is 0", "hidden_dropout_prob is 1.0"):
        assert part in message
    for part in ("image_std", "'dog'", "4 entries for 3 classes", "tail_max=20"):
        assert part in message


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        ({"preset": "realeased"}, ["'realeased'", "paper, released, corrected"]),
        ({"ablation": "net5"}, ["'net5'", "net0, net1, net2, net3"]),
        *(({field: "nonsense"}, [field, "'nonsense'", *values]) for field, values in CHOICES.items()),
        ({"class_counts": [3, 0, 5]}, ["class_counts[1]", "'LABEL_1'", "is 0"]),
        ({"label_names": ["a", "b"], "class_counts": [1, 2, 3]}, ["3 entries for 2 classes"]),
        ({"label_names": ["a", "b"], "id2label": {0: "a", 1: "c"}}, ["label_names and id2label"]),
        ({"id2label": {0: "a", 2: "b"}}, ["[0, 2]", "0 to 1"]),
        ({"label_names": ["a", "b"], "thresholds": [0.5]}, ["thresholds has 1 entries for 2"]),
        ({"label_names": ["a", "b"], "thresholds": [0.5, 1.5]}, ["[0.5, 1.5]", "[0, 1]"]),
        ({"calibration": {"tial": {"temperature": 1.0}}}, ["calibration['tial']", "head, medium, tail"]),
        ({"calibration": {"tail": {"bias": 1.0}}}, ["calibration['tail'] is {'bias': 1.0}", "give a temperature"]),
        ({"calibration": {"tail": {"temperature": 1.0, "shift": 2}}}, ["calibration['tail']", "'shift'"]),
        ({"calibration": {"tail": 1.5}}, ["calibration['tail'] is 1.5"]),
        ({"calibration": {"head": {"temperature": 0}}}, ["temperature of calibration['head'] is 0", "> 0"]),
        ({"calibration": {"head": {"temperature": 1, "bias": "2"}}}, ["bias of calibration['head'] is '2'"]),
        ({"calibration": {"head": {"temperature": float("nan")}}}, ["is nan", "finite"]),
        ({"hidden_act": "geluu"}, ["unknown hidden_act 'geluu'", "ACT2FN"]),
        ({"class_counts": [float("inf"), 1]}, ["class_counts is [inf, 1]", "whole number"]),
        ({"label_names": 5}, ["label_names is 5", "list of names"]),
        ({"id2label": ["a", "b"]}, ["id2label is ['a', 'b']", "from class ids to names"]),
        ({"id2label": {"cat": 0, "dog": 1}}, ["id2label is {'cat': 0", "from class ids to names"]),
        ({"image_mean": [float("nan")] * 3}, ["image_mean", "finite"]),
        ({"image_std": [1.0, 1.0, float("inf")]}, ["image_std", "finite and > 0"]),
        ({"layer_norm_eps": -1.0}, ["layer_norm_eps is -1.0"]),
        ({"class_counts": [10, 5], "num_samples": 3}, ["num_samples is 3", "class_counts has 10"]),
        ({"num_channels": 1}, ["image_mean has 3 values for 1 channels", "image_std"]),
        ({"problem_type": "single_label_classification"}, ["multi_label_classification"]),
        ({"label_dropout": -0.1}, ["label_dropout is -0.1"]),
        ({"num_samples": 0}, ["num_samples is 0"]),
        ({"image_size": 0}, ["image_size is 0"]),
        ({"image_size": [448]}, ["image_size is [448]", "[height, width]"]),
        ({"label_names": ["a", "b"], "num_labels": 5}, ["num_labels is 5", "2 names"]),
        ({"backbone_kwargs": {"pretrained": True}}, ["backbone_kwargs has 'pretrained'", "backbone_weights"]),
        ({"backbone_kwargs": {"checkpoint_path": "x.pth"}}, ["backbone_kwargs has 'checkpoint_path'"]),
    ],
    ids=str,
)
def test_a_problem_is_one_line_that_names_it_and_the_mend(arguments, parts):
    with pytest.raises(ValueError, match="CSSFEConfig has") as caught:
        CSSFEConfig(**arguments)
    message = str(caught.value)
    assert "\n" not in message
    for part in parts:
        assert part in message


@pytest.mark.parametrize(("field", "value"), [("backbone", 3), ("num_samples", "775"), ("map_gate", "yes")])
def test_a_wrong_type_is_refused_by_name(field, value):
    with pytest.raises(StrictDataclassFieldValidationError, match=field):
        CSSFEConfig(**{field: value})


def test_the_factory_refuses_a_wrong_type_in_one_line():
    with pytest.raises(TypeError, match=r"^Field 'head_min' expected int, got str \(value: 'a'\); see CSSFEConfig\.$"):
        CSSFEForImageClassification.from_backbone("test_resnet", label_names=["a", "b"], head_min="a")
    with pytest.raises(ValueError, match="unknown pretrained tag 'foo' of backbone 'test_resnet'; choose one of r160"):
        CSSFEForImageClassification.from_backbone(
            "test_resnet.foo", label_names=["a"], label_embeddings="random", backbone_weights=False
        )


def test_whole_numbers_serve_as_fractions():
    config = CSSFEConfig(image_mean=[0, 0, 0], image_std=[1, 1, 1], layer_norm_eps=0)
    assert (list(config.image_mean), list(config.image_std)) == ([0, 0, 0], [1, 1, 1])


def test_lt_voc_has_6_head_6_medium_and_8_tail_classes():
    config = CSSFEConfig(label_names=list(LT_VOC), class_counts=list(LT_VOC.values()))
    assert Counter(config.groups) == {"head": 6, "medium": 6, "tail": 8}
    assert config.groups[5] == "head"  # pottedplant has exactly 100
    assert config.groups[11] == "medium"  # motorbike has exactly 20
    assert config.group_ranks == [0] * 6 + [1] * 6 + [2] * 8


@pytest.mark.skipif(not LT_COCO_TRAIN.is_file(), reason="the LT-COCO list is not at ../shared/data/lt_lists")
def test_lt_coco_has_22_head_33_medium_and_25_tail_classes():
    counts = coco_class_counts()
    assert len(counts) == 80
    assert sum(count >= 1 for count in counts) == 80
    assert (max(counts), min(counts)) == (1128, 6)
    groups = CSSFEConfig(class_counts=counts).groups
    assert Counter(groups) == {"head": 22, "medium": 33, "tail": 25}


def test_every_class_has_the_calibration_of_its_group():
    calibration = {"head": {"temperature": 1.3, "bias": -0.2}, "tail": {"temperature": 0.5}}
    config = CSSFEConfig(class_counts=[3, 50, 500], calibration=calibration)
    assert config.class_calibration == [(0.5, 0.0), (1.0, 0.0), (1.3, -0.2)]
    assert CSSFEConfig(class_counts=[3, 50, 500]).class_calibration is None


def test_groups_follow_their_thresholds_and_may_be_empty():
    assert assign_groups([100, 99, 20, 19]) == ["head", "medium", "medium", "tail"]
    assert assign_groups([100, 99, 20, 19], head_min=20, tail_max=20) == ["head", "head", "head", "tail"]
    assert CSSFEConfig(class_counts=[3, 4]).groups == ["tail", "tail"]
    assert CSSFEConfig(label_names=["a", "b", "c"]).groups == ["head"] * 3
    assert assign_groups([]) == []


def test_wrong_group_arguments_are_refused():
    with pytest.raises(ValueError, match="tail_max=30 and head_min=20"):
        assign_groups([5], head_min=20, tail_max=30)
    with pytest.raises(ValueError, match=r"class_counts\[1\] is -1"):
        assign_groups([5, -1])


def test_label_names_set_both_directions_and_the_number_of_labels():
    config = CSSFEConfig(label_names=["person", "dining table", "cow"])
    assert config.id2label == {0: "person", 1: "dining table", 2: "cow"}
    assert config.label2id == {"person": 0, "dining table": 1, "cow": 2}
    assert config.num_labels == 3
    assert config.label_names == ["person", "dining table", "cow"]


def test_names_are_never_shifted_by_the_order_or_type_of_ids():
    config = CSSFEConfig(id2label={"10": "k", "2": "c", **{str(i): f"n{i}" for i in (0, 1, 3, 4, 5, 6, 7, 8, 9)}})
    assert config.label_names == ["n0", "n1", "c", *(f"n{i}" for i in range(3, 10)), "k"]
    assert config.label2id["k"] == 10


def test_counts_alone_give_the_number_of_labels():
    assert CSSFEConfig(class_counts=[1, 2, 3, 4]).num_labels == 4


@pytest.mark.parametrize(
    ("ablation", "expected"),
    list(zip(ABLATIONS, [(False,) * 3, (True, False, False), (True, True, False), (True,) * 3], strict=True)),
)
def test_each_ablation_adds_one_part(ablation, expected):
    config = CSSFEConfig(ablation=ablation)
    assert (config.uses_fusion, config.uses_enhancement, config.uses_mask) == expected


def test_the_losss_options_come_from_the_preset_only_for_asl():
    assert CSSFEConfig(loss="bce").loss_kwargs is None
    assert CSSFEConfig(preset="paper", loss_kwargs={"margin": 0.2}).loss_kwargs == {"margin": 0.2}
    assert CSSFEConfig(preset="paper").loss_kwargs == {"gamma_pos": 0.0, "gamma_neg": 4.0, "margin": 0.0}


def coco_class_counts() -> list[int]:
    counts = Counter(int(label) for line in LT_COCO_TRAIN.read_text().splitlines() for label in line.split()[1:])
    return [counts[index] for index in range(80)]


def test_a_loss_is_one_of_the_registry_and_a_near_miss_is_told():
    assert sorted(LOSSES) == sorted(list_losses())
    with pytest.raises(ValueError, match=r"unknown loss 'asll' \(known: asl, bce, .*\): did you mean 'asl'") as caught:
        CSSFEConfig(loss="asll", label_names=["a"])
    assert "\n" not in str(caught.value)
