# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""CSSFE: long-tailed multi-label image classification in the Hugging Face ecosystem.

Importing the package registers its configuration, model and image processor with the Auto classes; it does nothing
else. Losses, samplers, data, metrics and training are sub-packages that are imported where they are used.
"""

from transformers import AutoConfig, AutoImageProcessor, AutoModel, AutoModelForImageClassification, AutoVideoProcessor

from .configuration_cssfe import CSSFEConfig, assign_groups
from .image_processing_cssfe import CSSFEImageProcessor
from .modeling_cssfe import (
    CSSFEForImageClassification,
    CSSFEImageClassifierOutput,
    CSSFEModel,
    CSSFEModelOutput,
    CSSFEPreTrainedModel,
)
from .version import __version__


class _NoVideoProcessor:
    """Answers `pipeline`, which asks each model for a video processor and would offer to run the folder's own code."""

    @classmethod
    def from_pretrained(cls, *args, **kwargs):
        raise ValueError("CSSFE has no video processor; it classifies images.")


AutoConfig.register("cssfe", CSSFEConfig, exist_ok=True)
AutoModel.register(CSSFEConfig, CSSFEModel, exist_ok=True)
AutoModelForImageClassification.register(CSSFEConfig, CSSFEForImageClassification, exist_ok=True)
# By backend: the second positional argument is the one of Pillow, and each load would say that it falls back to it.
AutoImageProcessor.register(CSSFEConfig, image_processor_classes={"torchvision": CSSFEImageProcessor}, exist_ok=True)
AutoVideoProcessor.register(CSSFEConfig, _NoVideoProcessor, exist_ok=True)
# What `save_pretrained` writes carries its own code, for machines without this package.
CSSFEConfig.register_for_auto_class()
CSSFEModel.register_for_auto_class("AutoModel")
CSSFEForImageClassification.register_for_auto_class("AutoModelForImageClassification")
CSSFEImageProcessor.register_for_auto_class("AutoImageProcessor")

__all__ = [
    "CSSFEConfig",
    "CSSFEForImageClassification",
    "CSSFEImageClassifierOutput",
    "CSSFEImageProcessor",
    "CSSFEModel",
    "CSSFEModelOutput",
    "CSSFEPreTrainedModel",
    "__version__",
    "assign_groups",
]
