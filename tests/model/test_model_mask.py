# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""What the distribution-aware mask blocks, to the bit, and what it does not."""

import pytest
import torch

from .helpers import COUNTS, images_for, small_model


HEAD = [c for c, count in enumerate(COUNTS[:9]) if count >= 100]
MEDIUM = [c for c, count in enumerate(COUNTS[:9]) if 20 <= count < 100]
TAIL = [c for c, count in enumerate(COUNTS[:9]) if count < 20]
# (rarer, more frequent): nothing may flow from the first to the second.
BLOCKED = [(TAIL, HEAD), (MEDIUM, HEAD), (TAIL, MEDIUM)]
IDS = ["tail to head", "medium to head", "tail to medium"]


def masked_model(preset, **overrides):
    return small_model(preset=preset, num_labels=9, **overrides)


def enhance(model, maps, embeddings):
    label_tokens = model.cssfe.label_encoder(embeddings, model.cssfe.group_ranks)
    return model.cssfe.enhancement(maps, label_tokens, model.cssfe.group_ranks)[0]


def gradients_of(model, receivers):
    """Gradients of the receivers' enhanced maps with respect to all maps and all label embeddings."""
    maps = torch.randn(2, 9, 2, 3, generator=torch.Generator().manual_seed(5)).requires_grad_()
    embeddings = model.cssfe.label_embeddings.detach().clone().requires_grad_()
    enhanced = enhance(model, maps, embeddings)
    weights = torch.randn(enhanced[:, receivers].shape, generator=torch.Generator().manual_seed(6))
    (enhanced[:, receivers] * weights).sum().backward()
    return maps.grad, embeddings.grad


def test_the_classes_of_these_tests_are_of_all_groups_in_no_order():
    assert HEAD == [2, 3, 8]
    assert MEDIUM == [0, 5, 7]
    assert TAIL == [1, 4, 6]


@pytest.mark.parametrize(("givers", "receivers"), BLOCKED, ids=IDS)
@pytest.mark.parametrize("preset", ["paper", "corrected"])
def test_a_rarer_map_has_exactly_zero_gradient_on_a_more_frequent_classs_enhanced_map(preset, givers, receivers):
    gradient, _ = gradients_of(masked_model(preset), receivers)
    assert (gradient[:, givers] == 0).all()
    assert (gradient[:, receivers] != 0).all()


@pytest.mark.parametrize(("receivers", "givers"), BLOCKED, ids=["head to tail", "head to medium", "medium to tail"])
@pytest.mark.parametrize("preset", ["paper", "corrected", "released"])
def test_every_more_frequent_map_reaches_every_rarer_class(preset, givers, receivers):
    gradient, _ = gradients_of(masked_model(preset), receivers)
    assert (gradient[:, givers] != 0).all()


@pytest.mark.parametrize("group", [HEAD, MEDIUM, TAIL])
@pytest.mark.parametrize("preset", ["paper", "corrected", "released"])
def test_within_a_group_every_map_reaches_every_class(preset, group):
    for receiver in group:
        gradient, _ = gradients_of(masked_model(preset), [receiver])
        assert (gradient[:, group] != 0).all()


@pytest.mark.parametrize(("givers", "receivers"), BLOCKED, ids=IDS)
def test_corrected_blocks_a_rarer_label_embedding_too(givers, receivers):
    _, gradient = gradients_of(masked_model("corrected"), receivers)
    assert (gradient[givers] == 0).all()
    assert (gradient[receivers] != 0).any(dim=1).all()


@pytest.mark.parametrize(("givers", "receivers"), BLOCKED, ids=IDS)
def test_in_the_paper_a_rarer_label_embedding_still_moves_the_softmaxs_denominator(givers, receivers):
    _, gradient = gradients_of(masked_model("paper"), receivers)
    assert (gradient[givers] != 0).any(dim=1).all()


