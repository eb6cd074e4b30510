# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""A first guess of the class activation maps in closed form: the shrunken linear discriminant of pretrained features.

A class with a handful of images cannot teach a map where to look within a few epochs of gradient steps. Its mean
feature, seen against the covariance that all images share, can: on photographs in the shape of LT-VOC this closed form
alone classifies better than a 1x1 convolution trained for fifteen epochs (docs/accuracy.md). The classifier that the
backbone was pretrained with knows more: of four images with cows it says "ox", and what an ox looks like it has learned
from a thousand others. Its rows, weighted by how much likelier their classes are where a class is present, are a second
direction.

What a model keeps beside its trained network (`discriminant_share`) goes further. All that the pretrained classifier
says of an image, of the whole and of its windows, describes it, and gets discriminants of its own. And the names of the
classes, which know what is easily confused, enhance it: what a class's row shares with those of similar names is taken
off, more of it the rarer the class. Not part of the paper.
"""

from collections.abc import Iterable
from typing import Any

import torch
from accelerate import Accelerator
from torch.nn import functional as F
from tqdm.auto import tqdm

from ..configuration_cssfe import GROUPS, CSSFEConfig
from ..data import EvaluationTransform, build_data_loader
from ..image_processing_cssfe import CSSFEImageProcessor
from ..modeling_cssfe import CSSFEForImageClassification
from ..recipes import Recipe
from .frozen_features import FeatureDataset
from .preparation import RunData, loader_workers
from .pretrained_classifier import PretrainedClassifier


# Well over half: a thousand images say little about the covariance of two thousand features.
SHRINKAGE = 0.6
# Below this share of an even one, a pretrained class counts as never seen: ratios of such small numbers mean nothing.
SELDOM = 0.1
# How alike names are that make neighbours.
LIKENESS_TEMPERATURE = 0.2
# Logits of a trained network are about as large, and mostly negative, as most labels are absent.
SPREAD, OFFSET = 1.5, -1.0


class DiscriminantStatistics:
    """Sums over images from which the discriminant follows; memory does not grow with the number of images.

    Args:
        num_features: Width D of the features.
        num_classes: Number C of classes.
        device: Where the fp64 sums are kept.
        classifier: The classifier that the backbone was pretrained with, if it is to be heard.
    """

    def __init__(
        self,
        num_features: int,
        num_classes: int,
        device: torch.device | str = "cpu",
        classifier: PretrainedClassifier | None = None,
    ):
        options: dict[str, Any] = {"dtype": torch.float64, "device": device}
        self.count = 0
        self.total = torch.zeros(num_features, **options)
        self.products = torch.zeros(num_features, num_features, **options)
        self.class_totals = torch.zeros(2, num_classes, num_features, **options)  # absent, present
        self.class_counts = torch.zeros(2, num_classes, **options)
        self.classifier = None if classifier is None else classifier.to(**options)
        if self.classifier is not None:
            self.posterior_totals = torch.zeros(2, num_classes, len(self.classifier.bias), **options)

    def update(self, features: torch.Tensor, labels: torch.Tensor) -> None:
        """Add `(B, D)` features with `(B, C)` labels; `-1` or NaN is unknown and counts as neither."""
        features, labels = features.double(), labels.to(features.device)
        self.count += len(features)
        self.total += features.sum(dim=0)
        self.products += features.T @ features
        for value in (0, 1):
            chosen = (labels == value).double()
            self.class_totals[value] += chosen.T @ features
            self.class_counts[value] += chosen.sum(dim=0)
            if self.classifier is not None:
                self.posterior_totals[value] += chosen.T @ self.classifier.probabilities(features)

    def solve(
        self, shrinkage: float = SHRINKAGE, spread: float = SPREAD, offset: float = OFFSET
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The discriminant: for each class `S^-1 (mean where present - mean where absent)`.

        S is the covariance over all images, shrunken: `(1 - shrinkage) cov + shrinkage tr(cov) / D I`. A pretrained
        classifier adds its rows, at equal spread, weighted by `p log(p / q)` where that is positive: p and q are the
        mean probabilities of the row's class where the new class is present and where it is absent (q and a tenth of an
        even share), so the weight is the row's part of the divergence between the two. Each class is scaled so that its
        logit has the standard deviation `spread` and the mean `offset` over the images.

        Args:
            shrinkage: In (0, 1].
            spread: Standard deviation of the logits, > 0.
            offset: Mean of the logits.

        Returns:
            Weight `(C, D)` and bias `(C,)`, fp32.

        Raises:
            ValueError: A class is present in no image or in all, or shrinkage is out of range.
        """
        if not 0 < shrinkage <= 1:
            raise ValueError(f"shrinkage is {shrinkage}: give a number in (0, 1].")
        empty = (self.class_counts == 0).any(dim=0).nonzero().flatten().tolist()
        if empty:
            raise ValueError(
                f"class {empty[0]} is present in none or in all of the {self.count} images: a discriminant needs both; "
                "set class_activation_init to random."
            )
        mean = self.total / self.count
        covariance = self.products / self.count - torch.outer(mean, mean)
        # One direction may hold no variance at all; the floor keeps the solution finite where all are equal.
        average = (covariance.diagonal().mean()).clamp(min=torch.finfo(torch.float32).tiny)
        shrunken = (1 - shrinkage) * covariance
        shrunken.diagonal().add_(shrinkage * average)
        absent, present = self.class_totals / self.class_counts[..., None]
        directions = _of_unit_spread(torch.linalg.solve(shrunken, (present - absent).T).T, covariance)
        if self.classifier is not None:
            rows = self.classifier.weight - self.classifier.weight.mean(dim=0)  # what all rows share tells no class
            directions = _of_unit_spread(directions + _of_unit_spread(self._relevance() @ rows, covariance), covariance)
        weight = spread * directions
        return weight.float(), (offset - weight @ mean).float()

    def _relevance(self) -> torch.Tensor:
        """`(C, K)`: how much each pretrained class speaks for each class."""
        absent, present = self.posterior_totals / self.class_counts[..., None]
        floor = SELDOM / present.shape[1]
        return (present * (present.clamp(min=torch.finfo(present.dtype).tiny) / (absent + floor)).log()).clamp(min=0)


