# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""Layers of CSSFE: label encoder, enhancement of the maps, pooling, fusion and classifiers.

Axis letters: B images, C classes, D feature channels, H x W positions of a map, T width of the label embeddings,
h `hidden_size`. Features F are (B, D, H, W), class activation maps CAM (B, C, H, W), label tokens LE (C, h).
"""

import math
from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint
from transformers.activations import ACT2FN
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from .configuration_cssfe import GROUPS, CSSFEConfig


# Above this number of classes the (C, C) attention of the enhancement is computed in blocks of that many rows, so that
# memory grows linearly with C. At 80 or 1,203 classes one block is both the fastest and small.
ENHANCEMENT_ROWS = 2048
# Beyond that number the fusion attends in blocks of queries too, so many that queries times keys stay below this.
FUSION_ENTRIES = 2**22


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
        self.map_size, self.image_size = map_size, config.image_height_and_width
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

    def class_attention(self, label_tokens: torch.Tensor, group_ranks: torch.Tensor) -> torch.Tensor | None:
        """The whole masked attention M' `(C, C)`; `None` for so many classes that it is only made in blocks."""
        if label_tokens.shape[0] > ENHANCEMENT_ROWS:
            return None
        return self.rows(label_tokens, group_ranks, 0, label_tokens.shape[0])

    def check_size(self, map_size: tuple[int, int], image_size: tuple[int, int]) -> None:
        """Check that maps of this size can be enhanced.

        Args:
            map_size: Their height and width.
            image_size: Height and width of the images that they are of, in pixels, for the message.

        Raises:
            ValueError: The gate or the projection of the maps is made for another size.
        """
        if (self.gate is not None or self.value_mode == "spatial") and map_size != self.map_size:
            fixing = "map_gate" if self.gate is not None else "map_value_projection='spatial'"
            wanted, wanted_images, got, images = (
                "x".join(map(str, size)) for size in (self.map_size, self.image_size, map_size, image_size)
            )
            raise ValueError(
                f"{fixing} fixes maps of {wanted} (images of {wanted_images}), got {got} (images of {images}): resize "
                "images to the configured image_size, or turn that field off for other sizes."
            )

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
        # (B, C, H, W) -> (B, C, H * W)
        values = self._values(maps.flatten(2))
        if attention is None:
            attention = self.class_attention(label_tokens, group_ranks)
        if attention is None:
            context = torch.cat(
                [
                    checkpoint(self._attend_rows, values, label_tokens, group_ranks, start, use_reentrant=False)
                    for start in range(0, num_classes, ENHANCEMENT_ROWS)
                ],
                dim=1,
            )
        else:
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


__all__ = [
    "CSSFEClassifier",
    "CSSFEFusion",
    "CSSFEFusionAttention",
    "CSSFEFusionBlock",
    "CSSFELabelEncoder",
    "CSSFEMapEnhancement",
    "pool_features",
]
