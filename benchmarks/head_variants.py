"""Changes of a head that no field of the configuration makes, for trials that ask whether one is worth a field."""

import copy

import torch
from frozen_maps import Head, run_stage
from torch import nn

from modeling_cssfe.layers_cssfe import CSSFEFusionBlock


class _TwoBlocks(nn.Module):
    """A second fusion block, whose queries are what the first has made of the label tokens."""

    def __init__(self, first: CSSFEFusionBlock, second: CSSFEFusionBlock):
        super().__init__()
        self.first, self.second = first, second

    def forward(self, label_tokens, image_tokens, **kwargs):
        return self.second(self.first(label_tokens, image_tokens, **kwargs), image_tokens, **kwargs)


def two_fusion_blocks(head: Head) -> None:
    """Two blocks in the place of one."""
    fusion = head.model.cssfe.fusion
    fusion.block = _TwoBlocks(fusion.block, CSSFEFusionBlock(head.model.config, head.model.cssfe.hidden_size))


def learned_temperature(head: Head) -> None:
    """The enhancement learns what its scores are divided by, from sqrt(d_k) on."""
    enhancement = head.model.cssfe.enhancement
    scaling = enhancement.scaling
    del enhancement.scaling
    enhancement.scaling = nn.Parameter(torch.tensor(scaling))


def enhancement_from_zero(head: Head) -> None:
    """What a class receives is scaled by a number for each giver that starts at 0: the start is a Net-1."""
    enhancement = head.model.cssfe.enhancement
    classes = head.model.config.num_labels
    enhancement.value_mode = "per_class"
    enhancement.value_scale = nn.Parameter(torch.zeros(classes))
    enhancement.value_offset = nn.Parameter(torch.zeros(classes))


def enhancement_by_likeness(head: Head) -> None:
    """Keys start equal to queries: at first a class receives most from itself, then from those with a similar name."""
    enhancement = head.model.cssfe.enhancement
    enhancement.key.load_state_dict(enhancement.query.state_dict())


def enhancement_takes_off(head: Head) -> None:
    """As `enhancement_by_likeness`, but half of what a class would receive is taken off its map, as a start."""
    enhancement_by_likeness(head)
    enhancement_from_zero(head)
    nn.init.constant_(head.model.cssfe.enhancement.value_scale, -0.5)


def fusion_from_zero(head: Head) -> None:
    """Both branches of the fusion block start at 0: at first a class token is its label token."""
    block = head.model.cssfe.fusion.block
    for layer in (block.attention.output, block.output):
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)


def logit_from_net0(head: Head) -> None:
    """The fused logit starts at 0 and the maps' own is added to it, in training too: the start is a Net-0."""
    nn.init.zeros_(head.model.classifier.weight)
    nn.init.zeros_(head.model.classifier.bias)
    maps = []
    head.model.cssfe.register_forward_hook(lambda module, inputs, output: maps.append(output.class_activation_maps))
    head.model.classifier.register_forward_hook(
        lambda module, inputs, logits: logits + maps.pop().mean(dim=(2, 3), dtype=torch.float32)
    )


def _scaled_embeddings(head: Head, scale: float) -> None:
    projection = head.model.cssfe.label_encoder.projection
    projection.register_forward_pre_hook(lambda module, arguments: (scale * arguments[0],))


def embeddings_quarter(head: Head) -> None:
    """Centred label embeddings of a quarter of the length."""
    _scaled_embeddings(head, 0.25)


def embeddings_fourfold(head: Head) -> None:
    """Centred label embeddings of four times the length."""
    _scaled_embeddings(head, 4.0)


def whole_images_described(head: Head) -> None:
    """The discriminant hears of whole images what it would hear of windows."""
    discriminant = head.model.discriminant
    descriptors = discriminant.descriptors

    def whole(features: torch.Tensor) -> list[torch.Tensor]:
        means, probabilities, _ = descriptors(features)
        return [means, probabilities, probabilities]

    discriminant.descriptors = whole


def discriminant_of_pretrained_stage(head: Head) -> None:
    """The last stage is trained for the fused logit alone; the discriminant looks through a copy that is not."""
    pretrained = copy.deepcopy(head.stage)
    given: list[torch.Tensor] = []
    head.stage.register_forward_pre_hook(lambda stage, arguments: given.append(arguments[0]))

    def look(discriminant: nn.Module, arguments: tuple, logits: torch.Tensor) -> torch.Tensor | None:
        # In training the loss is the fused logit's, and where no stage ran the features are of the pretrained one.
        before = given.pop() if given else None
        if discriminant.training or before is None:
            return None
        return discriminant.forward(run_stage(pretrained, before).float())

    head.model.discriminant.register_forward_hook(look)


VARIANTS = {
    variant.__name__: variant
    for variant in (
        two_fusion_blocks,
        learned_temperature,
        enhancement_from_zero,
        enhancement_by_likeness,
        enhancement_takes_off,
        fusion_from_zero,
        logit_from_net0,
        embeddings_quarter,
        embeddings_fourfold,
        whole_images_described,
        discriminant_of_pretrained_stage,
    )
}
