import pytest
import torch

from modeling_cssfe import CSSFEConfig, CSSFEForImageClassification
from modeling_cssfe import layers_cssfe as code


def _model(**options):
    torch.manual_seed(0)
    config = CSSFEConfig(
        backbone="test_resnet",
        image_size=64,
        class_counts=[300] * 5 + [50] * 5 + [3] * 7,
        hidden_size=16,
        num_attention_heads=2,
        attention_head_dim=8,
        intermediate_size=16,
        **options,
    )
    return CSSFEForImageClassification(config).eval()


@pytest.mark.parametrize("preset", ["paper", "corrected"])
@pytest.mark.parametrize("fusion_mode", ["tokens", "channels"])
def test_blocks_of_classes_give_the_same_logits_and_gradients(preset, fusion_mode, monkeypatch):
    model = _model(preset=preset, fusion_mode=fusion_mode)
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    found = []
    for rows, entries in ((2048, 2**22), (4, 3 * 34)):
        monkeypatch.setattr(code, "ENHANCEMENT_ROWS", rows)
        monkeypatch.setattr(code, "FUSION_ENTRIES", entries)
        model.zero_grad()
        logits = model(images).logits
        logits.square().sum().backward()
        found.append((logits.detach(), [parameter.grad.clone() for parameter in model.parameters()]))
    whole, blocks = found
    torch.testing.assert_close(blocks[0], whole[0], rtol=1e-5, atol=1e-6)
    for got, expected in zip(blocks[1], whole[1], strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-3, atol=1e-5)


def test_dropout_in_blocks_is_the_same_in_the_backward_pass(monkeypatch):
    # Recomputation must draw the same dropout, or the gradient is another function's. Central differences tell.
    monkeypatch.setattr(code, "ENHANCEMENT_ROWS", 4)
    monkeypatch.setattr(code, "FUSION_ENTRIES", 3 * 34)
    attention = _model(attention_probs_dropout_prob=0.5).cssfe.fusion.block.attention.double().train()
    generator = torch.Generator().manual_seed(2)
    labels = torch.randn(1, 17, 16, generator=generator, dtype=torch.float64)
    tokens = torch.randn(1, 17, 16, generator=generator, dtype=torch.float64, requires_grad=True)
    direction = torch.randn(1, 17, 16, generator=generator, dtype=torch.float64)

    def value(inputs):
        torch.manual_seed(7)
        return attention(labels, inputs)[0].square().sum()

    value(tokens).backward()
    step = 1e-5
    with torch.no_grad():
        expected = (value(tokens + step * direction) - value(tokens - step * direction)) / (2 * step)
    assert (tokens.grad * direction).sum().item() == pytest.approx(expected.item(), rel=1e-6)