@pytest.mark.parametrize(("givers", "receivers"), BLOCKED, ids=IDS)
def test_released_blocks_nothing(givers, receivers):
    maps, embeddings = gradients_of(masked_model("released"), receivers)
    assert (maps[:, givers] != 0).all()
    # A masked score is 0 whatever the embeddings are, so it weighs exp(0) for every giver alike.
    matrix = class_attention(masked_model("released"))
    for receiver in receivers:
        weights = matrix[receiver, [c for c in range(9) if c in givers]]
        assert (weights == weights[0]).all()
        assert weights[0] > 0
    assert (embeddings[receivers] != 0).any(dim=1).all()


@pytest.mark.parametrize(("givers", "receivers"), BLOCKED, ids=IDS)
@pytest.mark.parametrize("preset", ["paper", "corrected"])
def test_changing_a_rarer_classs_map_leaves_more_frequent_enhanced_maps_bit_equal(preset, givers, receivers):
    model = masked_model(preset)
    images = images_for(model)
    with torch.no_grad():
        before = model(images)
        model.cssfe.class_activation.weight[givers] += 1.0
        model.cssfe.class_activation.bias[givers] -= 3.0
        after = model(images)
    assert not torch.equal(before.class_activation_maps[:, givers], after.class_activation_maps[:, givers])
    assert torch.equal(before.enhanced_activation_maps[:, receivers], after.enhanced_activation_maps[:, receivers])
    assert not torch.equal(before.enhanced_activation_maps[:, givers], after.enhanced_activation_maps[:, givers])


@pytest.mark.parametrize(("givers", "receivers"), BLOCKED, ids=IDS)
@pytest.mark.parametrize(("preset", "blocked"), [("paper", False), ("released", True), ("corrected", True)])
def test_changing_a_rarer_label_embedding_moves_more_frequent_enhanced_maps_only_in_paper(
    preset, blocked, givers, receivers
):
    """In `released` a giver's weight is exp(0) over the row's sum: its map flows, its embedding does not matter."""
    model = masked_model(preset)
    images = images_for(model)
    with torch.no_grad():
        before = model(images).enhanced_activation_maps
        embeddings = model.cssfe.label_embeddings.clone()
        embeddings[givers] += torch.randn(len(givers), 7, generator=torch.Generator().manual_seed(8))
        model.set_label_embeddings(embeddings)
        after = model(images).enhanced_activation_maps
    assert torch.equal(before[:, receivers], after[:, receivers]) == blocked
    assert not torch.equal(before[:, givers], after[:, givers])


def class_attention(model):
    with torch.no_grad():
        label_tokens = model.cssfe.label_encoder(model.cssfe.label_embeddings, model.cssfe.group_ranks)
        return model.cssfe.enhancement.class_attention(label_tokens, model.cssfe.group_ranks)


def test_rows_sum_to_one_in_corrected_and_released_and_to_less_in_paper_where_something_is_masked():
    ones = torch.ones(9)
    torch.testing.assert_close(class_attention(masked_model("corrected")).sum(1), ones)
    torch.testing.assert_close(class_attention(masked_model("released")).sum(1), ones)
    sums = class_attention(masked_model("paper")).sum(1)
    assert (sums[HEAD + MEDIUM] < 0.999).all()
    torch.testing.assert_close(sums[TAIL], torch.ones(3))


@pytest.mark.parametrize("preset", ["paper", "released", "corrected"])
def test_net2_and_unknown_counts_mask_nothing(preset):
    for overrides in ({"ablation": "net2"}, {"class_counts": None, "id2label": {i: str(i) for i in range(9)}}):
        model = masked_model(preset, **overrides)
        matrix = class_attention(model)
        assert (matrix > 0).all()
        torch.testing.assert_close(matrix.sum(1), torch.ones(9))


def test_the_docstrings_say_what_each_mode_blocks():
    from modeling_cssfe.layers_cssfe import CSSFEMapEnhancement

    text = CSSFEMapEnhancement.__doc__ or ""
    for mode in ("multiply_weights", "multiply_scores", "remove"):
        assert mode in text
    assert "not blocked" in text
    assert "denominator" in text
