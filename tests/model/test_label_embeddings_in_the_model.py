# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""Label embeddings of any width, their buffer, and their centring."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from modeling_cssfe import CSSFEForImageClassification
from modeling_cssfe.configuration_cssfe import ABLATIONS, PRESETS

from .helpers import COUNTS, SMALL_BACKBONE, images_for, small_config, small_model


SHARED = Path(__file__).parents[3] / "shared" / "data" / "label_embeddings"


@pytest.mark.parametrize("width", [1024, 512, 300, 768])
@pytest.mark.parametrize("preset", PRESETS)
def test_embeddings_of_every_usual_width_work(preset, width):
    model = small_model(preset=preset, label_embedding_dim=width)
    model.set_label_embeddings(torch.randn(5, width))
    out = model(images_for(model), labels=torch.ones(2, 5))
    out.loss.backward()
    assert out.logits.shape == (2, 5)
    assert out.logits.isfinite().all()


def test_embeddings_are_kept_as_given_in_fp32():
    model = small_model()
    given = torch.randn(5, 7, dtype=torch.float64)
    model.set_label_embeddings(given)
    assert model.cssfe.label_embeddings.dtype == torch.float32
    assert torch.equal(model.cssfe.label_embeddings, given.float())
    model.set_label_embeddings(given.half())
    assert torch.equal(model.cssfe.label_embeddings, given.half().float())


def test_embeddings_change_the_logits():
    model = small_model()
    images = images_for(model)
    with torch.no_grad():
        before = model(images).logits
        model.set_label_embeddings(torch.randn(5, 7))
        assert not torch.allclose(before, model(images).logits, atol=1e-3)


@pytest.mark.parametrize(
    ("embeddings", "part"),
    [
        (torch.zeros(5, 8), r"\(5, 8\), expected \(5, 7\)"),
        (torch.zeros(4, 7), r"\(4, 7\), expected \(5, 7\)"),
        (torch.zeros(35), r"\(35,\), expected \(5, 7\)"),
        (torch.full((5, 7), math.nan), "NaN"),
        (torch.full((5, 7), math.inf), "infinite"),
        (torch.ones(5, 7) * 1j, "complex"),
        (None, "label embeddings must be an array of numbers, got NoneType"),
        (np.full((5, 7), "a"), "label embeddings must be an array of numbers, got <U1"),
    ],
    ids=["width", "classes", "axes", "nan", "infinite", "complex", "none", "text"],
)
def test_embeddings_that_do_not_fit_are_refused_and_nothing_changes(embeddings, part):
    model = small_model()
    before = model.cssfe.label_embeddings.clone()
    with pytest.raises(ValueError, match=part) as caught:
        model.set_label_embeddings(embeddings)
    assert "\n" not in str(caught.value)
    assert torch.equal(model.cssfe.label_embeddings, before)


def test_net0_has_no_embeddings_and_says_so():
    with pytest.raises(ValueError, match="'net0' has no label embeddings"):
        small_model(ablation="net0").set_label_embeddings(torch.zeros(5, 7))


def clip_like(rows: int, width: int = 64) -> torch.Tensor:
    """Rows of unit length with cosines near .8 among each other, as CLIP gives for class names."""
    torch.manual_seed(0)
    common = torch.nn.functional.normalize(torch.randn(width), dim=0)
    own = torch.nn.functional.normalize(torch.randn(rows, width), dim=1)
    return torch.nn.functional.normalize(2 * common + own, dim=1)


def cosines(rows: torch.Tensor) -> torch.Tensor:
    rows = torch.nn.functional.normalize(rows.double(), dim=1)
    matrix = rows @ rows.T
    return matrix[~torch.eye(len(rows), dtype=torch.bool)]


def seen_by_the_projection(model, embeddings) -> torch.Tensor:
    """What the label encoder hands to its projection."""
    seen = []
    handle = model.cssfe.label_encoder.projection.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0]))
    model.set_label_embeddings(embeddings)
    with torch.no_grad():
        model(images_for(model))
    handle.remove()
    return seen[0]


