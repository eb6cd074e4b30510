import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from modeling_cssfe import CSSFEConfig, CSSFEForImageClassification, CSSFEImageProcessor
from modeling_cssfe.explain import compute_label_maps, draw_label_maps, find_label


class Quadrant(nn.Module):
    """Stands in for the backbone: one feature, 1 in the lower right quarter of a 4 x 4 map and 0 elsewhere."""

    def forward(self, pixel_values):
        maps = torch.zeros(len(pixel_values), 96, 4, 4)
        maps[:, 0, 2:, 2:] = 1
        return maps


@pytest.fixture
def planted():
    config = CSSFEConfig(
        backbone="test_resnet", image_size=64, label_names=["cat", "dog"], class_counts=[200, 5], ablation="net0"
    )
    model = CSSFEForImageClassification(config).eval()
    model.cssfe.backbone = Quadrant()
    with torch.no_grad():
        model.cssfe.class_activation.weight.zero_()
        model.cssfe.class_activation.weight[1, 0] = 3.0
        model.cssfe.class_activation.bias.zero_()
    return model, CSSFEImageProcessor.from_model_config(config)


def test_a_planted_map_lies_where_it_was_planted_at_the_size_of_the_image(planted):
    model, processor = planted
    image = Image.new("RGB", (120, 80))
    cat, dog = compute_label_maps(model, processor, image, ["cat", "dog"])
    assert dog.before.shape == (80, 120)
    assert np.allclose(dog.before[60:, 90:], 3.0)
    assert np.allclose(dog.before[:25, :], 0.0)
    assert np.allclose(dog.before[:, :35], 0.0)
    assert np.allclose(cat.before, 0.0)
    # Net-0's logit is the mean of the map: a quarter of the positions at 3.
    assert dog.score == pytest.approx(1 / (1 + np.exp(-0.75)), abs=1e-6)
    assert dog.after is None


def test_without_labels_the_highest_scores_come_first(planted):
    model, processor = planted
    found = compute_label_maps(model, processor, Image.new("RGB", (64, 64)), top_k=2)
    assert [entry.label for entry in found] == ["dog", "cat"]


def test_pictures_are_written_whole_as_png_and_svg(planted, tmp_path):
    model, processor = planted
    image = Image.new("RGB", (64, 48))
    maps = compute_label_maps(model, processor, image, ["dog"])
    draw_label_maps(image, maps, tmp_path / "maps.png")
    assert Image.open(tmp_path / "maps.png").format == "PNG"
    draw_label_maps(image, maps, tmp_path / "maps.svg")
    assert "<svg" in (tmp_path / "maps.svg").read_text()
    assert sorted(file.name for file in tmp_path.iterdir()) == ["maps.png", "maps.svg"]


def test_unknown_labels_and_endings_are_one_line_errors(planted, tmp_path):
    with pytest.raises(ValueError, match="did you mean 'dog'"):
        find_label("dig", ["cat", "dog"])
    model, processor = planted
    maps = compute_label_maps(model, processor, Image.new("RGB", (8, 8)), ["dog"])
    with pytest.raises(ValueError, match=r"choose a .png or .svg"):
        draw_label_maps(Image.new("RGB", (8, 8)), maps, tmp_path / "maps.jpg")
    with pytest.raises(ValueError, match="no maps"):
        draw_label_maps(Image.new("RGB", (8, 8)), [], tmp_path / "maps.png")
