# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""What holds for every loss of the registry, whatever its formula."""

import copy
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch._subclasses.fake_tensor import FakeTensorMode

from modeling_cssfe.losses import build_loss, get_loss_entry, list_losses


COUNTS = [775, 240, 100, 34, 20, 4, 1]
TOTAL = 1142
every_loss = pytest.mark.parametrize("name", list_losses())


def make_batch(seed=0, batch=5, classes=7, unknown=0.0, dtype=torch.float32, scale=3.0):
    generator = torch.Generator().manual_seed(seed)
    logits = (torch.randn(batch, classes, generator=generator, dtype=torch.float64) * scale).to(dtype)
    labels = (torch.rand(batch, classes, generator=generator) < 0.4).float()
    labels[torch.rand(batch, classes, generator=generator) < unknown] = -1
    return logits, labels


def value_and_gradient(loss, logits, labels):
    logits = logits.detach().clone().requires_grad_()
    value = loss(logits, labels)
    (gradient,) = torch.autograd.grad(value.sum(), logits)
    return value.detach(), gradient


@every_loss
def test_smoothed_labels_move_a_loss_a_little_unless_its_entry_says_otherwise(name):
    logits, labels = make_batch(batch=64)
    loss = build_loss(name, COUNTS, TOTAL)
    _, gradient = value_and_gradient(loss, logits, labels)
    _, smoothed = value_and_gradient(loss, logits, 0.98 * labels + 0.01)
    change = (smoothed - gradient).norm() / gradient.norm()
    assert (0 < change < 0.1) != get_loss_entry(name).binary_labels, change


@every_loss
def test_inputs_are_never_changed(name):
    logits, labels = make_batch(unknown=0.2)
    weight = torch.ones(len(logits))
    given_values = [(tensor.clone(), tensor._version) for tensor in (logits, labels, weight)]
    loss = build_loss(name, COUNTS, TOTAL)
    # Without a graph too: that is where in-place work on the caller's tensor would go unnoticed.
    with torch.no_grad():
        loss(logits, labels, weight)
    loss(logits.requires_grad_(), labels, weight).backward()
    for tensor, (before, version) in zip((logits, labels, weight), given_values, strict=True):
        assert torch.equal(tensor, before)
        assert tensor._version == version


@every_loss
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_extreme_logits_give_finite_values_and_gradients(name, dtype, reduction):
    extremes = torch.tensor([-100.0, -20.0, 0.0, 20.0, 100.0, 88.0, -88.0], dtype=dtype)
    logits = torch.stack([extremes.roll(shift) for shift in range(7)] * 2)
    labels = (torch.arange(14 * 7).reshape(14, 7) % 3 == 0).float()
    labels[:7] = labels[:7].flip(1)
    value, gradient = value_and_gradient(build_loss(name, COUNTS, TOTAL, reduction=reduction), logits, labels)
    assert value.isfinite().all()
    assert gradient.isfinite().all()
    assert gradient.dtype == dtype
    assert value.dtype == torch.float32


@every_loss
def test_a_certain_and_wrong_answer_costs_something_that_grows_and_a_certain_right_one_nothing(name):
    labels = torch.tensor([[1, 0, 1, 0, 1, 0, 0]])
    right = torch.where(labels == 1, 100.0, -100.0)
    loss = build_loss(name, COUNTS, TOTAL)
    assert loss(right, labels) < 1e-6
    assert loss(-right, labels) > loss(-right / 4, labels) > 1


@every_loss
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_autocast_changes_nothing(name, dtype):
    logits, labels = make_batch(unknown=0.2, dtype=dtype)
    loss = build_loss(name, COUNTS, TOTAL)
    value, gradient = value_and_gradient(loss, logits, labels)
    with torch.autocast("cpu", dtype=dtype):
        value_under, gradient_under = value_and_gradient(loss, logits, labels)
    assert torch.equal(value, value_under)
    assert torch.equal(gradient, gradient_under)
    exact, _ = value_and_gradient(loss, logits.float(), labels)
    torch.testing.assert_close(value, exact)  # half-precision logits are computed on in fp32


@every_loss
def test_forward_and_backward_never_wait_for_the_device(name):
    # Fake tensors carry no data: whatever needs a value on the host (item, bool, nonzero, a mask's length) raises.
    loss = build_loss(name, COUNTS, TOTAL)
    with FakeTensorMode(allow_non_fake_inputs=True):
        logits = torch.empty(4, len(COUNTS), requires_grad=True)
        labels, weight = torch.empty(4, len(COUNTS)), torch.empty(4)
        for sample_weight in (None, weight):
            loss(logits, labels, sample_weight).backward()


