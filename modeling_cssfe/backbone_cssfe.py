# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""Any timm architecture as a source of feature maps `(batch, channels, height, width)`.

Nothing here touches the network: architectures are built without weights, and `load_backbone_weights` reads a local
safetensors file. What a backbone returns (channels first, channels last, or tokens with or without prefix tokens) is
found once, on the meta device, where a forward pass costs nothing.
"""

import difflib
import inspect
import os
import sys
from typing import Any

import timm
import torch
from timm.models.resnet import Bottleneck, ResNet
from torch import nn
from transformers.utils import cached_file


_PREFIX_IN_A_MODEL = "cssfe.backbone.timm_model."


def build_timm_model(
    name: str,
    image_size: tuple[int, int],
    num_channels: int = 3,
    backbone_kwargs: dict | None = None,
    stride_in_first_convolution: bool = False,
) -> nn.Module:
    """Build a timm architecture without head and without pretrained weights.

    Args:
        name: A name of `timm.list_models()`, with or without a pretrained tag (`"resnet50"`, `"resnet50.a1_in1k"`).
        image_size: Height and width in pixels; architectures with position tables are sized for it.
        num_channels: Channels of the image.
        backbone_kwargs: Further arguments of `timm.create_model`.
        stride_in_first_convolution: The layout of a bottleneck of He et al., 2015; see `CSSFEConfig`.

    Returns:
        The timm model.

    Raises:
        ValueError: Unknown architecture, arguments that it does not take, or one without bottlenecks to lay out.
    """
    if not timm.is_model(name.split(".")[0]):
        near = difflib.get_close_matches(name, timm.list_models(), n=3)
        mend = f"did you mean {' or '.join(near)}?" if near else "see timm.list_models() for what exists."
        raise ValueError(f"unknown backbone {name!r}; {mend}")
    try:
        timm.get_pretrained_cfg(name)
    except RuntimeError as error:
        architecture, _, tag = name.partition(".")
        tags = [other.partition(".")[2] for other in timm.list_pretrained(f"{architecture}.*")]
        mend = f"choose one of {', '.join(tags)}, or none." if tags else f"write {architecture!r} alone."
        raise ValueError(f"unknown pretrained tag {tag!r} of backbone {architecture!r}; {mend}") from error
    options = {"num_classes": 0, "in_chans": num_channels, **(backbone_kwargs or {})}
    try:
        with torch.device("meta"):
            accepted = inspect.signature(type(timm.create_model(name, **options)).__init__).parameters
        # Architectures with position tables or windows are sized for the image, and asked to take others too.
        if "img_size" in accepted:
            options.setdefault("img_size", tuple(image_size))
        if "dynamic_img_size" in accepted:
            options.setdefault("dynamic_img_size", True)
        elif "strict_img_size" in accepted:
            options.setdefault("strict_img_size", False)
        model = timm.create_model(name, **options)
    except (TypeError, AssertionError, RuntimeError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise ValueError(
            f"backbone {name!r} cannot be built for {image_size[0]}x{image_size[1]} px with backbone_kwargs="
            f"{backbone_kwargs}: {reason}; change image_size or backbone_kwargs."
        ) from error
    if stride_in_first_convolution:
        _move_strides(model, name)
    return model


def _move_strides(model: nn.Module, name: str) -> None:
    """Let the first convolution (1x1) of each bottleneck take the stride of its second (3x3), in place."""
    blocks = [module for module in model.modules() if isinstance(module, Bottleneck)]
    # An anti-aliasing layer takes the stride in place of the convolution.
    plain = all(block.aa is None or isinstance(block.aa, nn.Identity) for block in blocks)
    if not isinstance(model, ResNet) or not blocks or not plain:
        raise ValueError(
            f"backbone {name!r} has no plain ResNet bottlenecks, so stride_in_first_convolution does not apply; set it "
            "to False, or choose one such as resnet50."
        )
    for block in blocks:
        block.conv1.stride, block.conv2.stride = block.conv2.stride, block.conv1.stride


class CSSFEBackbone(nn.Module):
    """A timm architecture that returns feature maps, whatever its native output is.

    Args:
        config: A `CSSFEConfig`; `backbone`, `backbone_kwargs`, `stride_in_first_convolution`, `image_size` and
            `num_channels` are read.

    Attributes:
        num_features: Channels of the feature maps.
        map_size: Height and width of the maps at the configured image size.

    Raises:
        ValueError: Unknown architecture, or one without a spatial map.
    """

    def __init__(self, config):
        super().__init__()
        self.name = config.backbone
        self.image_size = config.image_height_and_width
        self.timm_model: Any = self._build(config, self.image_size)
        with torch.device("meta"), torch.inference_mode(False), torch.enable_grad():
            probe, output = self._probe(config, self.image_size)
            self.unused_children = self._remove_unused_children(probe, output)
        self.layout = self._find_layout(output)
        self.num_prefix_tokens = getattr(probe, "num_prefix_tokens", 0) or 0
        maps = self._as_maps(output, self.image_size)
        self.num_features: int = maps.shape[1]
        self.map_size: tuple[int, int] = (maps.shape[2], maps.shape[3])
        if self.map_size == (1, 1) and not self._grows(config):
            self._refuse(output)
        self.gradient_checkpointing = False  # by this attribute transformers finds what can recompute activations
        modules: list[Any] = list(self.timm_model.modules())
        for module in modules:
            module._is_timm_module = True  # for `CSSFEPreTrainedModel._init_weights`
            for tensor in [*module.parameters(recurse=False), *module.buffers(recurse=False)]:
                # By this mark transformers leaves what timm has initialised alone. A tensor on the meta device has no
                # memory yet: it is either loaded or initialised later.
                if not tensor.is_meta:
                    tensor._is_hf_initialized = True

    def _build(self, config, image_size: tuple[int, int]) -> nn.Module:
        return build_timm_model(
            self.name, image_size, config.num_channels, config.backbone_kwargs, config.stride_in_first_convolution
        )

    def _probe(self, config, image_size: tuple[int, int]) -> tuple[Any, torch.Tensor]:
        """Build the architecture for an image size and run it once; to be called on the meta device."""
        probe: Any = self._build(config, image_size).eval()
        try:
            return probe, probe.forward_features(torch.empty(1, config.num_channels, *image_size))
        except (AssertionError, RuntimeError, ValueError) as error:
            reason = (str(error) or type(error).__name__).splitlines()[0]
            raise ValueError(
                f"backbone {self.name!r} does not take {image_size[0]}x{image_size[1]} px: {reason}; change image_size "
                "or give the size as img_size in backbone_kwargs, if the architecture takes one."
            ) from error

    def _grows(self, config) -> bool:
        """Whether one position is all there is because the image is small, rather than a pooled or class token."""
        larger = (4 * self.image_size[0], 4 * self.image_size[1])
        try:
            with torch.device("meta"):
                _, output = self._probe(config, larger)
            return self._as_maps(output, larger).shape[2:] != (1, 1)
        except ValueError:
            return False

    def _remove_unused_children(self, probe: nn.Module, output) -> tuple[str, ...]:
        """Drop what `num_classes=0` leaves behind the features (VGG-16's pre-logits alone hold 119 M parameters)."""
        if not isinstance(output, torch.Tensor):
            self._refuse(output)
        output.sum().backward()
        unused = tuple(
            name
            for name, child in probe.named_children()
            if list(child.parameters()) and all(parameter.grad is None for parameter in child.parameters())
        )
        for name in unused:
            setattr(self.timm_model, name, nn.Identity())
        return unused

    def _refuse(self, output):
        shape = tuple(output.shape) if isinstance(output, torch.Tensor) else type(output).__name__
        raise ValueError(
            f"backbone {self.name!r} has no spatial feature map at {self.image_size[0]}x{self.image_size[1]} px (it "
            f"returns {shape}); choose one whose features are maps or patch tokens."
        )

    def _find_layout(self, output) -> str:
        if not isinstance(output, torch.Tensor) or output.ndim not in (3, 4):
            self._refuse(output)
        if output.ndim == 3:
            return "tokens"
        if getattr(self.timm_model, "output_fmt", None) == "NHWC":
            return "channels_last"
        num_features = getattr(self.timm_model, "num_features", output.shape[1])
        last = output.shape[-1] == num_features and output.shape[1] != num_features
        return "channels_last" if last else "channels_first"

    def _token_grid(self, num_tokens: int, image_size: tuple[int, int]) -> tuple[int, int]:
        """Rows and columns of patch tokens for an image of the given size."""
        patch_embed: Any = getattr(self.timm_model, "patch_embed", None)
        if hasattr(patch_embed, "dynamic_feat_size"):
            height, width = patch_embed.dynamic_feat_size(image_size)
        else:
            # Patches are square, so the grid has the image's aspect ratio.
            height = round((num_tokens * image_size[0] / image_size[1]) ** 0.5)
            width = num_tokens // max(height, 1)
        if height * width != num_tokens:
            raise ValueError(
                f"backbone {self.name!r} returns {num_tokens} patch tokens for {image_size[0]}x{image_size[1]} px, "
                "which form no grid; choose one whose features are maps or patch tokens."
            )
        return height, width

    def _as_maps(self, output: torch.Tensor, image_size: tuple[int, int]) -> torch.Tensor:
        if self.layout == "channels_first":
            return output
        if self.layout == "channels_last":
            # (batch, height, width, channels) -> (batch, channels, height, width)
            return output.permute(0, 3, 1, 2)
        patches = output[:, self.num_prefix_tokens :]
        height, width = self._token_grid(patches.shape[1], image_size)
        # (batch, tokens, channels) -> (batch, channels, height, width)
        return patches.transpose(1, 2).unflatten(2, (height, width))

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Switch the recomputation of activations in the backward pass on or off.

        Args:
            enable: Whether activations are recomputed.

        Raises:
            ValueError: The architecture cannot.
        """
        try:
            self.timm_model.set_grad_checkpointing(enable)
        except (AssertionError, AttributeError) as error:
            if enable:
                raise ValueError(
                    f"backbone {self.name!r} cannot recompute activations; turn gradient checkpointing off, or choose "
                    "another backbone."
                ) from error

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Compute feature maps.

        Args:
            pixel_values: `(batch, num_channels, height, width)`, normalised.

        Returns:
            `(batch, num_features, height', width')`.

        Raises:
            ValueError: The backbone does not take images of this size.
        """
        image_size = (pixel_values.shape[-2], pixel_values.shape[-1])
        if torch.compiler.is_compiling() or image_size == self.image_size:
            return self._as_maps(self.timm_model.forward_features(pixel_values), image_size)
        try:
            return self._as_maps(self.timm_model.forward_features(pixel_values), image_size)
        except (AssertionError, RuntimeError) as error:
            if isinstance(error, torch.OutOfMemoryError):
                raise
            reason = (str(error) or type(error).__name__).splitlines()[0]
            raise ValueError(
                f"backbone {self.name!r}, built for {self.image_size[0]}x{self.image_size[1]} px, does not take "
                f"{image_size[0]}x{image_size[1]} px: {reason}; resize the images or build the model for that size."
            ) from error


def find_pretrained_file(name: str) -> str:
    """Download (once) the safetensors file of timm's pretrained weights and return its local path.

    Args:
        name: timm architecture, with or without tag.

    Returns:
        Path of the file in the Hub cache.

    Raises:
        ValueError: timm has no pretrained weights for the name, they are not safetensors, or the Hub is out of reach.
    """
    pretrained = timm.get_pretrained_cfg(name)
    if pretrained is None or not pretrained.hf_hub_id:
        raise ValueError(f"timm has no pretrained weights for {name!r}; pass a safetensors file or False.")
    try:
        path = cached_file(pretrained.hf_hub_id, "model.safetensors")
    except (OSError, ValueError) as error:
        raise ValueError(
            f"cannot get the pretrained weights of {name!r} from the Hub repository {pretrained.hf_hub_id!r}: "
            f"{str(error).splitlines()[0]} Pass a local safetensors file as backbone_weights instead."
        ) from error
    if path is None:
        raise ValueError(f"the Hub repository {pretrained.hf_hub_id!r} has no model.safetensors; pass a local file.")
    return path


def load_backbone_weights(backbone: CSSFEBackbone, path: str | os.PathLike) -> None:
    """Load a safetensors file into a backbone, in place.

    Position tables of another image size are resampled, and a classification head is dropped, by timm's own rules.
    Half-precision files are cast to the backbone's dtype.

    Args:
        backbone: The backbone to fill.
        path: A `.safetensors` file with timm's parameter names, or that of a trained `CSSFEForImageClassification`.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: Not a safetensors file, or its tensors do not fit the architecture.
    """
    path = os.fspath(path)
    if not path.endswith(".safetensors"):
        raise ValueError(f"backbone weights {path!r} are no .safetensors file; other formats can carry code.")
    if not os.path.isfile(path):
        raise FileNotFoundError(f"no backbone weights at {path!r}; give an existing .safetensors file.")
    try:
        state = timm.models.load_state_dict(path)
    except Exception as error:  # safetensors raises its own untyped error
        raise ValueError(f"backbone weights {path!r} cannot be read: {str(error).splitlines()[0]}") from error
    # A trained model gives its backbone alone, so its classes and its head may be others.
    if any(key.startswith(_PREFIX_IN_A_MODEL) for key in state):
        state = {
            key.removeprefix(_PREFIX_IN_A_MODEL): value
            for key, value in state.items()
            if key.startswith(_PREFIX_IN_A_MODEL)
        }
    model = backbone.timm_model
    pretrained_cfg = getattr(model, "pretrained_cfg", {})
    heads = pretrained_cfg.get("classifier") or ()
    heads = ((heads,) if isinstance(heads, str) else tuple(heads)) + backbone.unused_children
    state = {key: value for key, value in state.items() if not key.startswith(tuple(f"{head}." for head in heads))}
    filter_state = getattr(sys.modules[type(model).__module__], "checkpoint_filter_fn", None)
    if filter_state is not None:
        state = filter_state(state, model)
    expected = model.state_dict()
    state.update({key: expected[key] for key in expected.keys() - state.keys() if key.endswith("num_batches_tracked")})
    differing = [
        f"{key} {tuple(value.shape)} instead of {tuple(expected[key].shape)}"
        for key, value in state.items()
        if key in expected and value.shape != expected[key].shape
    ]
    for problem, keys in (
        ("lacks", sorted(expected.keys() - state.keys())),
        ("has unknown", sorted(state.keys() - expected.keys())),
        ("has other shapes in", differing),
    ):
        if keys:
            more = f" and {len(keys) - 3} more" if len(keys) > 3 else ""
            raise ValueError(
                f"backbone weights {path!r} do not fit {backbone.name!r}: the file {problem} {', '.join(keys[:3])}"
                f"{more}; check the backbone's name and backbone_kwargs."
            )
    model.load_state_dict(state)


__all__ = ["CSSFEBackbone", "build_timm_model", "find_pretrained_file", "load_backbone_weights"]
