import pytest
import torch

from modeling_cssfe import CSSFEConfig, CSSFEForImageClassification
from modeling_cssfe.losses import build_loss, list_losses


COUNTS = [120, 30, 8]


@pytest.mark.parametrize("name", list_losses())
def test_every_loss_of_the_registry_is_reached_by_its_name_in_the_configuration(name, tmp_path):
    config = CSSFEConfig(
        backbone="test_resnet", image_size=64, class_counts=COUNTS, num_samples=130, ablation="net0", loss=name
    )
    model = CSSFEForImageClassification(config).eval()
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(4, 3, 64, 64, generator=generator)
    labels = torch.tensor([[1, 0, 0], [1, 1, 0], [0, 0, 1], [1, -1, 0]])
    output = model(images, labels=labels)
    options = config.loss_kwargs or {}
    expected = build_loss(name, class_counts=COUNTS, num_samples=130, **options)(output.logits, labels)
    assert output.loss.item() == pytest.approx(expected.item(), rel=1e-6)
    output.loss.backward()
    assert torch.isfinite(model.cssfe.class_activation.weight.grad).all()
    # What a loss knows of the data set is built from the configuration, never saved with the weights.
    model.save_pretrained(tmp_path)
    again = CSSFEForImageClassification.from_pretrained(tmp_path).eval()
    assert again(images, labels=labels).loss.item() == output.loss.item()


def test_a_loss_can_be_set_by_hand():
    model = CSSFEForImageClassification(
        CSSFEConfig(backbone="test_resnet", image_size=64, class_counts=COUNTS, ablation="net0")
    )
    model.set_loss(torch.nn.BCEWithLogitsLoss())
    labels = torch.tensor([[1.0, 0.0, 1.0]])
    output = model.eval()(torch.zeros(1, 3, 64, 64), labels=labels)
    expected = torch.nn.functional.binary_cross_entropy_with_logits(output.logits, labels)
    assert output.loss.item() == expected.item()


def test_a_wrong_option_of_a_loss_is_a_one_line_error():
    for loss, options in (("asl", {"gama_pos": 1.0}), ("focal", {"gama": 1.0})):
        config = CSSFEConfig(
            backbone="test_resnet", image_size=64, class_counts=COUNTS, ablation="net0", loss=loss, loss_kwargs=options
        )
        with pytest.raises(ValueError, match="gama") as caught:
            _ = CSSFEForImageClassification(config).loss_function
        assert "\n" not in str(caught.value)