@every_loss
def test_gradcheck_in_fp64(name):
    # Logits of moderate size: a difference quotient needs LDAM's scaled logits off saturation.
    logits, labels = make_batch(seed=5, unknown=0.2, dtype=torch.float64, scale=1.0)
    if name == "pg":  # its exponents come from the batch and are constants to the gradient, not to a quotient
        loss = build_loss(name, COUNTS, TOTAL, apaf=False)
    elif name == "asl":  # likewise its focusing weight
        loss = build_loss(name, focusing_gradient=True, gamma_pos=0.5, gamma_neg=2.5)
    else:
        loss = build_loss(name, COUNTS, TOTAL)
    loss = loss.double()
    assert torch.autograd.gradcheck(lambda z: loss(z, labels), logits.requires_grad_())


@settings(max_examples=15, deadline=None)
@given(st.data())
@every_loss
def test_any_counts_including_none_and_all_are_defined_and_finite(name, data):
    total = data.draw(st.integers(1, 10**6), label="num_samples")
    counts = data.draw(
        st.lists(st.one_of(st.just(0), st.just(total), st.integers(0, total)), min_size=1, max_size=6), label="counts"
    )
    logits, labels = make_batch(seed=data.draw(st.integers(0, 99)), classes=len(counts), unknown=0.3)
    loss = build_loss(name, counts, total)
    value, gradient = value_and_gradient(loss, logits, labels)
    assert value.isfinite()
    assert value >= 0
    assert gradient.isfinite().all()
    for buffer_name, buffer in loss.named_buffers():
        assert buffer.isfinite().all() or buffer_name == "group_mask"


@every_loss
def test_permuting_the_classes_permutes_the_loss(name):
    logits, labels = make_batch(unknown=0.2)
    order = torch.tensor([3, 6, 0, 5, 1, 4, 2])
    value, gradient = value_and_gradient(build_loss(name, COUNTS, TOTAL, reduction="none"), logits, labels)
    permuted = build_loss(name, [COUNTS[i] for i in order], TOTAL, reduction="none")
    value_permuted, gradient_permuted = value_and_gradient(permuted, logits[:, order], labels[:, order])
    torch.testing.assert_close(value_permuted, value[:, order])
    torch.testing.assert_close(gradient_permuted, gradient[:, order])


@every_loss
@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int64, torch.float16, torch.bfloat16], ids=str)
def test_any_label_dtype_serves(name, dtype):
    logits, labels = make_batch()
    loss = build_loss(name, COUNTS, TOTAL)
    assert torch.equal(loss(logits, labels.to(dtype)), loss(logits, labels))


@every_loss
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_a_batch_without_images_has_no_loss(name, reduction):
    value, gradient = value_and_gradient(
        build_loss(name, COUNTS, TOTAL, reduction=reduction), torch.zeros(0, 7), torch.zeros(0, 7)
    )
    assert value.sum() == 0
    assert gradient.shape == (0, 7)
    assert value.shape == ((0, 7) if reduction == "none" else ())


@every_loss
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_unknown_labels_take_no_part(name, reduction):
    logits, labels = make_batch(unknown=0.3)
    unknown = labels < 0
    loss = build_loss(name, COUNTS, TOTAL, reduction=reduction)
    value, gradient = value_and_gradient(loss, logits, labels)
    assert torch.equal(gradient[unknown], torch.zeros(int(unknown.sum())))
    if reduction == "none":
        assert torch.equal(value[unknown], torch.zeros(int(unknown.sum())))
    # Neither what their logits are, nor how "unknown" is written.
    for other in (50.0, float("nan"), float("inf"), float("-inf")):
        value_again, gradient_again = value_and_gradient(
            loss, logits.masked_fill(unknown, other), labels.masked_fill(unknown, float("nan"))
        )
        assert torch.equal(value, value_again)
        assert torch.equal(gradient, gradient_again)


@every_loss
def test_a_batch_without_known_labels_costs_nothing(name):
    logits, labels = make_batch()
    value, gradient = value_and_gradient(build_loss(name, COUNTS, TOTAL), logits, torch.full_like(labels, -1))
    assert value == 0
    assert torch.equal(gradient, torch.zeros_like(gradient))


@every_loss
@pytest.mark.parametrize("label", [0, 1])
def test_one_image_and_one_class_suffice(name, label):
    value, gradient = value_and_gradient(build_loss(name, [3], 10), torch.tensor([[0.5]]), torch.tensor([[label]]))
    assert value.isfinite()
    assert gradient.isfinite().all()


