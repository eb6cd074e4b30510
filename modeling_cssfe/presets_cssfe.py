# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""Closed sets of values of `CSSFEConfig`, and the presets.

The paper and its released code differ in a dozen places. Each of them is a field of `CSSFEConfig`; a preset is nothing
but a value for each of these fields, and any field given by name wins over the preset.
"""

GROUPS = ("head", "medium", "tail")
ABLATIONS = ("net0", "net1", "net2", "net3")
# Of the package's registry; the first two travel with a saved model.
LOSSES = (
    "asl", "bce", "mlsm", "rw", "focal", "cb_focal", "ldam", "db", "db_focal", "pg", "logit_adjustment", "two_way",
)  # fmt: skip

# One row a difference between paper and released code (and "corrected", the intended meaning of both).
PRESETS: dict[str, dict] = {
    "paper": {
        "feature_size": None,
        "hidden_size": None,  # label embeddings are transferred to the width of the features
        "attention_size": None,
        "label_projection": "linear",
        "label_dropout": 0.0,
        "center_label_embeddings": False,
        "mask_mode": "multiply_weights",
        "map_value_projection": "per_class",
        "enhancement_residual": False,
        "map_gate": False,
        "map_pooling": "mean",
        "fusion_mode": "tokens",
        "fusion_residual": True,
        "fusion_final_norm": False,
        "num_attention_heads": 8,
        "attention_head_dim": 512,
        "intermediate_size": 2048,
        "hidden_dropout_prob": 0.1,
        "attention_probs_dropout_prob": 0.0,
        "classifier": "per_class_linear",
        "discriminant_share": 0.0,
        "asl_margin": 0.0,
    },
    "released": {
        "feature_size": 2048,
        "hidden_size": None,
        "attention_size": None,
        "label_projection": "mlp",
        "label_dropout": 0.1,
        "center_label_embeddings": False,
        "mask_mode": "multiply_scores",
        "map_value_projection": "none",
        "enhancement_residual": True,
        "map_gate": True,
        "map_pooling": "mean",
        "fusion_mode": "tokens",
        "fusion_residual": False,
        "fusion_final_norm": False,
        "num_attention_heads": 8,
        "attention_head_dim": 512,
        "intermediate_size": 2048,
        "hidden_dropout_prob": 0.1,
        "attention_probs_dropout_prob": 0.0,
        "classifier": "dot_product",
        "discriminant_share": 0.0,
        "asl_margin": 0.05,
    },
    "corrected": {
        "feature_size": None,
        # 512 instead of the features' 2048: on a thousand training images the narrower block is no worse, and it is
        # what keeps the cost of a training step near that of the backbone.
        "hidden_size": 512,
        "attention_size": None,
        "label_projection": "linear",
        "label_dropout": 0.1,
        # Raw CLIP text embeddings of class names all have cosines around .8 with each other; centred, they differ.
        "center_label_embeddings": True,
        "mask_mode": "remove",
        "map_value_projection": "none",
        "enhancement_residual": True,
        "map_gate": False,
        # Where a map is negative the class is not, so those positions lend it no features. With the signed mean, as
        # printed, either sign of a map may stand on the object; cut off at 0, maps mean what their name says, and
        # photographs are classified better (docs/accuracy.md). From scratch, learning is slower with it.
        "map_pooling": "relu",
        "fusion_mode": "tokens",
        "fusion_residual": True,
        "fusion_final_norm": False,
        "num_attention_heads": 8,
        "attention_head_dim": 64,
        "intermediate_size": 2048,
        "hidden_dropout_prob": 0.1,
        "attention_probs_dropout_prob": 0.1,
        "classifier": "per_class_linear",
        "discriminant_share": 0.0,
        "asl_margin": 0.05,
    },
}
# Beyond the method: a share of the logit for a discriminant in closed form, which a handful of images does not lead
# astray (docs/accuracy.md).
PRESETS["plus"] = PRESETS["corrected"] | {"discriminant_share": 0.5}

# Fields with a closed set of values, and what each value means.
CHOICES: dict[str, dict[str, str]] = {
    "label_projection": {"linear": "one linear layer", "mlp": "T -> 2 hidden -> hidden with GELU"},
    "mask_mode": {
        "multiply_weights": "the softmax's result times the mask: rows no longer sum to one",
        "multiply_scores": "the scores times the mask: a masked score of 0 still weighs exp(0), nothing is blocked",
        "remove": "masked scores are -inf before the softmax: rows sum to one and reverse flow is blocked",
    },
    "map_value_projection": {
        "none": "the maps themselves",
        "per_class": "one scale and one offset a class",
        "spatial": "one linear map over the positions, which fixes the map size",
    },
    "map_pooling": {
        "mean": "mean of features times map",
        "relu": "the same with negative map values cut off",
        "softmax": "the map's softmax over positions as weights",
    },
    "fusion_mode": {"tokens": "2C tokens [FE; LE]", "channels": "C tokens, features and embedding side by side"},
    "classifier": {
        "dot_product": "each output token with its own label embedding, no bias",
        "per_class_linear": "a weight vector and a bias a class",
    },
}


__all__ = ["ABLATIONS", "CHOICES", "GROUPS", "LOSSES", "PRESETS"]
