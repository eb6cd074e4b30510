import pytest
import torch
from torch.nn import functional as F

from modeling_cssfe import CSSFEConfig, CSSFEForImageClassification
from modeling_cssfe.backbone_cssfe import CSSFEBackbone

from .helpers import images_for, small_config


NARROW = {"layers": [1, 2, 1, 1], "channels": [4, 6, 8, 10], "stem_width": 8}


def narrow_config(first: bool, **kwargs) -> CSSFEConfig:
    return small_config(
        backbone="resnet50",
        backbone_kwargs=NARROW | kwargs,
        feature_size=None,
        stride_in_first_convolution=first,
        image_size=[96, 64],
    )


def norm(x, module):
    return F.batch_norm(x, module.running_mean, module.running_var, module.weight, module.bias)


def resnet_of_2015(model, x):
    """He et al., 2015, figure 5 right, with the stride of a stage in the first 1x1 convolution, in plain functions."""
    x = F.relu(norm(F.conv2d(x, model.conv1.weight, stride=2, padding=3), model.bn1))
    x = F.max_pool2d(x, 3, 2, 1)
    for number, stage in enumerate((model.layer1, model.layer2, model.layer3, model.layer4)):
        for position, block in enumerate(stage):
            stride = 2 if number > 0 and position == 0 else 1
            y = F.relu(norm(F.conv2d(x, block.conv1.weight, stride=stride), block.bn1))
            y = F.relu(norm(F.conv2d(y, block.conv2.weight, padding=1), block.bn2))
            y = norm(F.conv2d(y, block.conv3.weight), block.bn3)
            if position == 0:
                x = norm(F.conv2d(x, block.downsample[0].weight, stride=stride), block.downsample[1])
            x = F.relu(x + y)
    return x


@torch.no_grad()
def test_the_layout_of_2015_computes_what_its_paper_prints_and_the_usual_one_something_else():
    torch.manual_seed(0)
    backbone = CSSFEBackbone(narrow_config(True)).eval()
    for parameter in backbone.parameters():
        parameter.copy_(torch.rand(parameter.shape) if parameter.ndim == 1 else torch.randn(parameter.shape) * 0.2)
    image = torch.randn(2, 3, 96, 64)
    expected = resnet_of_2015(backbone.timm_model, image)
    torch.testing.assert_close(backbone(image), expected)
    usual = CSSFEBackbone(narrow_config(False)).eval()
    usual.load_state_dict(backbone.state_dict())
    assert usual(image).shape == expected.shape
    assert (usual(image) - expected).abs().max() > 0.1 * expected.abs().max()


def test_the_layout_is_saved_with_the_model(tmp_path):
    torch.manual_seed(0)
    model = CSSFEForImageClassification(narrow_config(True)).eval()
    model.save_pretrained(tmp_path)
    loaded = CSSFEForImageClassification.from_pretrained(tmp_path).eval()
    assert loaded.config.stride_in_first_convolution is True
    blocks = [stage[0] for stage in (loaded.cssfe.backbone.timm_model.layer2, loaded.cssfe.backbone.timm_model.layer4)]
    assert [(block.conv1.stride, block.conv2.stride) for block in blocks] == [((2, 2), (1, 1))] * 2
    images = images_for(model, 2)
    with torch.no_grad():
        assert torch.equal(loaded(images).logits, model(images).logits)


def test_a_dilated_stage_has_no_stride_to_move():
    with torch.device("meta"):
        assert CSSFEBackbone(narrow_config(True, output_stride=16)).map_size == (6, 4)


@pytest.mark.parametrize(
    "name",
    ["resnet18", "resnetaa50", "vgg11", "vit_tiny_patch16_224"],
)
def test_architectures_without_plain_bottlenecks_refuse_it_in_one_line(name):
    with pytest.raises(ValueError, match=rf"{name}' has no plain ResNet bottlenecks.*set it to False") as caught:
        CSSFEBackbone(CSSFEConfig(backbone=name, image_size=64, stride_in_first_convolution=True))
    assert "\n" not in str(caught.value)