@pytest.mark.parametrize("scale", [1.0, 100.0, 1e-3])
def test_centring_spreads_embeddings_that_all_look_alike_and_gives_them_one_length(scale):
    embeddings = clip_like(20)
    assert cosines(embeddings).mean() > 0.75
    model = small_model(num_labels=20, label_embedding_dim=64, class_counts=[500] * 20, center_label_embeddings=True)
    rows = seen_by_the_projection(model, scale * embeddings)
    assert cosines(rows).mean().abs() < 0.1
    torch.testing.assert_close(rows.norm(dim=1), torch.full((20,), 8.0))  # sqrt(64)
    centred = embeddings.double() - embeddings.double().mean(0)
    expected = centred / centred.norm(dim=1, keepdim=True) * 8
    torch.testing.assert_close(rows.double(), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.skipif(not SHARED.is_dir(), reason="there are no label embeddings at ../shared/data")
@pytest.mark.parametrize("name", ["coco80_clip_vitb32", "voc20_clip_vitb16"])
def test_centring_spreads_clips_own_embeddings_of_class_names(name):
    from safetensors.torch import load_file

    embeddings = load_file(SHARED / f"{name}.safetensors")["label_embeddings"].float()
    assert cosines(embeddings).mean() > 0.65
    counts = [[500, 50, 5][index % 3] for index in range(len(embeddings))]
    model = small_model(
        class_counts=counts,
        label_embedding_dim=embeddings.shape[1],
        center_label_embeddings=True,
        id2label={index: str(index) for index in range(len(counts))},
    )
    assert cosines(seen_by_the_projection(model, embeddings)).mean().abs() < 0.1


def test_without_centring_the_projection_sees_the_embeddings_themselves():
    embeddings = clip_like(20)
    model = small_model(num_labels=20, label_embedding_dim=64, center_label_embeddings=False)
    assert torch.equal(seen_by_the_projection(model, embeddings), embeddings)


def test_each_group_is_centred_on_the_classes_that_are_no_rarer():
    embeddings = clip_like(20)
    model = small_model(num_labels=20, label_embedding_dim=64, center_label_embeddings=True)
    rows = seen_by_the_projection(model, embeddings)
    for index, count in enumerate(COUNTS):
        limit = 100 if count >= 100 else 20 if count >= 20 else 0
        lenders = [row for row, other in zip(embeddings.double(), COUNTS, strict=True) if other >= limit]
        centred = embeddings[index].double() - sum(lenders) / len(lenders)
        torch.testing.assert_close(rows[index].double(), centred / centred.norm() * 8, rtol=1e-4, atol=1e-4)
    assert cosines(rows).mean() < 0.3


def test_a_class_alone_in_the_most_frequent_group_is_not_centred_to_nothing():
    embeddings = clip_like(3)
    model = small_model(num_labels=3, label_embedding_dim=64, class_counts=[5, 500, 30], center_label_embeddings=True)
    rows = seen_by_the_projection(model, embeddings)
    torch.testing.assert_close(rows[1], embeddings[1] * 8)
    torch.testing.assert_close(rows.norm(dim=1), torch.full((3,), 8.0))


def test_centring_keeps_fp32_under_autocast():
    embeddings = clip_like(20)
    model = small_model(num_labels=20, label_embedding_dim=64, center_label_embeddings=True)
    plain = seen_by_the_projection(model, embeddings)
    with torch.autocast("cpu", torch.bfloat16):
        rows = seen_by_the_projection(model, embeddings)
    assert rows.dtype == torch.float32
    torch.testing.assert_close(rows, plain)


def test_a_new_model_has_the_same_placeholder_embeddings_whatever_the_seed():
    first, second = small_model(seed=1, large_weights=False), small_model(seed=2, large_weights=False)
    assert torch.equal(first.cssfe.label_embeddings, second.cssfe.label_embeddings)
    torch.testing.assert_close(first.cssfe.label_embeddings.norm(dim=1), torch.ones(5))


def test_the_factory_refuses_a_width_that_the_embeddings_do_not_have():
    with pytest.raises(ValueError, match="label_embedding_dim is 16, but the label embeddings have 11 columns"):
        CSSFEForImageClassification.from_backbone(
            **SMALL_BACKBONE,
            image_size=64,
            label_names=["person", "dog", "cow"],
            class_counts=[775, 48, 4],
            backbone_weights=False,
            label_embeddings=torch.randn(3, 11),
            label_embedding_dim=16,
        )


def test_the_factory_takes_a_tensor_and_its_width():
    embeddings = torch.randn(3, 11)
    model = CSSFEForImageClassification.from_backbone(
        **SMALL_BACKBONE,
        image_size=64,
        label_names=["person", "dog", "cow"],
        class_counts=[775, 48, 4],
        backbone_weights=False,
        label_embeddings=embeddings,
    )
    assert model.config.label_embedding_dim == 11
    assert model.config.label_embedding_provenance == {"source": "tensor"}
    assert torch.equal(model.cssfe.label_embeddings, embeddings)
    assert model.config.groups == ["head", "medium", "tail"]
    assert not model.training


def test_the_factory_never_embeds_anything_for_net0():
    model = CSSFEForImageClassification.from_backbone(
        **SMALL_BACKBONE, image_size=64, label_names=["a", "b"], backbone_weights=False, ablation="net0"
    )
    assert model(torch.zeros(1, 3, 64, 64)).logits.shape == (1, 2)


def test_the_factory_refuses_an_unknown_field_by_name_and_suggests_the_nearest():
    with pytest.raises(ValueError, match="unknown config field 'mask_mod'; did you mean 'mask_mode'") as caught:
        CSSFEForImageClassification.from_backbone(
            "resnet18", label_names=["a"], backbone_weights=False, label_embeddings="random", mask_mod="remove"
        )
    assert "\n" not in str(caught.value)


def test_the_factory_refuses_embeddings_of_another_number_of_classes():
    with pytest.raises(ValueError, match=r"\(4, 7\), expected \(2, T\)"):
        CSSFEForImageClassification.from_backbone(
            "resnet18", label_names=["a", "b"], backbone_weights=False, label_embeddings=torch.zeros(4, 7)
        )


@pytest.mark.parametrize("ablation", ABLATIONS)
def test_backbone_weights_from_a_file_arrive_to_the_bit_and_the_head_is_left_alone(ablation, tmp_path):
    import timm
    from safetensors.torch import save_file

    torch.manual_seed(3)
    pretrained = timm.create_model("test_resnet", channels=[4, 8, 8, 12], num_classes=10)
    save_file(pretrained.state_dict(), tmp_path / "weights.safetensors")
    model = CSSFEForImageClassification.from_backbone(
        **SMALL_BACKBONE,
        image_size=64,
        label_names=["a", "b"],
        backbone_weights=tmp_path / "weights.safetensors",
        label_embeddings=torch.randn(2, 7),
        ablation=ablation,
    )
    loaded = model.cssfe.backbone.timm_model.state_dict()
    for name, tensor in pretrained.state_dict().items():
        if not name.startswith("fc."):
            assert torch.equal(loaded.pop(name), tensor), name
    assert not loaded


@pytest.mark.parametrize("ablation", ABLATIONS)
def test_a_trained_model_gives_its_backbone_whatever_its_classes_and_head_are(ablation, tmp_path):
    torch.manual_seed(3)
    trained = CSSFEForImageClassification(small_config(ablation="net0", num_labels=5))
    trained.save_pretrained(tmp_path)
    torch.manual_seed(4)
    arguments = {**SMALL_BACKBONE, "image_size": 64, "label_names": ["a", "b"], "ablation": ablation}
    model = CSSFEForImageClassification.from_backbone(
        **arguments, backbone_weights=tmp_path / "model.safetensors", label_embeddings=torch.randn(2, 7)
    )
    assert model.num_labels == 2
    taken, given = model.cssfe.backbone.state_dict(), trained.cssfe.backbone.state_dict()
    assert taken.keys() == given.keys()
    assert all(torch.equal(taken[name], tensor) for name, tensor in given.items())
    with pytest.raises(ValueError, match="do not fit 'resnet18': the file lacks"):
        CSSFEForImageClassification.from_backbone(
            **{**arguments, "backbone": "resnet18", "backbone_kwargs": None},
            backbone_weights=tmp_path / "model.safetensors",
            label_embeddings=torch.randn(2, 7),
        )


def test_half_precision_backbone_weights_are_cast(tmp_path):
    import timm
    from safetensors.torch import save_file

    pretrained = timm.create_model("test_resnet", channels=[4, 8, 8, 12], num_classes=0)
    state = {name: tensor.half() if tensor.ndim == 4 else tensor for name, tensor in pretrained.state_dict().items()}
    save_file(state, tmp_path / "weights.safetensors")
    model = CSSFEForImageClassification.from_backbone(
        **SMALL_BACKBONE,
        image_size=64,
        label_names=["a", "b"],
        backbone_weights=str(tmp_path / "weights.safetensors"),
        label_embeddings=torch.randn(2, 7),
    )
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    loaded = model.cssfe.backbone.state_dict()["timm_model.conv1.0.weight"]
    assert torch.equal(loaded, state["conv1.0.weight"].float())


def test_backbone_weights_that_do_not_fit_are_refused_by_name(tmp_path):
    import timm
    from safetensors.torch import save_file

    arguments: dict[str, Any] = {
        **SMALL_BACKBONE,
        "image_size": 64,
        "label_names": ["a", "b"],
        "label_embeddings": torch.randn(2, 7),
    }
    state = timm.create_model("test_resnet", channels=[4, 8, 8, 12], num_classes=0).state_dict()
    files = {
        "lacks": {name: tensor for name, tensor in state.items() if name != "conv1.0.weight"},
        "has unknown": {**state, "extra.weight": torch.zeros(1)},
        "has other shapes in": {**state, "conv1.0.weight": torch.zeros(1, 3, 3, 3)},
    }
    for problem, content in files.items():
        save_file(content, tmp_path / "weights.safetensors")
        with pytest.raises(ValueError, match=f"the file {problem} (conv1.0|extra).weight") as caught:
            CSSFEForImageClassification.from_backbone(**arguments, backbone_weights=tmp_path / "weights.safetensors")
        assert "\n" not in str(caught.value)
    with pytest.raises(FileNotFoundError, match=r"nowhere\.safetensors"):
        CSSFEForImageClassification.from_backbone(**arguments, backbone_weights=tmp_path / "nowhere.safetensors")
    (tmp_path / "weights.bin").write_bytes(b"")
    with pytest.raises(ValueError, match="other formats can carry code"):
        CSSFEForImageClassification.from_backbone(**arguments, backbone_weights=tmp_path / "weights.bin")
    (tmp_path / "broken.safetensors").write_bytes(b"broken")
    with pytest.raises(ValueError, match="cannot be read"):
        CSSFEForImageClassification.from_backbone(**arguments, backbone_weights=tmp_path / "broken.safetensors")


def test_a_new_model_keeps_timms_own_initialisation():
    """transformers would draw a backbone's convolutions from N(0, .02) and leave BatchNorm to chance."""
    import timm

    torch.manual_seed(0)
    ours = CSSFEForImageClassification(small_config()).cssfe.backbone.timm_model
    torch.manual_seed(0)
    theirs = timm.create_model("test_resnet", channels=[4, 8, 8, 12], num_classes=0)
    for name, tensor in theirs.state_dict().items():
        if tensor.ndim == 4:
            assert ours.state_dict()[name].std().item() == pytest.approx(tensor.std().item(), rel=0.3), name
        else:
            assert torch.equal(ours.state_dict()[name], tensor), name