def likeness(label_embeddings: torch.Tensor, temperature: float = LIKENESS_TEMPERATURE) -> torch.Tensor:
    """`(C, C)` softmax over other classes of the cosines of centred `(C, T)` label embeddings over a temperature."""
    directions = F.normalize(label_embeddings.double() - label_embeddings.double().mean(dim=0), dim=1)
    cosines = directions @ directions.T
    return cosines.fill_diagonal_(-torch.inf).div(temperature).softmax(dim=1)


def contrasts(config: CSSFEConfig) -> torch.Tensor:
    """How much of its neighbours' rows each class's row loses: the enhancement of a discriminant. Not in the paper.

    Args:
        config: Its ablation, and the group of each class; without `class_counts` all are head classes.

    Returns:
        `(C,)`, fp64, in [0, 1]. 0 for net1, which enhances nothing. 2/3 for every class of net2. For net3 in
        progression, as its mask has it: 1/3 for head, 2/3 for medium, 1 for tail classes.
    """
    ranks = torch.tensor(config.group_ranks, dtype=torch.float64)
    if config.uses_mask:
        return (ranks + 1) / len(GROUPS)
    # The mean of the three, so that a mask changes who is enhanced, and not by how much.
    return torch.full_like(ranks, (len(GROUPS) + 1) / (2 * len(GROUPS)) if config.uses_enhancement else 0)


def tell_apart(weight: torch.Tensor, label_embeddings: torch.Tensor, contrast: torch.Tensor) -> torch.Tensor:
    """Take off each class's row what classes with similar names have: `W_c - contrast_c sum_b S_cb W_b`.

    S is the `likeness` of the label embeddings. The enhancement of the method adds what this takes off: a class with
    few images is confused with its likes first, and average precision asks to be told apart from them.

    Args:
        weight: `(C, D)`.
        label_embeddings: `(C, T)`.
        contrast: `(C,)` shares of the neighbours.

    Returns:
        `(C, D)`; unchanged where there is one class alone.
    """
    if len(weight) < 2:
        return weight
    return weight - contrast.to(weight)[:, None] * (likeness(label_embeddings).to(weight) @ weight)


def _of_unit_spread(directions: torch.Tensor, covariance: torch.Tensor) -> torch.Tensor:
    """Scale `(C, D)` directions so that logits along them have the standard deviation 1; those of none become 0."""
    deviation = (directions @ covariance * directions).sum(dim=1, keepdim=True).clamp(min=0).sqrt()
    return torch.where(deviation > 0, directions / deviation, 0)


