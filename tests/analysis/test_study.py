# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
import weakref

import numpy as np
import pytest
import torch
from planted import planted_model, random_batch
from scipy import stats

from modeling_cssfe import CSSFEConfig, CSSFEForImageClassification
from modeling_cssfe.analysis.study import ATTENUATIONS, CORRELATIONS, compare_networks


def batches(number=4, images=6):
    generator = torch.Generator().manual_seed(5)
    return [random_batch(generator, images) for _ in range(number)]


def compared(balanced, long_tailed, data, **options):
    return compare_networks(balanced, long_tailed, data, resamples=20, **options)


def test_maps_halved_keep_their_order_and_are_attenuated_by_half():
    result = compared(planted_model()[0], planted_model(gains=(1.0, 0.5))[0], batches())
    assert result.figures["spearman"].groups["head"].value == pytest.approx(1, abs=1e-12)
    assert result.figures["spearman"].groups["tail"].value == pytest.approx(1, abs=1e-12)
    for name in ATTENUATIONS:
        assert result.figures[name].groups["head"].value == 0
        assert result.figures[name].groups["tail"].value == 0.5
        interval = result.figures[name].per_class["blue"]
        assert (interval.low, interval.high) == (0.5, 0.5)
    # Noise and other images of these pictures, which are noise themselves, have no correlation with a map.
    for control in CORRELATIONS[1:]:
        assert abs(result.figures[control].groups["all"].value) < 0.1


def test_correlation_is_that_of_scipy_and_drift_that_of_the_outputs():
    def network(seed):
        torch.manual_seed(seed)
        config = CSSFEConfig(
            backbone="test_resnet",
            image_size=96,
            label_names=["red", "blue"],
            class_counts=[200, 5],
            ablation="net0",
        )
        return CSSFEForImageClassification(config).eval()

    first, second = network(0), network(1)
    generator = torch.Generator().manual_seed(0)
    data = [random_batch(generator, 5, 128) for _ in range(2)]
    result = compared(first, second, data)
    correlations, drifts = ([], []), ([], [])
    for batch in data:
        with torch.no_grad():
            outputs = [model(batch["pixel_values"]) for model in (first, second)]
        for image in range(5):
            for label in range(2):
                probabilities = [1 / (1 + np.exp(-float(output.logits[image, label]))) for output in outputs]
                if batch["labels"][image, label]:
                    maps = [output.class_activation_maps[image, label].flatten().numpy() for output in outputs]
                    correlations[label].append(stats.spearmanr(*maps).statistic)
                else:
                    drifts[label].append(probabilities[1] - probabilities[0])
    for label, name in enumerate(("red", "blue")):
        got = result.figures["spearman"].per_class[name].value
        assert got == pytest.approx(np.mean(correlations[label]), abs=1e-6)
        drift = result.figures["probability_drift_negative"].per_class[name].value
        assert drift == pytest.approx(np.mean(drifts[label]), abs=1e-6)


def test_logits_drift_by_what_the_maps_lose():
    # Net0's logit is the mean of its map: a bias of -2 moves all logits by -2.
    result = compared(planted_model()[0], planted_model(bias=(0.0, -2.0))[0], batches())
    for sign in ("positive", "negative"):
        assert result.figures[f"logit_drift_{sign}"].per_class["red"].value == pytest.approx(0, abs=1e-6)
        assert result.figures[f"logit_drift_{sign}"].per_class["blue"].value == pytest.approx(-2, abs=1e-5)
    # The order and the rise of the maps stay, their positive values do not.
    assert result.figures["spearman"].groups["tail"].value == pytest.approx(1, abs=1e-3)
    assert result.figures["attenuation_contrast"].groups["tail"].value == pytest.approx(0, abs=1e-5)
    assert result.figures["attenuation_positive"].groups["tail"].value == 1


def test_attention_that_is_almost_nothing_is_not_compared():
    # A bias of -2 leaves the balanced network no positive value of "blue"; how far its map rises is untouched.
    result = compared(planted_model(bias=(0.0, -2.0))[0], planted_model()[0], batches())
    assert result.figures["attenuation_positive"].per_class["blue"].value is None
    assert result.figures["attenuation_positive"].groups["tail"].value is None
    assert result.figures["attenuation_contrast"].per_class["blue"].value == pytest.approx(0, abs=1e-5)
    assert result.figures["attenuation_positive"].groups["all"].value == 0


