# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""Parameter counts of the `released` preset against the figures that the paper's supplement prints.

The released network carries two 1-D convolutions (2048 -> 80 channels) that it never uses, and CLIP RN50's text tower,
of which the label embeddings here are the output. Both are added by arithmetic.
"""

import torch

from modeling_cssfe import CSSFEConfig, CSSFEForImageClassification


CLASSES, WIDTH = 80, 2048
TWO_UNUSED_CONVOLUTIONS = 2 * (CLASSES * WIDTH + CLASSES)


def text_tower_parameters() -> int:
    """CLIP RN50's text tower: 12 layers of width 512, 49,408 tokens, 77 positions, projection to 1024."""
    width, layers, vocabulary, positions, projection = 512, 12, 49408, 77, 1024
    layer_norm = 2 * width
    attention = (3 * width * width + 3 * width) + (width * width + width)
    feed_forward = (4 * width * width + 4 * width) + (4 * width * width + width)
    layer = layer_norm + attention + layer_norm + feed_forward
    return vocabulary * width + positions * width + layers * layer + layer_norm + width * projection


def head_parameters() -> int:
    """Everything of the released network behind the backbone's 2048 channels that it uses."""
    inner, feed_forward, positions = 8 * 512, 2048, 14 * 14
    class_activation = CLASSES * WIDTH + CLASSES
    label_projection = (1024 * 2 * WIDTH + 2 * WIDTH) + (2 * WIDTH * WIDTH + WIDTH)
    queries_and_keys = 2 * (WIDTH * WIDTH + WIDTH)
    gate = WIDTH * positions + positions
    attention = 2 * WIDTH + WIDTH * 3 * inner + (inner * WIDTH + WIDTH)
    mlp = 2 * WIDTH + (WIDTH * feed_forward + feed_forward) + (feed_forward * WIDTH + WIDTH)
    return class_activation + label_projection + queries_and_keys + gate + attention + mlp


def count(**overrides) -> int:
    config = CSSFEConfig(preset="released", num_labels=CLASSES, label_embedding_dim=1024, **overrides)
    with torch.device("meta"):
        model = CSSFEForImageClassification(config)
    assert {parameter.device.type for parameter in model.parameters()} == {"meta"}
    return sum(parameter.numel() for parameter in model.parameters())


def millions(parameters: int) -> float:
    return round(parameters / 1e6, 2)


def test_the_text_tower_has_63_69_million_parameters():
    assert millions(text_tower_parameters()) == 63.69


def test_released_with_resnet50_has_the_printed_87_34_and_151_03_million():
    ours = count(backbone="resnet50")
    # torchvision's ResNet-50: 25,557,032 parameters, of which its classifier has 2048 * 1000 + 1000.
    assert ours == 25_557_032 - 2_049_000 + head_parameters()
    assert millions(ours + TWO_UNUSED_CONVOLUTIONS) == 87.34
    assert millions(ours + TWO_UNUSED_CONVOLUTIONS + text_tower_parameters()) == 151.03


def test_released_with_vit_b_16_has_the_printed_215_35_million_with_the_gate_of_14_by_14_maps():
    """A 1x1 convolution brings 768 channels to 2048, and the position table is that of 448 px, 28 x 28 patches.

    The printed figure has a gate of 14 x 14 positions all the same, which 28 x 28 maps cannot be multiplied with: ours
    has one of 28 x 28.
    """
    ours = count(backbone="vit_base_patch16_224")
    wider_gate = (28 * 28 - 14 * 14) * (WIDTH + 1)
    assert millions(ours - wider_gate + TWO_UNUSED_CONVOLUTIONS + text_tower_parameters()) == 215.35


def test_released_with_vgg16_has_the_printed_142_2_million_less_the_convolution_to_2048_channels():
    """VGG-16 ends in 512 channels and the head takes 2048: the printed figure lacks whatever joins the two."""
    ours = count(backbone="vgg16")
    joining_convolution = 512 * WIDTH + WIDTH
    total = ours - joining_convolution + TWO_UNUSED_CONVOLUTIONS + text_tower_parameters()
    assert round(total / 1e6, 1) == 142.2