@every_loss
def test_statistics_are_not_saved_and_survive_every_move(name):
    loss = build_loss(name, COUNTS, TOTAL)
    logits, labels = make_batch()
    expected = loss(logits, labels)
    assert not loss.state_dict()
    assert not list(loss.parameters())
    # Half precision would round them; the meta device has no data to bring back.
    for moved in (loss.bfloat16(), loss.half(), loss.to("meta").to_empty(device="cpu")):
        assert torch.equal(moved(logits, labels), expected)
        assert all(b.dtype in (torch.float32, torch.int64) for b in moved.buffers())
    with torch.device("meta"):
        built = build_loss(name, COUNTS, TOTAL)
    assert all(b.is_meta for b in built.buffers())
    assert torch.equal(built.to_empty(device="cpu")(logits, labels), expected)
    for buffer in loss.buffers():
        buffer.zero_()
    if hasattr(loss, "reset_buffers"):
        loss.reset_buffers()
    assert torch.equal(loss(logits, labels), expected)


@every_loss
def test_fp64_statistics_are_exact_to_fp64(name):
    loss = build_loss(name, [3, 7, 11, 12, 13, 14, 15], 23)
    logits, labels = make_batch(dtype=torch.float64)
    through_single = loss.float().double()(logits, labels)
    assert torch.equal(through_single, build_loss(name, [3, 7, 11, 12, 13, 14, 15], 23).double()(logits, labels))


@every_loss
def test_copies_and_pickles_compute_the_same(name):
    loss = build_loss(name, COUNTS, TOTAL)
    logits, labels = make_batch()
    for twin in (copy.deepcopy(loss), pickle.loads(pickle.dumps(loss))):
        assert torch.equal(twin(logits, labels), loss(logits, labels))


@every_loss
def test_the_whole_loss_compiles_to_one_graph(name):
    logits, labels = make_batch(unknown=0.2)
    loss = build_loss(name, COUNTS, TOTAL)
    torch._dynamo.reset()
    compiled = torch.compile(loss, backend="aot_eager", fullgraph=True)
    for eager, graph in zip(
        value_and_gradient(loss, logits, labels), value_and_gradient(compiled, logits, labels), strict=True
    ):
        torch.testing.assert_close(graph, eager)


CLOSED_FORM = ["focal", "cb_focal", "ldam", "db", "db_focal", "pg", "two_way"]


@pytest.mark.parametrize("name", CLOSED_FORM)
def test_a_gradient_for_the_labels_that_does_not_exist_is_refused_not_missing(name):
    logits, labels = make_batch()
    with pytest.raises(ValueError, match=r"labels require a gradient.*labels\.detach\(\)"):
        build_loss(name, COUNTS, TOTAL)(logits, labels.requires_grad_())


@pytest.mark.parametrize("name", [*CLOSED_FORM, "asl"])
def test_a_second_derivative_that_does_not_exist_is_refused_not_zero(name):
    logits, labels = make_batch()
    logits.requires_grad_()
    with pytest.raises(RuntimeError, match=r"no second derivative.*create_graph=True"):
        torch.autograd.grad(build_loss(name, COUNTS, TOTAL)(logits, labels), logits, create_graph=True)


@pytest.mark.parametrize("options", [{}, {"margin": 0, "gamma_pos": 1}, {"gamma_neg": 0}], ids=str)
def test_asl_is_the_same_in_closed_form_and_on_autograd(options):
    logits, labels = make_batch(dtype=torch.float64)
    loss = build_loss("asl", **options)
    value, gradient = value_and_gradient(loss, logits, labels)
    # Labels that require a gradient leave the closed form.
    value_again, gradient_again = value_and_gradient(loss, logits, labels.double().requires_grad_())
    torch.testing.assert_close(value, value_again)
    torch.testing.assert_close(gradient, gradient_again)


@every_loss
def test_wrong_shapes_are_one_line_value_errors(name):
    loss = build_loss(name, COUNTS, TOTAL)
    logits, labels = make_batch()
    with pytest.raises(ValueError, match=r"\(5, 7\).*\(4, 7\)"):
        loss(logits, labels[:4])
    with pytest.raises(ValueError, match=r"sample_weight.*\(5,\).*\(4,\)"):
        loss(logits, labels, torch.ones(4))
    if get_loss_entry(name).needs:
        with pytest.raises(ValueError, match=r"logits have 6 classes but class_counts has 7"):
            loss(logits[:, :6], labels[:, :6])
