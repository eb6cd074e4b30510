"""What the classifier that the backbone was pretrained with tells the discriminant of an image."""

import numpy as np
import pytest
import torch
from scipy.special import softmax

from modeling_cssfe import CSSFEConfig, CSSFEForImageClassification


LABELS = 7


def build(share=0.5, **options):
    torch.manual_seed(0)
    config = CSSFEConfig(
        backbone="test_resnet",
        image_size=64,
        label_names=["a", "b", "c"],
        class_counts=[200, 50, 5],
        discriminant_share=share,
        **options,
    )
    return CSSFEForImageClassification(config).eval()


def hearing(share=0.5):
    """A model whose discriminant hears a pretrained classifier of seven labels, and what it was given."""
    model = build(share)
    width = model.cssfe.class_activation.in_channels
    generator = torch.Generator().manual_seed(1)
    rows, bias = torch.randn(LABELS, width, generator=generator), torch.randn(LABELS, generator=generator)
    model.set_pretrained_classifier(rows, bias)
    weight = torch.randn(3, width + 2 * LABELS, generator=generator) / 10
    model.set_discriminant(weight, torch.randn(3, generator=generator))
    return model, rows, bias


def covering_windows(side):
    """First and last position of the windows along a side: three around every other position, fewer at the edge."""
    return [(max(0, middle - 1), min(side, middle + 2)) for middle in range(0, side, 2)]


@pytest.mark.parametrize("size", [(10, 10), (14, 7), (3, 5), (2, 1)])
def test_descriptors_are_means_and_square_roots_of_probabilities_of_the_whole_and_of_the_best_window(size):
    model, rows, bias = hearing()
    features = torch.randn(2, rows.shape[1], *size)
    means, whole, windows = (tensor.numpy() for tensor in model.discriminant.descriptors(features))
    rows, bias, features = rows.double().numpy(), bias.double().numpy(), features.double().numpy()
    for image in range(2):
        mean = features[image].mean(axis=(1, 2))
        np.testing.assert_allclose(means[image], mean, atol=1e-6)
        np.testing.assert_allclose(whole[image], softmax(rows @ mean + bias) ** 0.5, rtol=1e-4, atol=1e-7)
        likeliest = np.zeros(LABELS)
        for top, bottom in covering_windows(size[0]):
            for left, right in covering_windows(size[1]):
                mean = features[image, :, top:bottom, left:right].mean(axis=(1, 2))
                likeliest = np.maximum(likeliest, softmax(rows @ mean + bias))
        np.testing.assert_allclose(windows[image], likeliest**0.5, rtol=1e-4, atol=1e-7)


def test_the_logit_is_linear_in_the_descriptors():
    model, _, _ = hearing(share=1.0)
    pixels = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        output = model(pixels)
        descriptors = torch.cat(model.discriminant.descriptors(model.cssfe(pixels).last_hidden_state), dim=1).double()
    expected = descriptors @ model.discriminant.weight.double().T + model.discriminant.bias.double()
    torch.testing.assert_close(output.logits.double(), expected, rtol=1e-5, atol=1e-5)


def test_a_new_classifier_leaves_the_discriminant_at_0_until_it_is_set():
    model = build(share=1.0)
    width = model.cssfe.class_activation.in_channels
    model.set_discriminant(torch.ones(3, width), torch.ones(3))
    model.set_pretrained_classifier(torch.randn(LABELS, width), torch.randn(LABELS))
    assert model.config.num_pretrained_labels == LABELS
    assert not model(torch.randn(1, 3, 64, 64)).logits.any()


def test_a_saved_model_keeps_what_it_hears_to_the_bit(tmp_path):
    model, rows, bias = hearing()
    model.save_pretrained(tmp_path)
    loaded = CSSFEForImageClassification.from_pretrained(tmp_path)
    assert loaded.config.num_pretrained_labels == LABELS
    assert torch.equal(loaded.discriminant.pretrained_weight, rows)
    assert torch.equal(loaded.discriminant.pretrained_bias, bias)
    assert not any("discriminant" in name for name, _ in loaded.named_parameters())
    pixels = torch.randn(2, 3, 64, 64)
    assert torch.equal(loaded(pixels).logits, model(pixels).logits)


def test_probabilities_are_not_rounded_under_autocast():
    model, _, _ = hearing()
    features = torch.randn(2, model.cssfe.class_activation.in_channels, 4, 4)
    plain = model.discriminant.descriptors(features)
    with torch.autocast("cpu", torch.bfloat16):
        found = model.discriminant.descriptors(features)
    for one, other in zip(plain, found, strict=True):
        assert one.dtype == torch.float32
        assert torch.equal(one, other)


def test_gradients_stay_finite_where_a_label_is_impossible():
    model, _, _ = hearing(share=1.0)
    with torch.no_grad():
        model.discriminant.pretrained_bias[0] = -1e4  # its probability underflows to 0, where a root has no slope
    pixels = torch.randn(1, 3, 64, 64, requires_grad=True)
    model(pixels).logits.sum().backward()
    assert torch.isfinite(pixels.grad).all()
    assert pixels.grad.any()


def test_in_half_precision_logits_are_near_those_of_fp32():
    model, _, _ = hearing()
    pixels = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        full = model(pixels).logits
        half = model.to(torch.bfloat16)(pixels.bfloat16()).logits
    torch.testing.assert_close(half.float(), full, rtol=0.1, atol=0.1)


def test_what_does_not_fit_is_an_error_in_one_line_and_changes_nothing():
    model, rows, bias = hearing()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(ValueError, match=r"expected \(7, 96\) and \(7,\): a row for each class"):
        model.set_pretrained_classifier(rows[:, 1:], bias)
    with pytest.raises(ValueError, match=r"expected \(3, 110\)"):
        model.set_discriminant(torch.zeros(3, 96), torch.zeros(3))
    with pytest.raises(ValueError, match=r"\(0, 96\) and \(0,\), expected \(1, 96\)"):
        model.set_pretrained_classifier(rows[:0], bias[:0])
    for wrong in (torch.full((3, 110), torch.nan), torch.ones(3, 110) * 1j):
        with pytest.raises(ValueError, match="values of weight are NaN, infinite or complex"):
            model.set_discriminant(wrong, torch.zeros(3))
    with pytest.raises(ValueError, match="this model has no discriminant"):
        build(share=0.0).set_pretrained_classifier(rows, bias)
    with pytest.raises(ValueError, match="num_pretrained_labels is -1: give a number >= 0"):
        CSSFEConfig(num_pretrained_labels=-1)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
