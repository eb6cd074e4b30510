# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""CSSFE written out slowly: float64, one class, one position and one pair of tokens at a time.

It shares no code with the package. It takes the model's state dict (cast to float64) for its numbers and the
configuration for its options, and follows the formulas image by image: everything that depends on the labels alone is
computed for every image again, keys and values of all 2C tokens included, and nothing is cached or folded together.
"""

import math

import torch


def slow_cssfe(state: dict[str, torch.Tensor], config, backbone_features: torch.Tensor) -> dict:
    """Forward pass of the whole network after the backbone.

    Args:
        state: The classification model's tensors by name, float64.
        config: Its configuration.
        backbone_features: `(B, D, H, W)`, float64.

    Returns:
        `logits (B, C)`, `maps (B, C, H, W)` and `enhanced (B, C, H, W)` or `None`.
    """
    images = [_slow_image(state, config, features) for features in backbone_features]
    enhanced = None if images[0][2] is None else torch.stack([image[2] for image in images])
    return {
        "logits": torch.stack([image[0] for image in images]),
        "maps": torch.stack([image[1] for image in images]),
        "enhanced": enhanced,
    }


def slow_attention_matrix(state, config) -> list[list[torch.Tensor]]:
    """The masked attention M' between classes, as rows of scalars."""
    return _class_attention(state, config, _label_tokens(state, config))


def slow_ranks(config) -> list[int]:
    """0 head, 1 medium, 2 tail for each class; one group where no counts are known."""
    if config.class_counts is None:
        return [0] * config.num_labels
    ranks = []
    for count in config.class_counts:
        if count >= config.head_min:
            ranks.append(0)
        elif count >= config.tail_max:
            ranks.append(1)
        else:
            ranks.append(2)
    return ranks


def _slow_image(state, config, features):
    _, height, width = features.shape
    positions = [(row, column) for row in range(height) for column in range(width)]
    points = {position: features[:, position[0], position[1]] for position in positions}
    if "cssfe.feature_projection.weight" in state:
        weight, bias = state["cssfe.feature_projection.weight"][:, :, 0, 0], state["cssfe.feature_projection.bias"]
        points = {position: weight @ point + bias for position, point in points.items()}

    classes = range(config.num_labels)
    weight, bias = state["cssfe.class_activation.weight"][:, :, 0, 0], state["cssfe.class_activation.bias"]
    maps = [[weight[c].dot(points[position]) + bias[c] for position in positions] for c in classes]
    maps_tensor = torch.stack([torch.stack(row) for row in maps]).reshape(-1, height, width)
    if config.ablation == "net0":
        return torch.stack([sum(row) / len(row) for row in maps]), maps_tensor, None

    label_tokens = _label_tokens(state, config)
    enhanced = None
    if config.ablation in ("net2", "net3"):
        enhanced = _enhance(state, config, maps, label_tokens)
    pooled = [
        _pool(maps[c] if enhanced is None else enhanced[c], [points[position] for position in positions], config)
        for c in classes
    ]
    tokens = _fuse(state, config, pooled, label_tokens)
    if config.classifier == "dot_product":
        logits = [tokens[c].dot(label_tokens[c]) for c in classes]
    else:
        logits = [state["classifier.weight"][c].dot(tokens[c]) + state["classifier.bias"][c] for c in classes]
    if config.discriminant_share:
        share, means = config.discriminant_share, sum(points.values()) / len(points)
        known = _linear(state, "discriminant", means)
        logits = [(1 - share) * logits[c] + share * known[c] for c in classes]
    if enhanced is not None:
        enhanced = torch.stack([torch.stack(row) for row in enhanced]).reshape(-1, height, width)
    return torch.stack(logits), maps_tensor, enhanced


def _linear(state, name, vector):
    result = state[f"{name}.weight"] @ vector
    return result + state[f"{name}.bias"] if f"{name}.bias" in state else result


def _gelu(vector):
    return 0.5 * vector * (1 + torch.erf(vector / math.sqrt(2)))


def _layer_norm(state, name, vector, epsilon):
    centred = vector - vector.sum() / len(vector)
    variance = (centred * centred).sum() / len(vector)
    return centred / (variance + epsilon).sqrt() * state[f"{name}.weight"] + state[f"{name}.bias"]


def _softmax(scalars):
    scores = torch.stack(list(scalars))
    exponentials = (scores - scores.detach().max()).exp()
    return list((exponentials / exponentials.sum()).unbind())


def _label_tokens(state, config):
    raw = list(state["cssfe.label_embeddings"])
    if config.center_label_embeddings:
        raw = _centred(raw, slow_ranks(config))
    if config.label_projection == "linear":
        return [_linear(state, "cssfe.label_encoder.projection", row) for row in raw]
    tokens = []
    for row in raw:
        hidden = _gelu(_linear(state, "cssfe.label_encoder.projection.0", row))
        tokens.append(_linear(state, "cssfe.label_encoder.projection.3", hidden))
    return tokens


