# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""CSSFE: Category-Specific Selective Feature Enhancement for long-tailed multi-label image classification.

Paper: "Category-Specific Selective Feature Enhancement for Long-Tailed Multi-Label Image Classification", ICCV 2025.

Axis letters: B images, C classes, D feature channels, H x W positions of a map, T width of the label embeddings,
h `hidden_size`. Features F are (B, D, H, W), class activation maps CAM (B, C, H, W), label tokens LE (C, h).
"""

import math
import os
from dataclasses import dataclass, fields
from typing import ClassVar

import torch
from torch import nn
from torch.nn import functional as F
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.processing_utils import Unpack
from transformers.utils import ModelOutput, TransformersKwargs
from transformers.utils.generic import can_return_tuple
from transformers.utils.output_capturing import OutputRecorder, capture_outputs

from .backbone_cssfe import CSSFEBackbone, find_pretrained_file, load_backbone_weights
from .configuration_cssfe import CSSFEConfig
from .discriminant_cssfe import CSSFEDiscriminant, linear_rows
from .image_processing_cssfe import CSSFEImageProcessor
from .layers_cssfe import (
    CSSFEClassifier,
    CSSFEFusion,
    CSSFEFusionAttention,
    CSSFEFusionBlock,
    CSSFELabelEncoder,
    CSSFEMapEnhancement,
    pool_features,
)
from .parts_cssfe import as_numbers, build_loss_of, name_unknown, pretrained_statistics, resolve_label_embeddings


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


class CSSFEPreTrainedModel(PreTrainedModel):
    """Weight initialisation, saving and loading of CSSFE models."""

    config: CSSFEConfig
    config_class = CSSFEConfig
    base_model_prefix = "cssfe"
    main_input_name = "pixel_values"
    input_modalities = ("image",)
    supports_gradient_checkpointing = True
    # Losses are means over a batch's known labels; Trainer itself divides by the number of accumulated batches.
    accepts_loss_kwargs = False
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
        elif isinstance(module, CSSFEDiscriminant):
            for buffer in module.buffers():
                init.zeros_(buffer)
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
        if self._auto_class is not None:  # the folder's code serves both, whichever of them is saved
            classes = {"AutoModel": CSSFEModel, "AutoModelForImageClassification": CSSFEForImageClassification}
            names = {auto: f"modeling_cssfe.{model.__name__}" for auto, model in classes.items()}
            self.config.auto_map = (getattr(self.config, "auto_map", None) or {}) | names
        is_main_process = args[0] if args else kwargs.get("is_main_process", True)
        # Before the weights, after which push_to_hub sends what lies in the folder.
        wanted = is_main_process and not os.path.isfile(save_directory)
        if wanted and not os.path.exists(os.path.join(save_directory, "preprocessor_config.json")):
            CSSFEImageProcessor.from_model_config(self.config).save_pretrained(save_directory)
        super().save_pretrained(save_directory, *args, **kwargs)


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
        label_embeddings = as_numbers("label embeddings", label_embeddings)
        expected = (config.num_labels, config.label_embedding_dim)
        if tuple(label_embeddings.shape) != expected:
            raise ValueError(
                f"label embeddings have the shape {tuple(label_embeddings.shape)}, expected {expected}: one row for "
                "each class, label_embedding_dim columns."
            )
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
        change, or a forward pass with gradient runs. A write through `.data` escapes torch's change counters. On a CPU
        sums of the values notice it; on a GPU, where reading them would wait for the device, call `.eval()` after one.
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
        sums = [tensor.sum().item() for tensor in tensors] if device == "cpu" else []
        state = (autocast, sums, [(tensor.data_ptr(), tensor._version, tensor.dtype) for tensor in tensors])
        if self._label_cache is None or self._label_cache[0] != state:
            # The aliases keep the memory that the state names from being given to other tensors.
            aliases = [tensor.detach() for tensor in tensors]
            self._label_cache = (state, self._compute_label_side(), aliases)
        return self._label_cache[1]

    def _compute_label_side(self) -> tuple[torch.Tensor, torch.Tensor | None]:
        label_tokens = self.label_encoder(self.label_embeddings, self.group_ranks)
        if not self.config.uses_enhancement:
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
            self.enhancement.check_size(tuple(maps.shape[-2:]), tuple(pixel_values.shape[-2:]))
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
        self.discriminant: CSSFEDiscriminant | None = None
        if config.uses_fusion and config.discriminant_share:
            self.discriminant = CSSFEDiscriminant(config, self.cssfe.class_activation.in_channels)
        self.criterion: nn.Module | None = None
        self._criterion_settings: tuple | None = None
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
                `.safetensors` file with timm's names or of a trained model of this class, whose backbone is taken and
                whose head and classes are left, or `False` for random weights.
            label_embeddings: A `(C, T)` tensor, a `.safetensors` file (aligned by name if it holds names), the name or
                folder of a text encoder (CLIP, SigLIP, a sentence encoder, BERT, ...), `"open_clip:NAME/TAG"`, a file
                of word vectors, or `"random"`. Not used by net0.
            seed: Seed of random label embeddings.
            **config_overrides: Any field of `CSSFEConfig`.

        Returns:
            The model, in evaluation mode as every new `PreTrainedModel` of transformers.

        Raises:
            ValueError: Unknown field, wrong shapes, or anything that does not fit; one line says what.
            TypeError: A field is of another type.
            FileNotFoundError: A file is missing.
        """
        known = {field.name for field in fields(CSSFEConfig)} | {"num_labels", "attn_implementation"}
        unknown = sorted(set(config_overrides) - known)
        if unknown:
            raise ValueError(name_unknown("config field", unknown[0], sorted(known)))
        if label_names is not None:
            label_names = [str(name) for name in label_names]
        # A first configuration finds every problem before anything is loaded or downloaded.
        settings = {"backbone": backbone, "label_names": label_names, "class_counts": class_counts, **config_overrides}
        try:
            config = CSSFEConfig(**settings)
        except Exception as error:
            # A field of another type is an error of huggingface_hub's own kind, with the TypeError as its cause.
            if not isinstance(error.__cause__, TypeError):
                raise
            raise TypeError(f"{' '.join(str(error.__cause__).split())}; see CSSFEConfig.") from error
        embeddings = None
        if config.uses_fusion:
            embeddings, provenance = resolve_label_embeddings(label_embeddings, config, seed)
            wanted = settings.get("label_embedding_dim", embeddings.shape[1])
            if wanted != embeddings.shape[1]:
                raise ValueError(
                    f"label_embedding_dim is {wanted}, but the label embeddings have {embeddings.shape[1]} columns; "
                    "leave it out."
                )
            settings |= {"label_embedding_dim": embeddings.shape[1], "label_embedding_provenance": provenance}
        settings |= pretrained_statistics(backbone, settings)
        model = cls(CSSFEConfig(**settings))
        _ = model.loss_function  # an unknown loss, option or a missing statistic is an error now
        if embeddings is not None:
            model.set_label_embeddings(embeddings)
        if backbone_weights is not False:
            path = find_pretrained_file(backbone) if backbone_weights is True else backbone_weights
            load_backbone_weights(model.cssfe.backbone, path)
        return model.eval()

    def set_label_embeddings(self, label_embeddings: torch.Tensor) -> None:
        """Set the frozen label embeddings `(C, T)`; see `CSSFEModel.set_label_embeddings`."""
        self.cssfe.set_label_embeddings(label_embeddings)

    def set_class_activation(self, weight: torch.Tensor, bias: torch.Tensor) -> None:
        """Set the 1x1 convolution that makes the class activation maps, in place.

        Args:
            weight: `(C, D)`, a direction in feature space for each class.
            bias: `(C,)`.

        Raises:
            ValueError: Another shape, or values that are not finite.
        """
        layer = self.cssfe.class_activation
        weight, bias = linear_rows(weight, bias, (self.num_labels, layer.in_channels))
        with torch.no_grad():
            layer.weight.copy_(weight[:, :, None, None])
            layer.bias.copy_(bias)

    def set_pretrained_classifier(self, weight: torch.Tensor, bias: torch.Tensor) -> None:
        """Let the discriminant hear the classifier that the backbone was pretrained with.

        The discriminant that the model had is 0 afterwards, as it looks at more: call `set_discriminant`.

        Args:
            weight: `(K, D)`, a row for each pretrained label.
            bias: `(K,)`.

        Raises:
            ValueError: Another shape, values that are not finite, no row, or a model without a discriminant.
        """
        discriminant = self._require_discriminant()
        discriminant.set_pretrained_classifier(weight, bias)
        self.config.num_pretrained_labels = len(discriminant.pretrained_weight)

    def set_discriminant(self, weight: torch.Tensor, bias: torch.Tensor) -> None:
        """Set the discriminant that has the share `discriminant_share` in the logits, in place.

        Args:
            weight: `(C, D)`, a direction in feature space for each class; `(C, D + 2K)` with a pretrained classifier of
                K labels, for the descriptors of `CSSFEDiscriminant.descriptors`, one after the other.
            bias: `(C,)`.

        Raises:
            ValueError: Another shape, values that are not finite, or a model without one.
        """
        self._require_discriminant().set_classifier(weight, bias)

    def _require_discriminant(self) -> CSSFEDiscriminant:
        if self.discriminant is None:
            raise ValueError("this model has no discriminant; give net1, net2 or net3 a discriminant_share > 0.")
        return self.discriminant

    def set_loss(self, loss: nn.Module) -> None:
        """Use a loss module `(logits, labels) -> scalar` in place of the one that the configuration names.

        `model.loss_function = loss` does the same. A loss's own weights, if it has any, are not saved with the model.

        Raises:
            TypeError: The loss is no module.
        """
        if not isinstance(loss, nn.Module):
            raise TypeError(f"the loss is {loss!r}; give a torch.nn.Module whose forward takes logits and labels.")
        self.criterion = loss
        self._criterion_settings = None
        self._keys_to_ignore_on_save |= {f"criterion.{key}" for key in loss.state_dict()}

    def __setattr__(self, name: str, value) -> None:
        # nn.Module takes any module for itself, before a setter of the property would see it.
        self.set_loss(value) if name == "loss_function" else super().__setattr__(name, value)

    @property
    def loss_function(self) -> nn.Module:
        """`nn.Module`: The loss that `forward` applies to labels: that of `set_loss`, or the configuration's.

        The configuration's is built at first use, and again when `config.loss` or `config.loss_kwargs` has changed.
        """
        settings = (self.config.loss, dict(self.config.loss_kwargs or {}))
        if self.criterion is None or self._criterion_settings not in (None, settings):
            self.criterion = build_loss_of(self.config).to(self.device)
            self._criterion_settings = settings
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
            # Means that autocast does not round into ties.
            logits = outputs.class_activation_maps.mean(dim=(2, 3), dtype=torch.float32).to(self.dtype)
        loss = None
        if labels is not None:
            if labels.shape != logits.shape:
                raise ValueError(
                    f"labels have the shape {tuple(labels.shape)}, expected {tuple(logits.shape)}: a multi-hot row for "
                    "each image."
                )
            loss = self.loss_function(logits, labels.to(logits.device))
        if self.discriminant is not None:
            # After the loss, which is the fused logit's alone.
            known = self.discriminant(outputs.last_hidden_state).to(logits.dtype)
            logits = torch.lerp(logits, known, self.config.discriminant_share)
        return CSSFEImageClassifierOutput(
            loss=loss,
            logits=logits,
            class_activation_maps=outputs.class_activation_maps,
            enhanced_activation_maps=outputs.enhanced_activation_maps,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )


__all__ = [
    "CSSFEForImageClassification",
    "CSSFEImageClassifierOutput",
    "CSSFEModel",
    "CSSFEModelOutput",
    "CSSFEPreTrainedModel",
]
