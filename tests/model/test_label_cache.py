# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""What depends on the labels alone is computed once in evaluation, and never served stale.

The yardstick is always the same network with gradients enabled, which never caches.
"""

import copy
import itertools

import pytest
import torch

from .helpers import images_for, small_model


@pytest.fixture
def model():
    return small_model(preset="paper")


@pytest.fixture
def calls(model):
    """Number of times that the label encoder has run, counted in a list."""
    counted: list[int] = []
    model.cssfe.label_encoder.register_forward_hook(lambda *_: counted.append(1))
    return counted


def uncached(model, images):
    with torch.enable_grad():
        return model(images).logits.detach()


def assert_fresh(model, images):
    with torch.no_grad():
        torch.testing.assert_close(model(images).logits, uncached(model, images), rtol=1e-6, atol=1e-6)


def change_by_optimizer_step(model):
    model.zero_grad()
    with torch.enable_grad():
        model(images_for(model)).logits.sum().backward()
    torch.optim.SGD(model.parameters(), lr=1e-3).step()


def change_by_fused_adam(model):
    with torch.enable_grad():
        model(images_for(model)).logits.sum().backward()
    torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True).step()


def change_by_load_state_dict(model):
    model.load_state_dict({name: tensor * 1.02 for name, tensor in model.state_dict().items()})


def change_by_assigning_state_dict(model):
    model.load_state_dict({name: tensor * 1.02 for name, tensor in model.state_dict().items()}, assign=True)


def change_by_data_of_a_weight(model):
    model.cssfe.label_encoder.projection.weight.data.mul_(1.1)


def change_by_data_of_the_embeddings(model):
    model.cssfe.label_embeddings.data.mul_(-1)


def change_by_setting_embeddings(model):
    model.set_label_embeddings(model.cssfe.label_embeddings.flip(0))


def change_by_writing_a_weight(model):
    with torch.no_grad():
        model.cssfe.enhancement.query.weight.mul_(1.1)


def change_by_replacing_a_weight(model):
    weight = model.cssfe.label_encoder.projection.weight
    model.cssfe.label_encoder.projection.weight = torch.nn.Parameter(weight.detach() * 1.1)


def change_by_replacing_data(model):
    model.cssfe.label_encoder.projection.weight.data = model.cssfe.label_encoder.projection.weight.data * 1.1


def change_by_rounding_to_half_and_back(model):
    """The new tensors have the old dtype, the old change counter, and perhaps even the old address."""
    model.bfloat16()
    model.float()


def change_by_training_a_step_in_train_mode(model):
    model.train()
    change_by_optimizer_step(model)
    model.eval()


CHANGES = [value for name, value in dict(globals()).items() if name.startswith("change_by_")]


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_a_change_of_weights_or_embeddings_is_seen_at_once(model, change):
    images = images_for(model)
    with torch.no_grad():
        before = model(images).logits
    change(model)
    with torch.no_grad():
        after = model(images).logits
    assert not torch.equal(before, after)
    assert_fresh(model, images)


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_a_change_is_seen_again_and_again(model, change):
    images = images_for(model)
    for _ in range(3):
        with torch.no_grad():
            model(images)
        change(model)
        assert_fresh(model, images)


def test_evaluation_computes_the_label_side_once(model, calls):
    images = images_for(model)
    with torch.no_grad():
        outputs = [model(images).logits for _ in range(3)]
    assert len(calls) == 1
    assert torch.equal(outputs[0], outputs[1])
    torch.testing.assert_close(outputs[0], uncached(model, images), rtol=1e-6, atol=1e-6)


def test_inference_mode_uses_the_cache_and_leaves_it_usable(model, calls):
    images = images_for(model)
    with torch.inference_mode():
        model(images)
        model(images)
    with torch.no_grad():
        model(images)
    assert len(calls) == 1
    with torch.enable_grad():
        model(images).logits.sum().backward()
    assert model.cssfe.label_encoder.projection.weight.grad is not None


def test_training_and_gradients_never_use_the_cache(model, calls):
    images = images_for(model)
    with torch.no_grad():
        model(images)
    calls.clear()
    for _ in range(2):
        model(images).logits.sum().backward()
    assert len(calls) == 2
    model.train()
    with torch.no_grad():
        model(images)
        model(images)
    assert len(calls) == 4


def test_switching_to_training_and_back_drops_the_cache(model, calls):
    images = images_for(model)
    for mode in (False, True, False):
        model.train(mode)
        model.eval()
        with torch.no_grad():
            model(images)
    assert len(calls) == 3


def test_a_part_left_in_training_mode_is_not_cached(model, calls):
    model.cssfe.label_encoder.train()
    with torch.no_grad():
        model(images_for(model))
        model(images_for(model))
    assert len(calls) == 2


def test_autocast_has_its_own_entry(model):
    images = images_for(model)
    with torch.no_grad():
        plain = model(images).logits
        with torch.autocast("cpu", torch.bfloat16):
            half = model(images).logits
        again = model(images).logits
    assert torch.equal(plain, again)
    assert not torch.equal(plain, half.float())


def test_another_number_of_images_uses_the_same_entry(model, calls):
    with torch.no_grad():
        for batch in (1, 3, 2):
            model(images_for(model, batch=batch))
    assert len(calls) == 1


def test_a_copy_has_its_own_cache(model):
    images = images_for(model)
    with torch.no_grad():
        before = model(images).logits
        twin = copy.deepcopy(model)
        change_by_setting_embeddings(twin)
        assert torch.equal(model(images).logits, before)
        assert not torch.equal(twin(images).logits, before)
    assert_fresh(twin, images)


def test_the_cache_is_no_part_of_the_state_dict(model):
    keys = list(model.state_dict())
    with torch.no_grad():
        model(images_for(model))
    assert list(model.state_dict()) == keys


def test_changes_in_any_order_are_seen(model):
    images = images_for(model)
    for first, second in itertools.permutations(CHANGES[2:7], 2):
        first(model)
        assert_fresh(model, images)
        second(model)
        assert_fresh(model, images)
