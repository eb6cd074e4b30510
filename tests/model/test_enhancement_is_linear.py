# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""The enhancement mixes maps by weights that no image changes, so a net1 with other weights computes the same logits.

That is why net2 and net3 can classify no better than a well trained net1 (docs/accuracy.md). The gate of `released` is
a factor of each position, which no 1x1 convolution has; it is the exception.
"""

import pytest
import torch

from .helpers import images_for, small_model


@torch.no_grad()
def folded(model):
    """The net1 whose class activation layer has the enhancement in it."""
    other = small_model(preset=model.config.preset, num_labels=9, ablation="net1")
    other.load_state_dict(model.state_dict(), strict=False)
    network, enhancement = model.cssfe, model.cssfe.enhancement
    weight, bias = network.class_activation.weight.flatten(1), network.class_activation.bias
    mixing = enhancement.rows(network.label_side()[0], network.group_ranks, 0, 9)
    if enhancement.value_mode == "per_class":
        values, offsets = weight * enhancement.value_scale[:, None], bias * enhancement.value_scale
        offsets = offsets + enhancement.value_offset
    else:
        values, offsets = weight, bias
    mixed, mixed_bias = mixing @ values, mixing @ offsets
    if enhancement.residual:
        mixed, mixed_bias = mixed + weight, mixed_bias + bias
    other.cssfe.class_activation.weight.copy_(mixed[..., None, None])
    other.cssfe.class_activation.bias.copy_(mixed_bias)
    return other


@pytest.mark.parametrize("ablation", ["net2", "net3"])
@pytest.mark.parametrize("preset", ["paper", "corrected"])
@torch.no_grad()
def test_a_net1_with_other_first_weights_gives_the_logits_of_the_whole_network(preset, ablation):
    model = small_model(preset=preset, num_labels=9, ablation=ablation)
    images = images_for(model)
    wanted = model(images)
    found = folded(model)(images)
    torch.testing.assert_close(found.class_activation_maps, wanted.enhanced_activation_maps, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.logits, wanted.logits, rtol=1e-4, atol=1e-5)
    # The enhancement does something, or there would be nothing to fold.
    difference = wanted.enhanced_activation_maps - wanted.class_activation_maps
    assert difference.abs().max() > 0.1
