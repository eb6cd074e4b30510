# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""timm's families as backbones, and `docs/backbones.md`, the list of what is tested here.

`UPDATE_DOCS=1 pytest tests/model/test_backbones.py -k docs` writes that file again.
"""

import os
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch

from modeling_cssfe import CSSFEConfig, CSSFEForImageClassification
from modeling_cssfe.backbone_cssfe import CSSFEBackbone, build_timm_model

from .helpers import images_for, small_config


DOCS = Path(__file__).parents[2] / "docs" / "backbones.md"
TINY_VIT = {"embed_dim": 24, "depth": 2}
TINY_HEADS = {"embed_dim": 48, "depth": 2, "num_heads": 2}
TINY_STAGES = {"embed_dim": 12, "depths": [1, 1, 1, 1], "num_heads": [1, 2, 3, 4]}


@dataclass(frozen=True)
class Family:
    """An architecture of a family, made as small as timm allows, and the grid of its features in pixels."""

    name: str
    backbone: str
    kwargs: dict = field(default_factory=dict)
    stride: int = 32
    layout: str = "channels_first"
    prefix_tokens: int = 0
    sizes: tuple = ((64, 96), (128, 96))


def vit(name, backbone, prefix_tokens, kwargs=None, **others):
    settings = {"stride": 16, "layout": "tokens", **others}
    return Family(name, backbone, kwargs or TINY_VIT, prefix_tokens=prefix_tokens, **settings)


PATCHES_OF_14 = {"stride": 14, "sizes": ((56, 84), (112, 84))}
FAMILIES = [
    Family("ResNet", "test_resnet", {"channels": [4, 8, 8, 12]}),
    Family("ResNeXt", "resnext50_32x4d", {"layers": [1, 1, 1, 1], "channels": [16, 16, 16, 16]}),
    Family("VGG", "vgg11", {"mlp_ratio": 0.01}),
    Family("DenseNet", "densenet121", {"block_config": [1, 1, 1, 1], "growth_rate": 8}),
    Family("EfficientNet", "test_efficientnet"),
    Family("MobileNetV3", "mobilenetv3_small_050"),
    Family("RegNet", "regnetx_002"),
    Family("NFNet", "test_nfnet"),
    Family("GhostNet", "ghostnet_050"),
    Family("ConvNeXt", "convnext_atto", {"depths": [1, 1, 1, 1], "dims": [8, 16, 24, 32]}),
    Family("Swin", "swin_tiny_patch4_window7_224", TINY_STAGES, layout="channels_last"),
    Family("Swin V2", "swinv2_tiny_window8_256", TINY_STAGES, layout="channels_last"),
    Family("MambaOut", "test_mambaout", layout="channels_last"),
    Family("DaViT", "davit_tiny", {**TINY_STAGES, "embed_dim": None, "embed_dims": [8, 16, 24, 32]}),
    vit("ViT, class token", "vit_tiny_patch16_224", 1),
    vit("ViT, class token and registers", "vit_small_patch14_reg4_dinov2", 5, **PATCHES_OF_14),
    vit("ViT, registers alone", "vit_medium_patch16_reg4_gap_256", 4),
    vit("ViT, no prefix token (SigLIP)", "vit_base_patch16_siglip_224", 0),
    vit("DINOv2", "vit_small_patch14_dinov2", 1, **PATCHES_OF_14),
    vit("DINOv3", "vit_small_patch16_dinov3", 5, TINY_HEADS),
    vit("DeiT III", "deit3_small_patch16_224", 1, {**TINY_VIT, "num_heads": 2}),
    vit("BEiT", "beit_base_patch16_224", 1, {**TINY_VIT, "num_heads": 2}),
    vit("XCiT", "xcit_nano_12_p16_224", 1, {**TINY_VIT, "num_heads": 2}),
    vit("EVA-02", "eva02_tiny_patch14_224", 1, TINY_HEADS, **PATCHES_OF_14),
    vit("Hybrid of ResNet and ViT", "vit_tiny_r_s16_p8_224", 1, stride=32),
    vit("Hiera", "hiera_tiny_224", 0, {"embed_dim": 24, "num_heads": 1, "stages": [1, 1, 1, 1]}, stride=32),
    Family("MaxViT", "test_maxvit"),
    Family("CoAtNet", "test_coatnet"),
]
NO_MAP = {
    "pit_ti_224": "the class token alone",
    "volo_d1_224": "tokens that form no grid",
    "crossvit_tiny_240": "a list of two scales",
}

every_family = pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.backbone)


def config_of(family: Family, image_size) -> CSSFEConfig:
    kwargs = {key: value for key, value in family.kwargs.items() if value is not None}
    return small_config(
        backbone=family.backbone, backbone_kwargs=kwargs, image_size=list(image_size), feature_size=None
    )


# About half a second for each family and size; the whole list is what takes longer than ten seconds.
@pytest.mark.parametrize("which", [0, 1], ids=["first size", "second size"])
@every_family
def test_a_family_builds_learns_saves_and_reloads_to_the_bit(family, which, tmp_path, monkeypatch):
    monkeypatch.setattr("timm.models._builder.load_pretrained", None)  # would be called for pretrained weights
    image_size = family.sizes[which]
    torch.manual_seed(0)
    model = CSSFEForImageClassification(config_of(family, image_size))
    backbone = model.cssfe.backbone
    expected = tuple(side // family.stride for side in image_size)
    assert (backbone.layout, backbone.num_prefix_tokens) == (family.layout, family.prefix_tokens)
    assert backbone.map_size == expected

    model.train()
    images = images_for(model, 2)
    out = model(images, labels=torch.tensor([[1, 0, 0, 1, 0], [0, 1, 0, 0, 1]]))
    assert out.class_activation_maps.shape == (2, 5, *expected)
    out.loss.backward()
    without = [name for name, parameter in model.named_parameters() if parameter.grad is None]
    assert without == []
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())

    model.eval()
    model.save_pretrained(tmp_path)
    loaded, info = CSSFEForImageClassification.from_pretrained(tmp_path, output_loading_info=True)
    assert {key: value for key, value in info.items() if value} == {}
    with torch.no_grad():
        assert torch.equal(loaded(images).logits, model(images).logits)


def centre_of_change(backbone, image_size, corner) -> tuple[float, float]:
    """Where features change when one corner of an image does, on the average, as fractions of height and width."""
    torch.manual_seed(1)
    height, width = image_size
    image = torch.randn(1, 3, height, width)
    changed = image.clone()
    rows = slice(0, height // 2) if corner[0] == 0 else slice(height // 2, None)
    columns = slice(0, width // 3) if corner[1] == 0 else slice(2 * width // 3, None)
    changed[:, :, rows, columns] = 3 * torch.randn(changed[:, :, rows, columns].shape)
    with torch.no_grad():
        change = (backbone(changed) - backbone(image)).square().sum(1)[0]
    weight = change / change.sum()
    down = (weight.sum(1) * torch.linspace(0, 1, weight.shape[0])).sum()
    right = (weight.sum(0) * torch.linspace(0, 1, weight.shape[1])).sum()
    return float(down), float(right)


@every_family
def test_a_map_lies_over_the_image_as_it_should(family):
    """Changing a corner changes the features there most: no token is out of place, no axis swapped."""
    torch.manual_seed(0)
    image_size = (2 * family.sizes[0][0], 2 * family.sizes[0][1])
    backbone = CSSFEBackbone(config_of(family, image_size)).eval()
    found = {corner: centre_of_change(backbone, image_size, corner) for corner in ((0, 0), (0, 1), (1, 0), (1, 1))}
    for column in (0, 1):
        assert found[0, column][0] < found[1, column][0] - 0.05, found
    for row in (0, 1):
        assert found[row, 0][1] < found[row, 1][1] - 0.05, found


@pytest.mark.parametrize(
    "family",
    # Where features are maps, channels first, there is nothing to convert.
    [family for family in FAMILIES if family.layout != "channels_first"],
    ids=lambda family: family.backbone,
)
def test_maps_are_those_that_timm_itself_makes_of_its_features(family):
    torch.manual_seed(0)
    backbone = CSSFEBackbone(config_of(family, family.sizes[0])).eval()
    image = torch.randn(2, 3, *family.sizes[0])
    options = {"indices": 1, "output_fmt": "NCHW", "intermediates_only": True}
    with torch.no_grad():
        maps = backbone(image)
        theirs = backbone.timm_model.forward_intermediates(image, norm=family.backbone != "hiera_tiny_224", **options)[
            -1
        ]
    torch.testing.assert_close(maps, theirs)


@pytest.mark.parametrize("name", NO_MAP)
def test_a_backbone_without_a_map_is_a_clear_error(name):
    size = 240 if "240" in name else 224
    with pytest.raises(ValueError, match=rf"{name}'.*(no spatial feature map|form no grid)") as caught:
        CSSFEBackbone(CSSFEConfig(backbone=name, image_size=size))
    assert "choose one whose features are maps or patch tokens" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_class_token_alone_is_refused_on_small_images_too():
    with pytest.raises(ValueError, match="no spatial feature map"):
        CSSFEBackbone(CSSFEConfig(backbone="pit_ti_224", image_size=64))


def test_a_map_of_one_position_is_taken_where_the_image_is_small():
    assert CSSFEBackbone(small_config(image_size=32)).map_size == (1, 1)


def test_an_unknown_backbone_is_refused_and_the_nearest_named():
    with pytest.raises(ValueError, match=r"unknown backbone 'resnet5O'; did you mean .*resnet50") as caught:
        CSSFEBackbone(CSSFEConfig(backbone="resnet5O"))
    assert "\n" not in str(caught.value)


def test_a_pretrained_tag_is_part_of_a_name():
    assert CSSFEBackbone(small_config(backbone="test_resnet.r160_in1k")).map_size == (2, 3)


def test_a_tag_without_weights_is_a_name_too_and_an_unknown_one_is_refused():
    model = build_timm_model("convnext_atto_rms.untrained", (64, 64))
    assert not model.pretrained_cfg.get("hf_hub_id")
    with pytest.raises(ValueError, match="unknown pretrained tag 'foo' of backbone 'test_resnet'; choose one of r160"):
        build_timm_model("test_resnet.foo", (64, 64))


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        ({"backbone": "vit_tiny_patch16_224", "backbone_kwargs": {"dept": 2}}, "dept"),
        ({"backbone": "swin_tiny_patch4_window7_224", "image_size": 2}, "2x2 px"),
        ({"backbone": "nest_tiny", "image_size": [64, 96]}, "square"),
        ({"backbone": "vgg11", "image_size": 16}, "16x16 px"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_what_a_backbone_cannot_be_built_for_is_refused_in_one_line(arguments, part):
    with pytest.raises(ValueError, match=arguments["backbone"]) as caught:
        CSSFEBackbone(CSSFEConfig(**arguments))
    assert part in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_image_of_a_size_that_a_backbone_does_not_take_names_both_sizes():
    backbone = CSSFEBackbone(
        small_config(backbone="beit_base_patch16_224", backbone_kwargs=TINY_VIT | {"num_heads": 2})
    )
    with pytest.raises(ValueError, match="built for 64x96 px, does not take 96x64 px") as caught:
        backbone(torch.zeros(1, 3, 96, 64))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("output_stride", [8, 16, 32])
def test_dilation_by_backbone_kwargs_makes_finer_maps(output_stride):
    kwargs = {"channels": [4, 8, 8, 12], "output_stride": output_stride}
    backbone = CSSFEBackbone(small_config(backbone_kwargs=kwargs))
    assert backbone.map_size == (64 // output_stride, 96 // output_stride)


def test_what_lies_behind_the_features_holds_no_memory():
    """VGG-16's two wide layers alone have 119 million parameters, of 138."""
    with torch.device("meta"):
        backbone = CSSFEBackbone(CSSFEConfig(backbone="vgg16", image_size=224))
    assert sum(parameter.numel() for parameter in backbone.parameters()) == 14_714_688


