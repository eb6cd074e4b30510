# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""Image processor of CSSFE: resize to the model's size, rescale, normalise; and scores to labels."""

import torch
from transformers.image_processing_backends import TorchvisionBackend
from transformers.image_utils import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD, ChannelDimension, PILImageResampling


def _to_rgb(image):
    # Pillow opens 16-bit PPM, and in older versions 16-bit PNG, as 32-bit integers.
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM")):
        return image.convert("I").point(lambda value: value * (1 / 256)).convert("L").convert("RGB")
    if image.mode in ("I", "F"):
        kind = "32-bit integer" if image.mode == "I" else "floating-point"
        raise ValueError(f"an image has {kind} pixels, whose range is not known; scale it to 8 or 16 bits.")
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        page = layer.copy()
        page.paste((255, 255, 255, 255), (0, 0, *layer.size))
        page.alpha_composite(layer)
        return page.convert("RGB")
    return image.convert("RGB")


class CSSFEImageProcessor(TorchvisionBackend):
    r"""Prepares images for CSSFE and turns its logits into labels.

    Images are resized to `size` without keeping their aspect ratio, as in the field's benchmarks: cropping would cut
    labels off. Defaults: 448 x 448 px, bilinear with antialiasing, ImageNet mean and standard deviation.
    """

    resample = PILImageResampling.BILINEAR
    image_mean = IMAGENET_DEFAULT_MEAN
    image_std = IMAGENET_DEFAULT_STD
    size = {"height": 448, "width": 448}  # noqa: RUF012
    do_resize = True
    do_rescale = True
    do_normalize = True
    do_convert_rgb = True

    @classmethod
    def from_model_config(cls, config) -> "CSSFEImageProcessor":
        """The processor that fits a `CSSFEConfig`: its image size, mean and standard deviation."""
        height, width = config.image_height_and_width
        return cls(
            size={"height": height, "width": width},
            image_mean=list(config.image_mean),
            image_std=list(config.image_std),
            do_convert_rgb=config.num_channels == 3,
        )

    def process_image(
        self, image, do_convert_rgb: bool | None = None, input_data_format=None, **kwargs
    ) -> torch.Tensor:
        """Bring one image to `(channels, height, width)`, Pillow's by the rules by which training decodes files.

        Of 16 bits the upper 8 are taken, where Pillow would cut off at 255, and transparent images lie on white.

        Raises:
            ValueError: A Pillow image has 32-bit integer or floating-point pixels.
        """
        if hasattr(image, "has_transparency_data"):  # Pillow's, whose tensors begin with the channels, however many
            image = _to_rgb(image) if do_convert_rgb else image
            input_data_format = ChannelDimension.FIRST
        return super().process_image(image, do_convert_rgb, input_data_format, **kwargs)

    def post_process_multi_label_classification(
        self, outputs, thresholds=None, label_names: list[str] | None = None, calibration=None
    ) -> list[list[dict]]:
        """Turn logits into the labels that each image carries.

        Args:
            outputs: The model's output, or its `(batch, classes)` logits.
            thresholds: One probability, or one for each class (`config.thresholds`); .5 where `None`.
            label_names: Class names (`config.label_names`); class ids where `None`.
            calibration: Temperature and bias of each class (`config.class_calibration`), or `None`.

        Returns:
            For each image a list of `{"label", "score"}`, highest score first; empty where no score reaches its
            threshold. Scores are probabilities of the sigmoid, the same that the stock pipeline shows. With
            `calibration` there is a `"probability"` beside each, `sigmoid(logit / temperature + bias)`; it changes
            neither labels nor order.

        Raises:
            ValueError: `thresholds`, `label_names` or `calibration` have another length than there are classes.
            TypeError: `calibration` is a dictionary of groups.
        """
        logits = (outputs if isinstance(outputs, torch.Tensor) else outputs.logits).detach().float().cpu()
        scores = logits.sigmoid()
        limits = torch.as_tensor(0.5 if thresholds is None else thresholds, dtype=scores.dtype)
        if isinstance(calibration, dict):
            raise TypeError("calibration is a dictionary of groups; pass config.class_calibration, one pair a class.")
        per_class = {
            "thresholds": limits if limits.ndim else None,
            "label_names": label_names,
            "calibration": calibration,
        }
        for name, values in per_class.items():
            if values is not None and len(values) != scores.shape[1]:
                raise ValueError(f"{name} has {len(values)} entries for {scores.shape[1]} classes: give one a class.")
        probabilities = None
        if calibration is not None:
            temperature, bias = torch.tensor(calibration, dtype=torch.float64).T
            probabilities = (logits.double() / temperature + bias).sigmoid()
        results = []
        for image, kept in enumerate(scores >= limits):
            labels = []
            for index in kept.nonzero().flatten().tolist():
                name = index if label_names is None else label_names[index]
                labels.append({"label": name, "score": scores[image, index].item()})
                if probabilities is not None:
                    labels[-1]["probability"] = probabilities[image, index].item()
            results.append(sorted(labels, key=lambda entry: -entry["score"]))
        return results


__all__ = ["CSSFEImageProcessor"]
