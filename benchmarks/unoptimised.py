"""CSSFE as one would write it down first: what the model's algebra saves is measured against this.

Dimensions and operations are those of the released network (preset `released`), and so is what makes it slow: label
embeddings pass their MLP for every image, the product of features and maps is materialised as (B, C, D, H, W), and the
Transformer block computes queries, keys, values and feed-forward for all 2C tokens of every image although only the
outputs at the C label positions are used. The released code also runs the frozen text tower of CLIP RN50 over every
class name in every step; `text_tower=True` adds it, with random weights, which cost the same.
"""

import torch
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModelWithProjection

from modeling_cssfe.backbone_cssfe import CSSFEBackbone
from modeling_cssfe.configuration_cssfe import CSSFEConfig
from modeling_cssfe.loss_cssfe import asymmetric_loss


# CLIP RN50's text tower: 12 layers of width 512 over prompts padded to 77 tokens, projected to 1024.
TEXT_TOWER = CLIPTextConfig(
    hidden_size=512,
    num_attention_heads=8,
    num_hidden_layers=12,
    intermediate_size=2048,
    max_position_embeddings=77,
    projection_dim=1024,
)


class UnoptimisedCSSFE(nn.Module):
    def __init__(self, config: CSSFEConfig, text_tower: bool = False):
        super().__init__()
        self.text_tower = CLIPTextModelWithProjection(TEXT_TOWER).requires_grad_(False) if text_tower else None
        self.register_buffer("prompts", torch.randint(1, 40_000, (config.num_labels, 77)))
        self.backbone = CSSFEBackbone(config)
        width = self.backbone.num_features
        inner = config.num_attention_heads * config.attention_head_dim
        self.heads = config.num_attention_heads
        self.register_buffer("embeddings", torch.randn(config.num_labels, config.label_embedding_dim))
        ranks = torch.tensor(config.group_ranks)
        self.register_buffer("mask", (ranks[None, :] <= ranks[:, None]).float())
        self.class_activation = nn.Conv2d(width, config.num_labels, 1)
        self.label_mlp = nn.Sequential(
            nn.Linear(config.label_embedding_dim, 2 * width), nn.GELU(), nn.Dropout(0.1),
            nn.Linear(2 * width, width), nn.Dropout(0.1),
        )  # fmt: skip
        self.query, self.key = nn.Linear(width, width), nn.Linear(width, width)
        self.gate = nn.Linear(width, self.backbone.map_size[0] * self.backbone.map_size[1])
        self.attention_norm, self.feed_forward_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * inner, bias=False)
        self.output = nn.Linear(inner, width)
        self.feed_forward = nn.Sequential(
            nn.Linear(width, config.intermediate_size), nn.GELU(), nn.Linear(config.intermediate_size, width)
        )

    def forward(self, pixel_values: torch.Tensor, labels: torch.Tensor | None = None) -> torch.Tensor:
        features = self.backbone(pixel_values)
        batch = len(features)
        maps = self.class_activation(features)
        classes, height, width = maps.shape[1:]
        embeddings = self.embeddings
        if self.text_tower is not None:
            with torch.no_grad():
                embeddings = self.text_tower(self.prompts).text_embeds
        # (B, C, D): the same for every image, computed for every image
        embeddings = self.label_mlp(embeddings.expand(batch, -1, -1).contiguous())
        scores = self.query(embeddings) @ self.key(embeddings).transpose(1, 2) / embeddings.shape[-1] ** 0.5
        context = ((scores * self.mask).softmax(dim=-1) @ maps.flatten(2)).view_as(maps)
        gate = self.gate(embeddings).sigmoid().view(batch, classes, height, width)
        enhanced = (maps + context) * gate
        # (B, 1, D, H, W) * (B, C, 1, H, W)
        selected = (features[:, None] * enhanced[:, :, None]).mean(dim=(3, 4))
        tokens = torch.cat([selected, embeddings], dim=1)
        query, key, value = self.qkv(self.attention_norm(tokens)).chunk(3, dim=-1)
        query, key, value = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in (query, key, value))
        weights = (query @ key.transpose(2, 3) / query.shape[-1] ** 0.5).softmax(dim=-1)
        tokens = self.output((weights @ value).transpose(1, 2).flatten(2))
        tokens = self.feed_forward(self.feed_forward_norm(tokens))
        logits = (tokens[:, classes:] * embeddings).sum(dim=-1)
        return logits if labels is None else asymmetric_loss(logits, labels)