class KeptDiscriminant:
    """Sums over images from which the discriminant follows that a model keeps: the mean of one for each descriptor.

    Args:
        model: Has a discriminant, and label embeddings.
        device: Where the fp64 sums are kept.
        classifier: As for `DiscriminantStatistics`; its rows count for the mean features.

    Raises:
        ValueError: The model has no discriminant.
    """

    def __init__(
        self,
        model: CSSFEForImageClassification,
        device: torch.device | str = "cpu",
        classifier: PretrainedClassifier | None = None,
    ):
        if model.discriminant is None:
            raise ValueError("this model has no discriminant; give net1, net2 or net3 a discriminant_share > 0.")
        self.discriminant = model.discriminant
        self.label_embeddings = model.cssfe.label_embeddings
        self.contrasts = contrasts(model.config)
        labels = model.config.num_pretrained_labels
        widths = [model.cssfe.class_activation.in_channels] + [labels, labels] * (labels > 0)
        self.statistics = [
            DiscriminantStatistics(width, model.num_labels, device, None if place else classifier)
            for place, width in enumerate(widths)
        ]

    def update(self, features: torch.Tensor, labels: torch.Tensor) -> None:
        """Add `(B, D, H, W)` features with `(B, C)` labels."""
        descriptors = self.discriminant.descriptors(features)
        for statistics, descriptor in zip(self.statistics, descriptors, strict=True):
            statistics.update(descriptor, labels)

    def solve(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The discriminant, with classes of similar names told apart, see `contrasts` and `tell_apart`.

        Its logits have the log odds of a label's mean frequency as their mean over the images, so that .5 is a
        threshold which few absent labels pass. One number for all classes: each class's own would hide the rare ones.

        Returns:
            Weight `(C, D)` or `(C, D + 2K)` and bias `(C,)`, fp32.

        Raises:
            ValueError: A class is present in no image or in all.
        """
        first = self.statistics[0]
        label_embeddings = self.label_embeddings.to(first.total.device)
        blocks = [tell_apart(one.solve()[0].double(), label_embeddings, self.contrasts) for one in self.statistics]
        blocks = [block / len(blocks) for block in blocks]
        frequency = (first.class_counts[1] / first.class_counts.sum(dim=0)).mean()
        means = [block @ (one.total / one.count) for block, one in zip(blocks, self.statistics, strict=True)]
        return torch.cat(blocks, dim=1).float(), (frequency.logit() - torch.stack(means).sum(dim=0)).float()


@torch.no_grad()
def initialize_class_activation(
    model: CSSFEForImageClassification,
    batches: Iterable[dict[str, torch.Tensor]],
    accelerator: Accelerator,
    progress: bool = False,
    classifier: PretrainedClassifier | None = None,
) -> None:
    """Set a model's class activation layer to the discriminant of its features.

    A model with a `discriminant_share` also keeps one, see `KeptDiscriminant`, as a part of the logit.

    Args:
        model: With its backbone's weights, on the accelerator's device.
        batches: `pixel_values` and `labels` of the training images, each image once or equally often.
        accelerator: Its device and precision.
        progress: Show a progress bar.
        classifier: As for `DiscriminantStatistics`.

    Raises:
        ValueError: A class is present in no image or in all.
    """
    classes, width = model.cssfe.class_activation.weight.shape[:2]
    if model.discriminant is None:
        kept, statistics = None, DiscriminantStatistics(width, classes, accelerator.device, classifier)
    else:
        kept = KeptDiscriminant(model, accelerator.device, classifier)
        statistics = kept.statistics[0]  # the first descriptor is what the maps are made from
    training = model.training
    model.eval()
    inputs: list[torch.Tensor] = []
    # What the layer is given is what the discriminant is of, whatever stands between it and the backbone.
    hook = model.cssfe.class_activation.register_forward_pre_hook(lambda module, arguments: inputs.extend(arguments))
    try:
        for batch in tqdm(batches, desc="first maps", leave=False, disable=not progress):
            with accelerator.autocast():
                model(batch["pixel_values"].to(accelerator.device))
            features = inputs.pop().float()
            if kept is None:
                statistics.update(features.mean(dim=(2, 3)), batch["labels"])
            else:
                kept.update(features, batch["labels"])
    finally:
        hook.remove()
        model.train(training)
    model.set_class_activation(*statistics.solve())
    if kept is not None:
        model.set_discriminant(*kept.solve())


def first_look(
    recipe: Recipe, processor: CSSFEImageProcessor, data: RunData, train_loader: Any
) -> Iterable[dict[str, torch.Tensor]]:
    """Batches of the training images as they are, whole: a crop may have lost what its labels name.

    On photographs in the shape of LT-VOC five views more, four of them crops, cost the discriminant .5 points, and 1.1
    on the tail.
    """
    images = getattr(train_loader, "dataset", None)
    if isinstance(images, FeatureDataset):
        plain = images.views[0].split(2 * recipe.batch_size)
        labels = images.labels.split(2 * recipe.batch_size)
        return ({"pixel_values": maps, "labels": rows} for maps, rows in zip(plain, labels, strict=True))
    return build_data_loader(
        data.splits[recipe.train_split],
        EvaluationTransform(processor),
        batch_size=2 * recipe.batch_size,
        num_workers=loader_workers(recipe),
    )


__all__ = [
    "DiscriminantStatistics",
    "KeptDiscriminant",
    "contrasts",
    "first_look",
    "initialize_class_activation",
    "likeness",
    "tell_apart",
]