def _centred(rows, ranks):
    """Each row less the mean of the classes that are no rarer than its group, at length sqrt(T)."""
    centred = []
    for row, rank in zip(rows, ranks, strict=True):
        lenders = [other for other, other_rank in zip(rows, ranks, strict=True) if other_rank <= rank]
        if len(lenders) > 1:  # a lone class would be centred to nothing
            row = row - sum(lenders) / len(lenders)
        centred.append(row / row.dot(row).sqrt() * math.sqrt(len(row)))
    return centred


def _class_attention(state, config, label_tokens):
    classes = range(len(label_tokens))
    ranks = slow_ranks(config)
    queries = [_linear(state, "cssfe.enhancement.query", token) for token in label_tokens]
    keys = [_linear(state, "cssfe.enhancement.key", token) for token in label_tokens]
    rows = []
    for receiver in classes:
        scores = [queries[receiver].dot(keys[giver]) / math.sqrt(len(keys[giver])) for giver in classes]
        allowed = [config.ablation != "net3" or ranks[giver] <= ranks[receiver] for giver in classes]
        if config.mask_mode == "multiply_scores":
            row = _softmax([score * float(on) for score, on in zip(scores, allowed, strict=True)])
        elif config.mask_mode == "multiply_weights":
            row = [weight * float(on) for weight, on in zip(_softmax(scores), allowed, strict=True)]
        else:
            kept = iter(_softmax([score for score, on in zip(scores, allowed, strict=True) if on]))
            row = [next(kept) if on else torch.zeros((), dtype=torch.float64) for on in allowed]
        rows.append(row)
    return rows


def _enhance(state, config, maps, label_tokens):
    classes = range(len(maps))
    attention = _class_attention(state, config, label_tokens)
    rows = [torch.stack(row) for row in maps]  # one vector over the positions for each class
    values = rows
    if config.map_value_projection == "per_class":
        scale, offset = state["cssfe.enhancement.value_scale"], state["cssfe.enhancement.value_offset"]
        values = [rows[c] * scale[c] + offset[c] for c in classes]
    elif config.map_value_projection == "spatial":
        values = [_linear(state, "cssfe.enhancement.value", row) for row in rows]
    enhanced = []
    for receiver in classes:
        total = sum(attention[receiver][giver] * values[giver] for giver in classes)
        if config.enhancement_residual:
            total = total + rows[receiver]
        if config.map_gate:
            gate = _linear(state, "cssfe.enhancement.gate", label_tokens[receiver])
            total = total / (1 + (-gate).exp())
        enhanced.append(list(total.unbind()))
    return enhanced


def _pool(class_map, points, config):
    """Category-specific feature of one class: sum over positions of a weight times the feature there."""
    if config.map_pooling == "softmax":
        weights = _softmax(class_map)
    elif config.map_pooling == "relu":
        weights = [value * float(value.detach() > 0) / len(points) for value in class_map]
    else:
        weights = [value / len(points) for value in class_map]
    return sum(weight * point for weight, point in zip(weights, points, strict=True))


def _fuse(state, config, pooled, label_tokens):
    """The Transformer block over all tokens; the outputs at the label positions."""
    if "cssfe.fusion.feature_projection.weight" in state:
        pooled = [_linear(state, "cssfe.fusion.feature_projection", feature) for feature in pooled]
    if config.fusion_mode == "tokens":
        tokens = [*pooled, *label_tokens]
    else:
        tokens = [
            _linear(state, "cssfe.fusion.channel_projection", torch.cat([feature, label]))
            for feature, label in zip(pooled, label_tokens, strict=True)
        ]
    outputs = _transformer_block(state, config, tokens, len(tokens) - len(label_tokens))
    if config.fusion_final_norm:
        outputs = [_layer_norm(state, "cssfe.fusion.norm", output, config.layer_norm_eps) for output in outputs]
    return outputs


def _transformer_block(state, config, tokens, start):
    """The outputs from position `start` on; every token gives a key and a value."""
    block, heads, width = "cssfe.fusion.block", config.num_attention_heads, config.attention_head_dim
    normed = [_layer_norm(state, f"{block}.attention_norm", token, config.layer_norm_eps) for token in tokens]
    queries = [_linear(state, f"{block}.attention.query", token) for token in normed[start:]]
    keys = [_linear(state, f"{block}.attention.key", token) for token in normed]
    values = [_linear(state, f"{block}.attention.value", token) for token in normed]
    outputs = []
    for token, query in zip(tokens[start:], queries, strict=True):
        contexts = []
        for head in range(heads):
            part = slice(head * width, (head + 1) * width)
            weights = _softmax([query[part].dot(key[part]) / math.sqrt(width) for key in keys])
            contexts.append(sum(weight * value[part] for weight, value in zip(weights, values, strict=True)))
        hidden = _linear(state, f"{block}.attention.output", torch.cat(contexts))
        if config.fusion_residual:
            hidden = hidden + token
        inner = _layer_norm(state, f"{block}.feed_forward_norm", hidden, config.layer_norm_eps)
        inner = _linear(state, f"{block}.intermediate", inner)
        inner = {"gelu": _gelu, "relu": lambda vector: vector.clamp(min=0)}[config.hidden_act](inner)
        inner = _linear(state, f"{block}.output", inner)
        outputs.append(hidden + inner if config.fusion_residual else inner)
    return outputs
