import pytest
import torch
from torch.nn import functional as F

from modeling_cssfe import CSSFEConfig, CSSFEForImageClassification
from modeling_cssfe.losses import build_loss


def build(share, ablation="net3"):
    torch.manual_seed(0)
    config = CSSFEConfig(
        backbone="test_resnet",
        image_size=64,
        label_names=["a", "b", "c"],
        class_counts=[200, 50, 5],
        ablation=ablation,
        discriminant_share=share,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        label_dropout=0.0,
    )
    return CSSFEForImageClassification(config).eval()


def rows(model):
    generator = torch.Generator().manual_seed(1)
    width = model.cssfe.class_activation.in_channels
    return torch.randn(3, width, generator=generator), torch.randn(3, generator=generator)


@pytest.mark.parametrize("ablation", ["net1", "net2", "net3"])
def test_the_logit_is_the_weighted_mean_of_the_fused_one_and_a_linear_classifiers(ablation):
    pixels = torch.randn(4, 3, 64, 64)
    fused = build(0.0, ablation)(pixels).logits
    for share in (0.3, 1.0):
        model = build(share, ablation)
        weight, bias = rows(model)
        model.set_discriminant(weight, bias)
        known = model.cssfe.backbone(pixels).mean((2, 3)) @ weight.T + bias
        torch.testing.assert_close(model(pixels).logits, (1 - share) * fused + share * known)


def test_until_it_is_set_its_logits_are_0():
    pixels = torch.randn(4, 3, 64, 64)
    torch.testing.assert_close(build(0.25)(pixels).logits, 0.75 * build(0.0)(pixels).logits)


def test_the_loss_is_the_fused_logits_alone_and_nothing_of_it_reaches_the_discriminant():
    pixels = torch.randn(4, 3, 64, 64)
    labels = torch.tensor([[1, 0, -1], [0, 1, 0], [1, 1, 0], [0, 0, 1]])
    fused = build(0.0)(pixels).logits
    loss = build_loss("asl", class_counts=[200, 50, 5], num_samples=255)(fused, labels)
    model = build(0.3)
    model.set_discriminant(*rows(model))
    output = model(pixels, labels=labels)
    torch.testing.assert_close(output.loss, loss)
    output.loss.backward()
    assert not any("discriminant" in name for name, _ in model.named_parameters())


def test_a_saved_model_keeps_it(tmp_path):
    model = build(0.3)
    weight, bias = rows(model)
    model.set_discriminant(weight, bias)
    model.save_pretrained(tmp_path)
    loaded = CSSFEForImageClassification.from_pretrained(tmp_path)
    torch.testing.assert_close(loaded.discriminant.weight, weight, rtol=0, atol=0, check_stride=False)
    assert not any("discriminant" in name for name, _ in loaded.named_parameters())
    pixels = torch.randn(2, 3, 64, 64)
    assert torch.equal(loaded(pixels).logits, model(pixels).logits)


@pytest.mark.parametrize(("share", "ablation"), [(0.0, "net3"), (0.3, "net0")])
def test_models_without_a_discriminant_have_no_weights_for_one_and_say_so(share, ablation):
    model = build(share, ablation)
    assert not any("discriminant" in name for name in model.state_dict())
    with pytest.raises(ValueError, match="this model has no discriminant; give net1, net2 or net3 a"):
        model.set_discriminant(*rows(model))


def test_rows_of_another_shape_are_an_error():
    model = build(0.3)
    weight, bias = rows(model)
    with pytest.raises(ValueError, match="a row for each class"):
        model.set_discriminant(weight[:, 1:], bias)


@pytest.mark.parametrize("share", [-0.1, 1.5])
def test_a_share_outside_0_and_1_is_an_error(share):
    with pytest.raises(ValueError, match=rf"discriminant_share is {share}: give a number in \[0, 1\]"):
        CSSFEConfig(discriminant_share=share)


def test_logits_of_a_discriminant_are_not_rounded_under_autocast():
    model = build(1.0)
    weight, bias = rows(model)
    model.set_discriminant(weight, bias)
    pixels = torch.randn(2, 3, 64, 64)
    with torch.autocast("cpu", torch.bfloat16):
        output = model(pixels)
    assert output.logits.dtype == torch.float32
    with torch.autocast("cpu", torch.bfloat16):
        features = model.cssfe.backbone(pixels)
    expected = F.linear(features.double().mean((2, 3)), weight.double(), bias.double())
    torch.testing.assert_close(output.logits.double(), expected, rtol=1e-5, atol=1e-5)


def test_means_of_maps_are_not_rounded_under_autocast():
    torch.manual_seed(0)
    model = build(0.0, "net0")
    pixels = torch.randn(2, 3, 64, 64)
    with torch.autocast("cpu", torch.bfloat16):
        output = model(pixels)
    assert output.class_activation_maps.dtype == torch.bfloat16
    assert output.logits.dtype == torch.float32
    expected = output.class_activation_maps.double().mean((2, 3))
    torch.testing.assert_close(output.logits.double(), expected, rtol=1e-6, atol=1e-6)
