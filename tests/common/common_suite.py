# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""CSSFE under transformers' own common tests.

`test_transformers_common.py` copies this file into the unpacked tests of transformers and runs it there; its name keeps
it from being collected here. What is skipped or done in another way has its reason beside it.
"""

import copy
import inspect
import unittest

import pytest
import torch
from tests.test_configuration_common import ConfigTester
from tests.test_image_processing_common import ImageProcessingTester, ImageProcessingTestMixin
from tests.test_modeling_common import ModelTesterMixin, floats_tensor
from tests.test_pipeline_mixin import PipelineTesterMixin
from transformers.models.auto import modeling_auto
from transformers.testing_utils import torch_device

import modeling_cssfe
from modeling_cssfe import CSSFEConfig, CSSFEForImageClassification, CSSFEImageProcessor, CSSFEModel
from tests import test_modeling_common, test_pipeline_mixin


# The common tests find out what a class is for by these tables, which hold transformers' own models only.
modeling_auto.MODEL_MAPPING_NAMES["cssfe"] = "CSSFEModel"
modeling_auto.MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES["cssfe"] = "CSSFEForImageClassification"
# Classes of ours are looked up here rather than in transformers.
test_pipeline_mixin.transformers_module = modeling_cssfe

# The common tests set whatever a configuration calls `..._std` to nearly 0, as a spread of initial weights. The one
# field of that name here is `image_std`, the spread of the images.
test_modeling_common._config_zero_init = copy.deepcopy

_find_parent_traceback = test_modeling_common.find_parent_traceback


def _find_parent_traceback_of_timm(name, model):
    """Weights inside timm keep timm's own initialisation; the common tests exempt their own timm wrapper by name."""
    found = _find_parent_traceback(name, model)
    return (*found[:2], "TimmWrapperPreTrainedModel") if "timm_model." in name else found


test_modeling_common.find_parent_traceback = _find_parent_traceback_of_timm


class CSSFEModelTester:
    def __init__(self, parent):
        self.parent = parent
        self.batch_size = 3
        self.image_size = 64
        self.num_labels = 3
        self.hidden_size = 16
        self.num_attention_heads = 2
        self.num_hidden_layers = 1
        self.is_training = True

    def get_config(self):
        return CSSFEConfig(
            backbone="test_resnet",
            backbone_kwargs={"channels": [4, 8, 8, 12]},
            image_size=self.image_size,
            num_labels=self.num_labels,
            label_embedding_dim=10,
            hidden_size=self.hidden_size,
            num_attention_heads=self.num_attention_heads,
            attention_head_dim=8,
            intermediate_size=20,
        )

    def prepare_config_and_inputs_for_common(self):
        pixel_values = floats_tensor([self.batch_size, 3, self.image_size, self.image_size])
        return self.get_config(), {"pixel_values": pixel_values}