def takes_other_sizes(family: Family) -> str:
    """Whether a model built for one size takes others, tried on the meta device."""
    with torch.device("meta"):
        backbone = CSSFEBackbone(config_of(family, family.sizes[0])).eval()
        taken = []
        for height, width in ((family.sizes[0][1], family.sizes[0][0]), family.sizes[1]):
            try:
                backbone(torch.empty(1, 3, height, width))
                taken.append(True)
            except ValueError:
                taken.append(False)
    return "yes" if all(taken) else "some" if any(taken) else "no: build the model for the size"


def render_table() -> str:
    layouts = {
        "channels_first": "maps, channels first",
        "channels_last": "maps, channels last",
        "tokens": "patch tokens",
    }
    lines = [
        "# Backbones",
        "",
        "Any timm architecture whose features are maps or patch tokens serves as `backbone`. The table lists those",
        "that the tests build, train for a step, save and load at two image sizes, without network; it is made by",
        "`tests/model/test_backbones.py`. Prefix tokens (class token, registers) are taken off before tokens become",
        "maps.",
        "",
        "| family | tested with | timm's features | prefix tokens | one position is | takes other image sizes |",
        "|---|---|---|---|---|---|",
    ]
    for family in FAMILIES:
        prefix = family.prefix_tokens if family.layout == "tokens" else "-"
        lines.append(
            f"| {family.name} | `{family.backbone}` | {layouts[family.layout]} | {prefix} | "
            f"{family.stride} px | {takes_other_sizes(family)} |"
        )
    lines += [
        "",
        "The last column is about a model that is built already: `image_size` can be set to any size that the",
        "architecture allows when it is built.",
        "",
        "Weights of a ResNet with bottlenecks that were trained in the layout of 2015 (the first 1x1 convolution of a",
        "block takes the stride: Caffe's, Keras's) need `stride_in_first_convolution=True`, a field of `CSSFEConfig`",
        "that is saved with the model; in a recipe `model: {stride_in_first_convolution: true}`. Their file has the",
        "same names and shapes, so nothing but the accuracy would tell.",
        "",
        "Refused, because there is no spatial map to enhance: "
        + ", ".join(f"`{name}` ({reason})" for name, reason in NO_MAP.items())
        + ".",
        "",
    ]
    return "\n".join(lines)


def test_the_list_in_the_docs_is_up_to_date():
    text = render_table()
    if os.environ.get("UPDATE_DOCS"):
        DOCS.write_text(text)
    assert DOCS.is_file(), "docs/backbones.md is missing; write it with UPDATE_DOCS=1"
    assert DOCS.read_text() == text, "docs/backbones.md is out of date; write it again with UPDATE_DOCS=1"
