import pytest
import torch

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
        map_logit_share=share,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        label_dropout=0.0,
    )
    model = CSSFEForImageClassification(config).eval()
    with torch.no_grad():
        model.cssfe.class_activation.weight.mul_(20)  # maps that are no less than the fused logits
    return model


@pytest.mark.parametrize("ablation", ["net1", "net2", "net3"])
def test_the_logit_is_the_weighted_mean_of_the_fused_and_the_maps_own(ablation):
    pixels = torch.randn(4, 3, 64, 64)
    fused = build(0.0, ablation)(pixels)
    own = fused.class_activation_maps.mean((2, 3))
    assert (fused.logits - own).abs().max() > 0.1
    for share in (0.3, 1.0):
        mixed = build(share, ablation)(pixels).logits
        torch.testing.assert_close(mixed, (1 - share) * fused.logits + share * own)


def test_the_loss_is_the_fused_logits_alone_and_unknown_labels_take_no_part():
    pixels = torch.randn(4, 3, 64, 64)
    labels = torch.tensor([[1, 0, -1], [0, 1, 0], [1, 1, 0], [0, 0, 1]])
    fused = build(0.0)(pixels).logits
    loss = build_loss("asl", class_counts=[200, 50, 5], num_samples=255)(fused, labels)
    torch.testing.assert_close(build(0.3)(pixels, labels=labels).loss, loss)


def test_net0_has_only_one_logit():
    pixels = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(build(0.3, "net0")(pixels).logits, build(0.0, "net0")(pixels).logits)


@pytest.mark.parametrize("share", [-0.1, 1.5])
def test_a_share_outside_0_and_1_is_an_error(share):
    with pytest.raises(ValueError, match=rf"map_logit_share is {share}: give a number in \[0, 1\]"):
        CSSFEConfig(map_logit_share=share)


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