def test_single_images_and_batches_agree():
    whole = batches(2, 6)
    single = [
        {key: value[row : row + 1] for key, value in batch.items()}
        for batch in whole
        for row in range(len(batch["labels"]))
    ]
    networks = planted_model()[0], planted_model(gains=(1.0, 0.7), bias=(0.0, -0.1))[0]
    first, second = compared(*networks, whole), compared(*networks, single)
    assert first.num_maps == second.num_maps
    for name, summary in first.figures.items():
        for label, entry in summary.per_class.items():
            other = second.figures[name].per_class[label]
            assert (entry.value, entry.low, entry.high) == pytest.approx(
                (other.value, other.low, other.high), abs=1e-6, nan_ok=True
            ), name


def test_mirrored_images_give_the_same_figures():
    data = batches()
    mirrored = [{**batch, "pixel_values": batch["pixel_values"].flip(-1)} for batch in data]
    networks = planted_model()[0], planted_model(gains=(1.0, 0.7), bias=(0.0, -0.1))[0]
    plain, turned = compared(*networks, data), compared(*networks, mirrored)
    for name in ("spearman", *ATTENUATIONS):
        for label in ("red", "blue"):
            got, expected = turned.figures[name].per_class[label].value, plain.figures[name].per_class[label].value
            assert got == pytest.approx(expected, abs=1e-5)


def test_networks_that_see_other_sizes_are_compared_place_by_place():
    # A red square in the upper left quarter, at 64 and at 128 px.
    pixels = torch.zeros(4, 3, 64, 64)
    pixels[:, 0, :32, :32] = torch.rand(4, 32, 32, generator=torch.Generator().manual_seed(0)) / 2 + 0.5
    large = torch.nn.functional.interpolate(pixels, scale_factor=2)
    labels = torch.tensor([[1.0, 0.0]] * 4)
    batch = {"pixel_values_balanced": pixels, "pixel_values_long_tailed": large, "labels": labels}
    aligned = compared(planted_model()[0], planted_model()[0], [batch])
    assert aligned.figures["spearman"].per_class["red"].value > 0.9
    moved = compared(planted_model()[0], planted_model()[0], [{**batch, "pixel_values_long_tailed": large.flip(-1)}])
    assert moved.figures["spearman"].per_class["red"].value < 0


def test_the_stream_is_read_once_and_forgotten():
    alive = weakref.WeakSet()
    most = 0

    class Pixels(torch.Tensor):
        pass

    def stream():
        nonlocal most
        generator = torch.Generator().manual_seed(0)
        for _ in range(30):
            batch = random_batch(generator, 2)
            batch["pixel_values"] = batch["pixel_values"].as_subclass(Pixels)
            alive.add(batch["pixel_values"])
            most = max(most, len(alive))
            yield batch

    result = compared(planted_model()[0], planted_model()[0], stream())
    assert result.num_images == 60
    # The batch under way and the one that is being made; wrappers of torch may outlive a step.
    assert most <= 4


def test_unknown_labels_take_no_part():
    data = batches(2)
    for batch in data:
        batch["labels"][:, 1] = torch.where(batch["labels"][:, 1] > 0, 1.0, -1.0)
    result = compared(planted_model()[0], planted_model()[0], data)
    assert result.figures["logit_balanced_negative"].per_class["blue"].value is None
    assert result.figures["logit_balanced_positive"].per_class["blue"].value is not None


def test_wrong_pairs_and_options_are_one_line_errors():
    model, other = planted_model()[0], planted_model()[0]
    with pytest.raises(ValueError, match="unknown sign"):
        compared(model, other, batches(), sign="plus")
    with pytest.raises(ValueError, match="has no maps 'enhanced'"):
        compared(model, other, batches(), kind="enhanced")
    empty = [{**batch, "labels": torch.zeros(6, 2)} for batch in batches(1)]
    with pytest.raises(ValueError, match="no image shows a class"):
        compared(model, other, empty)
    strange = CSSFEForImageClassification(
        CSSFEConfig(backbone="test_resnet", image_size=64, label_names=["blue", "red"], ablation="net0")
    )
    with pytest.raises(ValueError, match="other classes"):
        compared(strange, other, batches())
