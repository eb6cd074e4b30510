# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""What the pipeline mixin does with a task, where transformers' own file is not part of its source distribution."""

import numpy as np
from PIL import Image
from transformers import pipeline


EXAMPLES = [
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, (40, 50, 3), dtype=np.uint8)) for seed in (0, 1)
]


class ImageClassificationPipelineTests:
    def get_test_pipeline(
        self, model, tokenizer=None, image_processor=None, feature_extractor=None, processor=None, dtype="float32"
    ):
        return pipeline("image-classification", model=model, image_processor=image_processor, dtype=dtype), EXAMPLES

    def run_pipeline_test(self, classifier, examples):
        names = set(classifier.model.config.id2label.values())
        for outputs in classifier(examples, top_k=100):
            assert {output["label"] for output in outputs} == names
            assert all(0 < output["score"] < 1 for output in outputs)


class ImageFeatureExtractionPipelineTests:
    def get_test_pipeline(
        self, model, tokenizer=None, image_processor=None, feature_extractor=None, processor=None, dtype="float32"
    ):
        extractor = pipeline("image-feature-extraction", model=model, image_processor=image_processor, dtype=dtype)
        return extractor, EXAMPLES

    def run_pipeline_test(self, extractor, examples):
        features = extractor(examples[0], return_tensors=True)
        assert features.ndim == 4
        assert features.isfinite().all()