class CSSFEModelTest(ModelTesterMixin, PipelineTesterMixin, unittest.TestCase):
    all_model_classes: tuple = (CSSFEModel, CSSFEForImageClassification)
    pipeline_model_mapping = {  # noqa: RUF012
        "image-feature-extraction": CSSFEModel,
        "image-classification": CSSFEForImageClassification,
    }
    test_resize_embeddings = False

    def setUp(self):
        self.model_tester = CSSFEModelTester(self)
        self.config_tester = ConfigTester(
            self,
            config_class=CSSFEConfig,
            has_text_modality=False,
            common_properties=["hidden_size", "num_attention_heads", "image_size", "num_channels"],
            hidden_size=37,
        )

    def test_config(self):
        self.config_tester.run_common_tests()

    def _prepare_for_class(self, inputs_dict, model_class, return_labels=False):
        """Labels are multi-hot: the common tests' own are class ids."""
        inputs = super()._prepare_for_class(inputs_dict, model_class, return_labels=False)
        if return_labels and model_class is CSSFEForImageClassification:
            labels = torch.arange(self.model_tester.batch_size * self.model_tester.num_labels) % 2
            inputs["labels"] = labels.view(self.model_tester.batch_size, -1).float().to(torch_device)
        return inputs

    def _prepare_config_and_inputs_for_retain_grad_hidden_states_attentions(self):
        """The first attention of net2 and net3, M', is returned as a view for each image, which nothing comes after."""
        config, inputs = self.model_tester.prepare_config_and_inputs_for_common()
        config.ablation = "net1"
        return config, inputs

    def test_retain_grad_hidden_states_attentions(self):
        """`CSSFEModel` returns the features first, which come before any attention; the classifier its logits."""
        self.all_model_classes = (CSSFEForImageClassification,)
        super().test_retain_grad_hidden_states_attentions()

    @unittest.skipUnless(
        "is_floating_point" in inspect.getsource(ModelTesterMixin.test_keep_in_fp32_modules),
        "Older versions want fp16 of BatchNorm's counter, an integer.",
    )
    def test_keep_in_fp32_modules(self):
        super().test_keep_in_fp32_modules()

    @unittest.skip("Images have no embedding table.")
    def test_model_get_set_embeddings(self):
        pass

    def test_attention_outputs(self):
        """The common test expects one square matrix a layer: ours are M' of the classes, and C queries on 2C tokens."""
        config, inputs_dict = self.model_tester.prepare_config_and_inputs_for_common()
        classes = self.model_tester.num_labels
        for model_class in self.all_model_classes:
            for by_config in (False, True):
                config.output_attentions = by_config
                model = model_class._from_config(copy.deepcopy(config), attn_implementation="eager")
                model = model.to(torch_device).eval()
                arguments = {} if by_config else {"output_attentions": True}
                with torch.no_grad():
                    outputs = model(**self._prepare_for_class(inputs_dict, model_class), **arguments)
                shapes = [tuple(weights.shape[1:]) for weights in outputs.attentions]
                assert shapes == [(1, classes, classes), (2, classes, 2 * classes)]
            config.output_attentions = False

    def test_hidden_states_output(self):
        """The common test expects one sequence a layer: ours are the feature map and the fused class tokens."""
        config, inputs_dict = self.model_tester.prepare_config_and_inputs_for_common()
        for model_class in self.all_model_classes:
            for by_config in (False, True):
                config.output_hidden_states = by_config
                model = model_class(copy.deepcopy(config)).to(torch_device).eval()
                arguments = {} if by_config else {"output_hidden_states": True}
                with torch.no_grad():
                    outputs = model(**self._prepare_for_class(inputs_dict, model_class), **arguments)
                shapes = [tuple(states.shape[1:]) for states in outputs.hidden_states]
                assert shapes == [(12, 2, 2), (self.model_tester.num_labels, self.model_tester.hidden_size)]
            config.output_hidden_states = False

    def test_problem_types(self):
        """The common test runs single-label and regression too, which the configuration refuses."""
        config, inputs_dict = self.model_tester.prepare_config_and_inputs_for_common()
        model = CSSFEForImageClassification(config).to(torch_device).train()
        model(**self._prepare_for_class(inputs_dict, CSSFEForImageClassification, return_labels=True)).loss.backward()
        for problem_type in ("single_label_classification", "regression"):
            with pytest.raises(ValueError, match="only 'multi_label_classification'"):
                CSSFEConfig(problem_type=problem_type)


class CSSFEImageProcessingTester(ImageProcessingTester):
    def __init__(self, parent, **kwargs):
        kwargs.setdefault("size", {"height": 20, "width": 18})
        kwargs.setdefault("image_mean", [0.5, 0.5, 0.5])
        kwargs.setdefault("image_std", [0.5, 0.5, 0.5])
        kwargs.setdefault("do_normalize", True)
        kwargs.setdefault("do_resize", True)
        super().__init__(parent, **kwargs)

    def _get_image_processing_classes(self):
        """The common tester finds classes in transformers' own table."""
        return {"torchvision": CSSFEImageProcessor}


class CSSFEImageProcessingTest(ImageProcessingTestMixin, unittest.TestCase):
    image_processor_tester_class = CSSFEImageProcessingTester
    test_cast_dtype = True
