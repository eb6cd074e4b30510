# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""CSSFE: Category-Specific Selective Feature Enhancement for long-tailed multi-label image classification.

Paper: "Category-Specific Selective Feature Enhancement for Long-Tailed Multi-Label Image Classification", ICCV 2025.

Axis letters: B images, C classes, D feature channels, H x W positions of a map, T width of the label embeddings,
h `hidden_size`. Features F are (B, D, H, W), class activation maps CAM (B, C, H, W), label tokens LE (C, h).
"""

import importlib
import importlib.util
import math
import os
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import ClassVar

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.activations import ACT2FN
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.processing_utils import Unpack
from transformers.utils import ModelOutput, TransformersKwargs
from transformers.utils.generic import can_return_tuple
from transformers.utils.output_capturing import OutputRecorder, capture_outputs

from .backbone_cssfe import CSSFEBackbone, find_pretrained_file, load_backbone_weights
from .configuration_cssfe import GROUPS, CSSFEConfig
from .image_processing_cssfe import CSSFEImageProcessor
from .loss_cssfe import AsymmetricLoss, BinaryCrossEntropyLoss


# Above this number of classes the (C, C) attention of the enhancement is computed in blocks of that many rows, so that
# memory grows linearly with C. At 80 or 1,203 classes one block is both the fastest and small.
ENHANCEMENT_ROWS = 2048
# Beyond that number the fusion attends in blocks of queries too, so many that queries times keys stay below this.
FUSION_ENTRIES = 2**22


@dataclass
class CSSFEModelOutput(ModelOutput):
    """Output of `CSSFEModel`.

    Args:
        last_hidden_state (`torch.FloatTensor` of shape `(B, D, H, W)`):
            The features F.
        class_tokens (`torch.FloatTensor` of shape `(B, C, h)`, *optional*):
            The fused token of each class; `None` for net0.
        label_tokens (`torch.FloatTensor` of shape `(B, C, h)`, *optional*):
            The transferred label embeddings LE, a view of the same ones for every image; `None` for net0.
        class_activation_maps (`torch.FloatTensor` of shape `(B, C, H, W)`):
            Maps before enhancement.
        enhanced_activation_maps (`torch.FloatTensor` of shape `(B, C, H, W)`, *optional*):
            Maps after enhancement; `None` for net0 and net1.
        hidden_states (`tuple(torch.FloatTensor)`, *optional*):
            With `output_hidden_states=True`: the features `(B, D, H, W)` and, from net1 on, the fusion block's output
            `(B, C, h)`.
        attentions (`tuple(torch.FloatTensor)`, *optional*):
            With `output_attentions=True`: the enhancement matrix M `(B, 1, C, C)`, the same for every image, of net2
            and net3, and from net1 on the fusion block's weights `(B, heads, C, 2C)` or, with channel fusion,
            `(B, heads, C, C)`.
    """

    last_hidden_state: torch.FloatTensor | None = None
    class_tokens: torch.FloatTensor | None = None
    label_tokens: torch.FloatTensor | None = None
    class_activation_maps: torch.FloatTensor | None = None
    enhanced_activation_maps: torch.FloatTensor | None = None
    hidden_states: tuple[torch.FloatTensor, ...] | None = None
    attentions: tuple[torch.FloatTensor, ...] | None = None


@dataclass
class CSSFEImageClassifierOutput(ModelOutput):
    """Output of `CSSFEForImageClassification`.

    Args:
        loss (`torch.FloatTensor` of shape `()`, *optional*):
            Returned when labels are given.
        logits (`torch.FloatTensor` of shape `(B, C)`):
            Scores before the sigmoid.
        class_activation_maps (`torch.FloatTensor` of shape `(B, C, H, W)`):
            Maps before enhancement.
        enhanced_activation_maps (`torch.FloatTensor` of shape `(B, C, H, W)`, *optional*):
            Maps after enhancement; `None` for net0 and net1.
        hidden_states (`tuple(torch.FloatTensor)`, *optional*):
            See `CSSFEModelOutput`.
        attentions (`tuple(torch.FloatTensor)`, *optional*):
            See `CSSFEModelOutput`.
    """

    loss: torch.FloatTensor | None = None
    logits: torch.FloatTensor | None = None
    class_activation_maps: torch.FloatTensor | None = None
    enhanced_activation_maps: torch.FloatTensor | None = None
    hidden_states: tuple[torch.FloatTensor, ...] | None = None
    attentions: tuple[torch.FloatTensor, ...] | None = None


class CSSFELabelEncoder(nn.Module):
    """Transfers frozen label embeddings `(C, T)` to label tokens LE `(C, h)`.

    With `center_label_embeddings` a mean over classes is taken off and each row scaled to length sqrt(T), so that its
    entries are of size one whatever the encoder's scale was. The mean for a class is that of the classes no rarer than
    its group: a mean over all of them would carry the rarer classes' embeddings to the more frequent ones, around the
    mask of the enhancement.
    """

    def __init__(self, config: CSSFEConfig, hidden_size: int):
        super().__init__()
        width = config.label_embedding_dim
        self.center = config.center_label_embeddings
        if config.label_projection == "linear":
            self.projection: nn.Module = nn.Linear(width, hidden_size)
        else:
            self.projection = nn.Sequential(
                nn.Linear(width, 2 * hidden_size),
                nn.GELU(),
                nn.Dropout(config.label_dropout),
                nn.Linear(2 * hidden_size, hidden_size),
            )
        self.dropout = nn.Dropout(config.label_dropout)

    def forward(self, label_embeddings: torch.Tensor, group_ranks: torch.Tensor) -> torch.Tensor:
        """Transfer `(C, T)` embeddings of classes with `(C,)` ranks, 0 head to 2 tail, to `(C, h)`."""
        if self.center:
            means = torch.stack([self._mean(label_embeddings, group_ranks <= rank) for rank in range(len(GROUPS))])
            label_embeddings = F.normalize(label_embeddings - means[group_ranks], dim=-1)
            label_embeddings = label_embeddings * math.sqrt(label_embeddings.shape[-1])
        dtype = next(self.projection.parameters()).dtype  # the embeddings stay fp32 in a half-precision model
        return self.dropout(self.projection(label_embeddings.to(dtype)))

    @staticmethod
    def _mean(label_embeddings: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
        """Mean of the chosen rows; 0 for fewer than two, as a class that is alone would be centred to nothing."""
        # A product with the mask, as a matrix product would round to half precision under autocast.
        total = (label_embeddings * chosen[:, None]).sum(dim=0)
        count = chosen.sum()
        return torch.where(count > 1, total / count.clamp(min=1), 0)


class CSSFEMapEnhancement(nn.Module):
    """Progressive attention enhancement: classes lend their maps to rarer ones (paper, section "PAE").

    `M = softmax(Q(LE) K(LE)^T / sqrt(d_k))`, masked so that class `a` receives from class `b` only if `b`'s group is
    not rarer than `a`'s, then `CAM_o = M' V(CAM)`: a matrix product over classes, although the paper prints an
    element-wise sign.

    What the mask does depends on `mask_mode`. `"multiply_weights"` (paper) and `"remove"` (corrected) both keep a
    rarer class's map from every more frequent one; with `"multiply_weights"` its label embedding still moves the
    softmax's denominator, with `"remove"` it does not. `"multiply_scores"` (released code) turns a masked score into
    0, whose weight is exp(0): reverse flow is not blocked at all.
    """

    def __init__(self, config: CSSFEConfig, hidden_size: int, map_size: tuple[int, int]):
        super().__init__()
        attention_size = config.attention_size or hidden_size
        self.scaling = attention_size**-0.5
        self.mask_mode = config.mask_mode if config.uses_mask else None
        self.residual = config.enhancement_residual
        self.value_mode = config.map_value_projection
        self.map_size = map_size
        self.query = nn.Linear(hidden_size, attention_size)
        self.key = nn.Linear(hidden_size, attention_size)
        if self.value_mode == "per_class":
            # V is a linear map of which the paper says no more. One that mixes classes would undo the mask, and one
            # over positions would fix the map size, so the default is diagonal.
            self.value_scale = nn.Parameter(torch.ones(config.num_labels))
            self.value_offset = nn.Parameter(torch.zeros(config.num_labels))
        elif self.value_mode == "spatial":
            self.value = nn.Linear(math.prod(map_size), math.prod(map_size))
        self.gate = nn.Linear(hidden_size, math.prod(map_size)) if config.map_gate else None

    def rows(self, label_tokens: torch.Tensor, group_ranks: torch.Tensor, start: int, stop: int) -> torch.Tensor:
        """Rows `start` to `stop` of the masked attention M', `(stop - start, C)`, in fp32."""
        query = self.query(label_tokens[start:stop])
        scores = (query @ self.key(label_tokens).transpose(0, 1)).float() * self.scaling
        if self.mask_mode is None:
            return scores.softmax(dim=-1)
        # Row: receiving class. Column: giving class. Head 0, medium 1, tail 2.
        allowed = group_ranks[None, :] <= group_ranks[start:stop, None]
        if self.mask_mode == "remove":
            return scores.masked_fill(~allowed, -torch.inf).softmax(dim=-1)
        if self.mask_mode == "multiply_weights":
            return scores.softmax(dim=-1) * allowed
        return (scores * allowed).softmax(dim=-1)

    def class_attention(self, label_tokens: torch.Tensor, group_ranks: torch.Tensor) -> torch.Tensor:
        """The whole masked attention M' `(C, C)`."""
        return self.rows(label_tokens, group_ranks, 0, label_tokens.shape[0])

    def _values(self, maps: torch.Tensor) -> torch.Tensor:
        if self.value_mode == "per_class":
            return maps * self.value_scale[:, None] + self.value_offset[:, None]
        return self.value(maps) if self.value_mode == "spatial" else maps

    def forward(
        self,
        maps: torch.Tensor,
        label_tokens: torch.Tensor,
        group_ranks: torch.Tensor,
        attention: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Enhance maps.

        Args:
            maps: CAM `(B, C, H, W)`.
            label_tokens: LE `(C, h)`.
            group_ranks: `(C,)` integers, 0 head to 2 tail.
            attention: M' `(C, C)` if it is known already.

        Returns:
            The enhanced maps `(B, C, H, W)`, and M' as `(B, 1, C, C)`; `None` for it where it was computed in blocks.
        """
        batch, num_classes, height, width = maps.shape
        if (self.gate is not None or self.value_mode == "spatial") and (height, width) != self.map_size:
            fixing = "map_gate" if self.gate is not None else "map_value_projection='spatial'"
            raise ValueError(
                f"{fixing} fixes maps of {self.map_size[0]}x{self.map_size[1]}, got {height}x{width}: resize images to "
                "the configured image_size, or turn that field off for other sizes."
            )
        # (B, C, H, W) -> (B, C, H * W)
        values = self._values(maps.flatten(2))
        if attention is None and num_classes > ENHANCEMENT_ROWS:
            context = torch.cat(
                [
                    checkpoint(self._attend_rows, values, label_tokens, group_ranks, start, use_reentrant=False)
                    for start in range(0, num_classes, ENHANCEMENT_ROWS)
                ],
                dim=1,
            )
        else:
            if attention is None:
                attention = self.class_attention(label_tokens, group_ranks)
            # (C, C) @ (B, C, H * W) -> (B, C, H * W)
            context = attention.to(values.dtype) @ values
        context = context.unflatten(2, (height, width))
        enhanced = maps + context if self.residual else context
        if self.gate is not None:
            # (C, h) -> (C, H * W) -> (C, H, W), the same gate for every image
            enhanced = enhanced * self.gate(label_tokens).sigmoid().unflatten(1, (height, width))
        weights = None if attention is None else attention.expand(batch, 1, num_classes, num_classes)
        return enhanced, weights

    def _attend_rows(self, values, label_tokens, group_ranks, start):
        stop = min(start + ENHANCEMENT_ROWS, label_tokens.shape[0])
        return self.rows(label_tokens, group_ranks, start, stop).to(values.dtype) @ values


def pool_features(features: torch.Tensor, maps: torch.Tensor, pooling: str) -> torch.Tensor:
    """Category-specific features: for each class, the mean over positions of features times map.

    One batched matrix product; `(B, C, D, H, W)` never exists.

    Args:
        features: F `(B, D, H, W)`.
        maps: `(B, C, H, W)`.
        pooling: `"mean"`, `"relu"` (negative map values count as 0) or `"softmax"` (weights over positions).

    Returns:
        FE `(B, C, D)`.
    """
    weights = maps.flatten(2)
    if pooling == "softmax":
        weights = weights.float().softmax(dim=-1).to(features.dtype)
    else:
        # Dividing before the product keeps fp16 within its range.
        weights = (weights.relu() if pooling == "relu" else weights) / weights.shape[-1]
    # (B, C, H * W) @ (B, H * W, D) -> (B, C, D)
    return weights @ features.flatten(2).transpose(1, 2)


def eager_attention_forward(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    **kwargs,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention written out; `(batch, heads, tokens, head_dim)` in, `(batch, tokens, heads, head_dim)` out."""
    weights = (query @ key.transpose(2, 3)) * scaling
    if attention_mask is not None:
        weights = weights + attention_mask
    weights = weights.softmax(dim=-1, dtype=torch.float32).to(query.dtype)
    weights = F.dropout(weights, p=dropout, training=module.training)
    return (weights @ value).transpose(1, 2).contiguous(), weights


class CSSFEFusionAttention(nn.Module):
    """Attention from the C label positions to all tokens.

    Only the outputs at the label positions are ever used, so only they become queries. Label tokens are the same for
    every image, so their queries, keys and values are computed once a batch.
    """

    def __init__(self, config: CSSFEConfig, hidden_size: int):
        super().__init__()
        self.config = config
        self.num_heads = config.num_attention_heads
        self.head_dim = config.attention_head_dim
        self.scaling = self.head_dim**-0.5
        self.is_causal = False
        self.attention_dropout = config.attention_probs_dropout_prob
        inner = self.num_heads * self.head_dim
        self.query = nn.Linear(hidden_size, inner, bias=config.qkv_bias)
        self.key = nn.Linear(hidden_size, inner, bias=config.qkv_bias)
        self.value = nn.Linear(hidden_size, inner, bias=config.qkv_bias)
        self.output = nn.Linear(inner, hidden_size)

    def _split_heads(self, hidden_states: torch.Tensor) -> torch.Tensor:
        # (batch, tokens, heads * head_dim) -> (batch, heads, tokens, head_dim)
        return hidden_states.unflatten(-1, (self.num_heads, self.head_dim)).transpose(1, 2)

    def forward(
        self, label_tokens: torch.Tensor, image_tokens: torch.Tensor | None, **kwargs
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Attend.

        Args:
            label_tokens: `(1 or B, C, h)`, the queries, and keys and values of the second half.
            image_tokens: `(B, C, h)`, keys and values of the first half; `None` for channel fusion.
            **kwargs: Handed to the attention implementation.

        Returns:
            `(B, C, h)` and the weights, if the implementation gives them.
        """
        query = self._split_heads(self.query(label_tokens))
        key = self._split_heads(self.key(label_tokens))
        value = self._split_heads(self.value(label_tokens))
        if image_tokens is not None:
            shape = (image_tokens.shape[0], -1, -1, -1)
            query = query.expand(shape)
            key = torch.cat([self._split_heads(self.key(image_tokens)), key.expand(shape)], dim=2)
            value = torch.cat([self._split_heads(self.value(image_tokens)), value.expand(shape)], dim=2)
        num_classes = query.shape[2]
        if num_classes <= ENHANCEMENT_ROWS:
            output, weights = self._attend(query, key, value, **kwargs)
        else:
            # With dropout most devices write the (C, 2C) weights of every head out; blocks of queries keep them small.
            rows = max(1, FUSION_ENTRIES // key.shape[2])
            blocks = [
                checkpoint(self._attend, query[:, :, start : start + rows], key, value, use_reentrant=False, **kwargs)
                for start in range(0, num_classes, rows)
            ]
            output, weights = torch.cat([block for block, _ in blocks], dim=1), None
        # (B, C, heads, head_dim) -> (B, C, heads * head_dim)
        return self.output(output.flatten(2)), weights

    def _attend(self, query, key, value, **kwargs):
        attention: Callable = ALL_ATTENTION_FUNCTIONS.get_interface(
            self.config._attn_implementation, eager_attention_forward
        )
        dropout = self.attention_dropout if self.training else 0.0
        return attention(self, query, key, value, None, scaling=self.scaling, dropout=dropout, **kwargs)


class CSSFEFusionBlock(GradientCheckpointingLayer):
    """One pre-norm Transformer block over `[FE; LE]`, evaluated at the C label positions only."""

    def __init__(self, config: CSSFEConfig, hidden_size: int):
        super().__init__()
        self.residual = config.fusion_residual
        self.attention_norm = nn.LayerNorm(hidden_size, eps=config.layer_norm_eps)
        self.attention = CSSFEFusionAttention(config, hidden_size)
        self.feed_forward_norm = nn.LayerNorm(hidden_size, eps=config.layer_norm_eps)
        self.intermediate = nn.Linear(hidden_size, config.intermediate_size)
        self.activation = ACT2FN[config.hidden_act]
        self.output = nn.Linear(config.intermediate_size, hidden_size)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, label_tokens: torch.Tensor, image_tokens: torch.Tensor | None, **kwargs) -> torch.Tensor:
        """Fuse `(1 or B, C, h)` label tokens with `(B, C, h)` image tokens into `(B, C, h)`."""
        normed = None if image_tokens is None else self.attention_norm(image_tokens)
        attended, _ = self.attention(self.attention_norm(label_tokens), normed, **kwargs)
        attended = self.dropout(attended)
        # Without residuals (released code) a token survives only through what attention and feed-forward make of it.
        hidden_states = label_tokens + attended if self.residual else attended
        transformed = self.intermediate(self.feed_forward_norm(hidden_states))
        transformed = self.dropout(self.output(self.dropout(self.activation(transformed))))
        return hidden_states + transformed if self.residual else transformed


class CSSFEFusion(nn.Module):
    """Fusion of category-specific features FE with label tokens LE."""

    def __init__(self, config: CSSFEConfig, feature_size: int, hidden_size: int):
        super().__init__()
        self.by_channels = config.fusion_mode == "channels"
        same = feature_size == hidden_size
        self.feature_projection = nn.Identity() if same else nn.Linear(feature_size, hidden_size)
        self.channel_projection = nn.Linear(2 * hidden_size, hidden_size) if self.by_channels else None
        self.block = CSSFEFusionBlock(config, hidden_size)
        self.norm = nn.LayerNorm(hidden_size, eps=config.layer_norm_eps) if config.fusion_final_norm else nn.Identity()

    def forward(self, features: torch.Tensor, label_tokens: torch.Tensor, **kwargs) -> torch.Tensor:
        """Fuse `(B, C, D)` features with `(C, h)` label tokens into `(B, C, h)`."""
        features = self.feature_projection(features)
        if not self.by_channels:
            return self.norm(self.block(label_tokens[None], features, **kwargs))
        # A linear layer on [FE, LE] is the sum of one on each, and LE's is the same for every image.
        weight_features, weight_labels = self.channel_projection.weight.chunk(2, dim=1)
        tokens = F.linear(features, weight_features) + F.linear(
            label_tokens, weight_labels, self.channel_projection.bias
        )
        return self.norm(self.block(tokens, None, **kwargs))


class CSSFEClassifier(nn.Module):
    """A logit for each class from its own token."""

    def __init__(self, config: CSSFEConfig, hidden_size: int):
        super().__init__()
        self.weight = self.bias = None
        if config.classifier == "per_class_linear":
            self.weight = nn.Parameter(torch.empty(config.num_labels, hidden_size))
            self.bias = nn.Parameter(torch.empty(config.num_labels))

    def forward(self, class_tokens: torch.Tensor, label_tokens: torch.Tensor) -> torch.Tensor:
        """Classify `(B, C, h)` tokens, with weights of their own or the `(B, C, h)` label tokens, into `(B, C)`."""
        if self.weight is None:
            return (class_tokens * label_tokens).sum(dim=-1)
        return (class_tokens * self.weight).sum(dim=-1) + self.bias


class CSSFEPreTrainedModel(PreTrainedModel):
    """Weight initialisation, saving and loading of CSSFE models."""

    config: CSSFEConfig
    config_class = CSSFEConfig
    base_model_prefix = "cssfe"
    main_input_name = "pixel_values"
    input_modalities = ("image",)
    supports_gradient_checkpointing = True
    _no_split_modules: ClassVar = ["CSSFEBackbone", "CSSFEFusionBlock"]
    _supports_sdpa = True
    _supports_attention_backend = True
    _keep_in_fp32_modules_strict: ClassVar = ["label_embeddings"]
    _can_record_outputs: ClassVar = {
        "hidden_states": [
            OutputRecorder(CSSFEBackbone, capture_initial_hidden_state=False),
            OutputRecorder(CSSFEFusionBlock, capture_initial_hidden_state=False),
        ],
        "attentions": [
            OutputRecorder(CSSFEMapEnhancement, index=1),
            OutputRecorder(CSSFEFusionAttention, index=1),
        ],
    }

    @torch.no_grad()
    def _init_weights(self, module):
        if getattr(module, "_is_timm_module", False):
            self._init_timm_module(module)
        elif isinstance(module, nn.Linear | nn.Conv2d):
            # torch's own defaults, as in the released code: uniform in +-1/sqrt(fan_in).
            bound = 1 / math.sqrt(module.weight[0].numel())
            init.uniform_(module.weight, -bound, bound)
            if module.bias is not None:
                init.uniform_(module.bias, -bound, bound)
        elif isinstance(module, nn.LayerNorm):
            init.ones_(module.weight)
            init.zeros_(module.bias)
        elif isinstance(module, CSSFEClassifier) and module.weight is not None:
            bound = 1 / math.sqrt(module.weight.shape[1])
            init.uniform_(module.weight, -bound, bound)
            init.uniform_(module.bias, -bound, bound)
        elif isinstance(module, CSSFEMapEnhancement) and module.value_mode == "per_class":
            init.ones_(module.value_scale)
            init.zeros_(module.value_offset)
        elif isinstance(module, CSSFEModel) and module.config.uses_fusion:
            init.copy_(module.label_embeddings, _random_label_embeddings(module.config))
            init.copy_(module.group_ranks, torch.tensor(module.config.group_ranks))
        else:
            super()._init_weights(module)

    def _init_timm_module(self, module):
        """Fill what a checkpoint lacked; what timm itself has initialised is marked as such and stays."""
        if hasattr(module, "init_non_persistent_buffers"):
            module.init_non_persistent_buffers()
        for name, parameter in module.named_parameters(recurse=False):
            if parameter.ndim > 1:
                init.trunc_normal_(parameter, std=0.02)
            elif name.endswith("bias"):
                init.zeros_(parameter)
            else:
                init.ones_(parameter)
        for name, buffer in module.named_buffers(recurse=False):
            if name == "running_var":
                init.ones_(buffer)
            elif name in ("running_mean", "num_batches_tracked"):
                init.zeros_(buffer)

    def _set_gradient_checkpointing(self, enable: bool = True, *args, **kwargs):
        for module in self.modules():
            if isinstance(module, CSSFEBackbone):
                module.set_grad_checkpointing(enable)
        super()._set_gradient_checkpointing(enable, *args, **kwargs)

    @classmethod
    def from_pretrained(cls, *args, **kwargs):
        """Load as `PreTrainedModel.from_pretrained` does, so that logits equal the saved model's to the bit."""
        loaded = super().from_pretrained(*args, **kwargs)
        model = loaded[0] if isinstance(loaded, tuple) else loaded
        # Tensors mapped from a file start at any multiple of 8 bytes, and CPU matrix products round differently on
        # memory that is not aligned to 64.
        for tensor in [*model.parameters(), *model.buffers()]:
            if tensor.device.type == "cpu" and tensor.data_ptr() % 64:
                tensor.data = tensor.data.clone()
        return loaded

    def save_pretrained(self, save_directory, *args, **kwargs):
        """Save as `PreTrainedModel.save_pretrained` does, with the image processor beside the weights.

        An image processor that is in the folder already stays as it is.
        """
        super().save_pretrained(save_directory, *args, **kwargs)
        is_main_process = args[0] if args else kwargs.get("is_main_process", True)
        if is_main_process and not os.path.exists(os.path.join(save_directory, "preprocessor_config.json")):
            CSSFEImageProcessor.from_model_config(self.config).save_pretrained(save_directory)


def _random_label_embeddings(config: CSSFEConfig) -> torch.Tensor:
    """Placeholder embeddings of unit length, the same for every model of the same shape."""
    generator = torch.Generator().manual_seed(0)
    embeddings = torch.randn(config.num_labels, config.label_embedding_dim, generator=generator, device="cpu")
    return F.normalize(embeddings, dim=-1)


class CSSFEModel(CSSFEPreTrainedModel):
    """The network without classifier: features, class activation maps, their enhancement, and fusion.

    Args:
        config: The configuration; weights are random, and nothing is downloaded.
    """

    def __init__(self, config: CSSFEConfig):
        super().__init__(config)
        self.backbone = CSSFEBackbone(config)
        feature_size = config.feature_size or self.backbone.num_features
        same = feature_size == self.backbone.num_features
        self.feature_projection = nn.Identity() if same else nn.Conv2d(self.backbone.num_features, feature_size, 1)
        self.class_activation = nn.Conv2d(feature_size, config.num_labels, 1)
        self.hidden_size = config.hidden_size or feature_size
        if config.uses_fusion:
            device = self.class_activation.weight.device  # that of a surrounding `torch.device`, meta included
            self.label_embeddings = nn.Buffer(_random_label_embeddings(config).to(device))
            self.group_ranks = nn.Buffer(torch.tensor(config.group_ranks), persistent=False)
            self.label_encoder = CSSFELabelEncoder(config, self.hidden_size)
            self.fusion = CSSFEFusion(config, feature_size, self.hidden_size)
        if config.uses_enhancement:
            self.enhancement = CSSFEMapEnhancement(config, self.hidden_size, self.backbone.map_size)
        self._label_cache: tuple | None = None
        self.post_init()

    def set_label_embeddings(self, label_embeddings: torch.Tensor) -> None:
        """Set the frozen label embeddings, in place.

        Args:
            label_embeddings: `(C, T)`, one row a class in the order of the class ids; kept in fp32.

        Raises:
            ValueError: Wrong shape, values that are not finite, or a net0, which has none.
        """
        config = self.config
        if not config.uses_fusion:
            raise ValueError("ablation 'net0' has no label embeddings; choose net1, net2 or net3.")
        expected = (config.num_labels, config.label_embedding_dim)
        if tuple(label_embeddings.shape) != expected:
            raise ValueError(
                f"label embeddings have the shape {tuple(label_embeddings.shape)}, expected {expected}: one row for "
                "each class, label_embedding_dim columns."
            )
        if not torch.isfinite(label_embeddings).all():
            raise ValueError("label embeddings hold NaN or infinite values; compute them again.")
        with torch.no_grad():
            self.label_embeddings.copy_(label_embeddings)
        self._label_cache = None

    def train(self, mode: bool = True):
        """Switch between training and evaluation, dropping what evaluation had cached."""
        self._label_cache = None
        return super().train(mode)

    def _apply(self, fn, recurse=True):
        """Move or cast the model, leaving the label embeddings in fp32, as loading in half precision does."""
        self._label_cache = None
        kept = self.label_embeddings if self.config.uses_fusion else None
        super()._apply(fn, recurse)
        if kept is not None and self.label_embeddings.dtype != kept.dtype:
            self.label_embeddings = nn.Buffer(kept.to(self.label_embeddings.device))
        return self

    def label_side(self) -> tuple[torch.Tensor, torch.Tensor | None]:
        """What depends on the labels alone: LE `(C, h)`, and M' `(C, C)` or `None`.

        In evaluation without gradient both are kept until a weight, the embeddings, the device or the autocast dtype
        change, or a forward pass with gradient runs. A write through `.data` escapes torch's change counters: call
        `.eval()` after one.
        """
        if torch.compiler.is_compiling():
            return self._compute_label_side()
        modules = [self.label_encoder, self.enhancement] if self.config.uses_enhancement else [self.label_encoder]
        tensors: list[torch.Tensor] = [self.label_embeddings, self.group_ranks]
        tensors += [parameter for module in modules for parameter in module.parameters()]
        if (
            torch.is_grad_enabled()
            or any(module.training for module in [self, *modules])
            or any(tensor.is_inference() for tensor in tensors)
        ):
            # Fused optimizers change weights without counting it; the gradients that they need come through here.
            self._label_cache = None
            return self._compute_label_side()
        device = self.label_embeddings.device.type
        autocast = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
        state = (autocast, [(tensor.data_ptr(), tensor._version, tensor.dtype) for tensor in tensors])
        if self._label_cache is None or self._label_cache[0] != state:
            # The aliases keep the memory that the state names from being given to other tensors.
            aliases = [tensor.detach() for tensor in tensors]
            self._label_cache = (state, self._compute_label_side(), aliases)
        return self._label_cache[1]

    def _compute_label_side(self) -> tuple[torch.Tensor, torch.Tensor | None]:
        label_tokens = self.label_encoder(self.label_embeddings, self.group_ranks)
        if not self.config.uses_enhancement or label_tokens.shape[0] > ENHANCEMENT_ROWS:
            return label_tokens, None
        return label_tokens, self.enhancement.class_attention(label_tokens, self.group_ranks)

    @capture_outputs(tie_last_hidden_states=False)
    def forward(self, pixel_values: torch.Tensor, **kwargs: Unpack[TransformersKwargs]) -> CSSFEModelOutput:
        """Run the network.

        Args:
            pixel_values: `(B, num_channels, height, width)`, normalised as the image processor does.
            **kwargs: `output_hidden_states`, `output_attentions`, `return_dict`; the rest goes to the attention.

        Returns:
            `CSSFEModelOutput`.
        """
        channels = self.config.num_channels
        if pixel_values is None or pixel_values.ndim != 4 or pixel_values.shape[1] != channels:
            shape = None if pixel_values is None else tuple(pixel_values.shape)
            raise ValueError(f"pixel_values must be (batch, {channels}, height, width), got {shape}.")
        features = self.feature_projection(self.backbone(pixel_values.to(self.dtype)))
        maps = self.class_activation(features)
        if not self.config.uses_fusion:
            return CSSFEModelOutput(last_hidden_state=features, class_activation_maps=maps)
        label_tokens, attention = self.label_side()
        enhanced = None
        if self.config.uses_enhancement:
            enhanced, _ = self.enhancement(maps, label_tokens, self.group_ranks, attention)
        pooled = pool_features(features, maps if enhanced is None else enhanced, self.config.map_pooling)
        return CSSFEModelOutput(
            last_hidden_state=features,
            class_tokens=self.fusion(pooled, label_tokens, **kwargs),
            label_tokens=label_tokens.expand(maps.shape[0], -1, -1),
            class_activation_maps=maps,
            enhanced_activation_maps=enhanced,
        )


class CSSFEForImageClassification(CSSFEPreTrainedModel):
    """CSSFE with its classifier: one logit a class, for images that carry any number of labels.

    Args:
        config: The configuration; weights are random, and nothing is downloaded. `from_backbone` is the factory for
            training, `from_pretrained` loads a trained model.
    """

    def __init__(self, config: CSSFEConfig):
        super().__init__(config)
        self.num_labels = config.num_labels
        self.cssfe = CSSFEModel(config)
        if config.uses_fusion:
            self.classifier = CSSFEClassifier(config, self.cssfe.hidden_size)
        self.criterion: nn.Module | None = None
        self.post_init()

    @classmethod
    def from_backbone(
        cls,
        backbone: str = "resnet50",
        *,
        label_names=None,
        class_counts=None,
        backbone_weights: bool | str | os.PathLike = True,
        label_embeddings="openai/clip-vit-base-patch32",
        seed: int = 0,
        **config_overrides,
    ) -> "CSSFEForImageClassification":
        """Build a model for training: pretrained backbone, embedded label names, new head.

        Args:
            backbone: A timm architecture.
            label_names: Class names, length C.
            class_counts: Training images of each class, length C.
            backbone_weights: `True` for timm's pretrained weights (from the Hub, safetensors only), a local
                `.safetensors` file with timm's names, or `False` for random weights.
            label_embeddings: A `(C, T)` tensor, a `.safetensors` file (aligned by name if it holds names), the name or
                folder of a CLIP model with text projection, or `"random"`. Not used by net0.
            seed: Seed of random label embeddings.
            **config_overrides: Any field of `CSSFEConfig`.

        Returns:
            The model, in evaluation mode as every new `PreTrainedModel` of transformers.

        Raises:
            ValueError: Unknown field, wrong shapes, or anything that does not fit; one line says what.
            FileNotFoundError: A file is missing.
        """
        known = {field.name for field in fields(CSSFEConfig)} | {"num_labels", "attn_implementation"}
        unknown = sorted(set(config_overrides) - known)
        if unknown:
            raise ValueError(_name_unknown("config field", unknown[0], sorted(known)))
        if label_names is not None:
            label_names = [str(name) for name in label_names]
        if class_counts is not None:
            class_counts = [int(count) for count in class_counts]
        # A first configuration finds every problem before anything is loaded or downloaded.
        settings = {"backbone": backbone, "label_names": label_names, "class_counts": class_counts, **config_overrides}
        config = CSSFEConfig(**settings)
        embeddings = None
        if config.uses_fusion:
            embeddings, provenance = _resolve_label_embeddings(label_embeddings, config, seed)
            settings |= {"label_embedding_dim": embeddings.shape[1], "label_embedding_provenance": provenance}
        settings |= _pretrained_statistics(backbone, settings)
        model = cls(CSSFEConfig(**settings))
        if embeddings is not None:
            model.set_label_embeddings(embeddings)
        if backbone_weights is not False:
            path = find_pretrained_file(backbone) if backbone_weights is True else backbone_weights
            load_backbone_weights(model.cssfe.backbone, path)
        return model.eval()

    def set_label_embeddings(self, label_embeddings: torch.Tensor) -> None:
        """Set the frozen label embeddings `(C, T)`; see `CSSFEModel.set_label_embeddings`."""
        self.cssfe.set_label_embeddings(label_embeddings)

    def set_loss(self, loss: nn.Module) -> None:
        """Use a loss module `(logits, labels) -> scalar` in place of the one that the configuration names."""
        self.criterion = loss

    @property
    def loss_function(self) -> nn.Module:
        """`nn.Module`: The loss that `forward` applies to labels, built from the configuration at first use."""
        if self.criterion is None:
            self.criterion = _build_loss(self.config).to(self.device)
        return self.criterion

    @can_return_tuple
    def forward(
        self, pixel_values: torch.Tensor, labels: torch.Tensor | None = None, **kwargs: Unpack[TransformersKwargs]
    ) -> CSSFEImageClassifierOutput:
        """Classify images.

        Args:
            pixel_values: `(B, num_channels, height, width)`, normalised as the image processor does.
            labels: Multi-hot `(B, C)`, any integer, bool or float dtype; `-1` or `NaN` marks an unknown label, which
                takes no part in the loss.
            **kwargs: `output_hidden_states`, `output_attentions`, `return_dict`; the rest goes to the attention.

        Returns:
            `CSSFEImageClassifierOutput`. Scores are `logits.sigmoid()`.
        """
        outputs = self.cssfe(pixel_values, **kwargs)
        if self.config.uses_fusion:
            logits = self.classifier(outputs.class_tokens, outputs.label_tokens)
        else:
            logits = outputs.class_activation_maps.mean(dim=(2, 3))
        loss = None
        if labels is not None:
            if labels.shape != logits.shape:
                raise ValueError(
                    f"labels have the shape {tuple(labels.shape)}, expected {tuple(logits.shape)}: a multi-hot row for "
                    "each image."
                )
            loss = self.loss_function(logits, labels.to(logits.device))
        return CSSFEImageClassifierOutput(
            loss=loss,
            logits=logits,
            class_activation_maps=outputs.class_activation_maps,
            enhanced_activation_maps=outputs.enhanced_activation_maps,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )


def _name_unknown(kind: str, name: str, known: list[str]) -> str:
    import difflib

    near = difflib.get_close_matches(name, known, n=1)
    return f"unknown {kind} {name!r}" + (f"; did you mean {near[0]!r}?" if near else f"; known: {', '.join(known)}.")


def _package_module(name: str, purpose: str):
    """A module of the installed package, which a copy of this file next to saved weights may have to do without."""
    if importlib.util.find_spec("modeling_cssfe") is None:
        raise ValueError(f"{purpose} needs the whole package; run `pip install cssfe`.")
    return importlib.import_module(f"modeling_cssfe.{name}")


def _build_loss(config: CSSFEConfig) -> nn.Module:
    options = config.loss_kwargs or {}
    travelling = {"asl": AsymmetricLoss, "bce": BinaryCrossEntropyLoss}
    if config.loss in travelling:
        try:
            return travelling[config.loss](**options)
        except TypeError as error:
            raise ValueError(f"loss_kwargs {options} do not fit the loss {config.loss!r}: {error}.") from error
    losses = _package_module("losses", f"the loss {config.loss!r} (only asl and bce travel with a saved model)")
    return losses.build_loss(config.loss, class_counts=config.class_counts, num_samples=config.num_samples, **options)


def _resolve_label_embeddings(source, config: CSSFEConfig, seed: int) -> tuple[torch.Tensor, dict]:
    if isinstance(source, torch.Tensor):
        if source.ndim != 2 or source.shape[0] != config.num_labels:
            raise ValueError(
                f"label embeddings have the shape {tuple(source.shape)}, expected ({config.num_labels}, T): one row "
                "for each class."
            )
        return source.detach().float(), {"source": "tensor"}
    module = _package_module("label_embeddings", "embedding label names")
    dim = config.label_embedding_dim if source == "random" else None
    return module.resolve_label_embeddings(source, config.label_names, seed=seed, dim=dim)


def _pretrained_statistics(backbone: str, settings: dict) -> dict:
    """Mean and standard deviation that timm's weights of this architecture were trained with."""
    import timm

    pretrained = timm.get_pretrained_cfg(backbone)
    if (
        pretrained is None
        or "image_mean" in settings
        or "image_std" in settings
        or settings.get("num_channels", 3) != 3
    ):
        return {}
    return {"image_mean": list(pretrained.mean), "image_std": list(pretrained.std)}


__all__ = [
    "CSSFEForImageClassification",
    "CSSFEImageClassifierOutput",
    "CSSFEModel",
    "CSSFEModelOutput",
    "CSSFEPreTrainedModel",
]
