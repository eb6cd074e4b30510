import dataclasses

import numpy as np
import pytest
import torch
from sklearn.covariance import shrunk_covariance

from modeling_cssfe import CSSFEForImageClassification
from modeling_cssfe.training import load_recipe, train
from modeling_cssfe.training.discriminant import DiscriminantStatistics, initialize_class_activation
from modeling_cssfe.training.environment import build_accelerator


def draw(images=200, width=6, classes=3, seed=0):
    generator = np.random.default_rng(seed)
    labels = (generator.random((images, classes)) < 0.3).astype(np.float32)
    features = generator.normal(size=(images, width)) @ generator.normal(size=(width, width)) + 3
    features += labels @ generator.normal(size=(classes, width))
    return features.astype(np.float32), labels


def solve(features, labels, batch=64, **options):
    statistics = DiscriminantStatistics(features.shape[1], labels.shape[1])
    for start in range(0, len(features), batch):
        statistics.update(*(torch.from_numpy(array[start : start + batch]) for array in (features, labels)))
    return [tensor.double().numpy() for tensor in statistics.solve(**options)]


@pytest.mark.parametrize("shrinkage", [0.1, 0.6, 1.0])
def test_directions_are_those_of_the_formula_with_scikit_learns_shrunken_covariance(shrinkage):
    features, labels = draw()
    weight, bias = solve(features, labels, shrinkage=shrinkage)
    covariance = shrunk_covariance(np.cov(features.T.astype(np.float64), bias=True), shrinkage)
    for c in range(3):
        present = labels[:, c] == 1
        difference = features[present].mean(0, dtype=np.float64) - features[~present].mean(0, dtype=np.float64)
        direction = np.linalg.inv(covariance) @ difference
        cosine = direction @ weight[c] / np.linalg.norm(direction) / np.linalg.norm(weight[c])
        assert cosine == pytest.approx(1, abs=1e-6)
    logits = features @ weight.T + bias
    np.testing.assert_allclose(logits.std(axis=0), 1.5, rtol=1e-3)
    np.testing.assert_allclose(logits.mean(axis=0), -1.0, atol=1e-3)


def test_unknown_labels_count_as_neither_present_nor_absent():
    features, labels = draw()
    unknown = labels.copy()
    unknown[:50, 1] = -1
    unknown[50:60, 1] = np.nan
    weight, _ = solve(features, unknown)
    known = np.arange(60, len(features))
    present, absent = (features[known][labels[known, 1] == value].mean(0, dtype=np.float64) for value in (1, 0))
    covariance = shrunk_covariance(np.cov(features.T.astype(np.float64), bias=True), 0.6)
    direction = np.linalg.inv(covariance) @ (present - absent)
    assert direction @ weight[1] / np.linalg.norm(direction) / np.linalg.norm(weight[1]) == pytest.approx(1, abs=1e-6)


def test_more_features_than_images_and_constant_features_stay_finite():
    features, labels = draw(images=12, width=40)
    features[:, 3] = 7.0
    weight, bias = solve(features, labels)
    assert np.isfinite(weight).all()
    assert np.isfinite(bias).all()
    weight, _ = solve(np.full_like(features, 2.0), labels)
    assert (weight == 0).all()


@pytest.mark.parametrize("value", [0, 1])
def test_a_class_in_no_image_or_in_all_is_an_error(value):
    features, labels = draw()
    labels[:, 2] = value
    with pytest.raises(ValueError, match="class 2 is present in none or in all of the 200 images"):
        solve(features, labels)


def test_shrinkage_is_checked():
    with pytest.raises(ValueError, match="shrinkage is 0"):
        solve(*draw(), shrinkage=0)


@pytest.mark.parametrize("ablation", ["net0", "net3"])
def test_the_maps_of_a_model_average_to_the_discriminant_of_its_features(ablation):
    names, counts = ["a", "b", "c"], [200, 50, 5]
    torch.manual_seed(0)
    model = CSSFEForImageClassification.from_backbone(
        "test_resnet",
        label_names=names,
        class_counts=counts,
        backbone_weights=False,
        label_embeddings="random",
        ablation=ablation,
        image_size=64,
    )
    pixels = torch.randn(24, 3, 64, 64)
    labels = (torch.rand(24, 3) < 0.4).float()
    batches = [{"pixel_values": pixels[i : i + 8], "labels": labels[i : i + 8]} for i in range(0, 24, 8)]
    initialize_class_activation(model, batches, build_accelerator("no"))
    with torch.no_grad():
        features = model.cssfe.backbone(pixels).mean((2, 3)).numpy()
        means = model(pixels).class_activation_maps.mean((2, 3)).numpy()
    weight, bias = solve(features, labels.numpy())
    np.testing.assert_allclose(means, features @ weight.T + bias, atol=2e-4)
    assert not model.training


@pytest.mark.parametrize("frozen", [False, True])
def test_a_run_starts_from_the_discriminant(frozen, tmp_path):
    values = {"class_activation_init": "discriminant", "learning_rate": 1e-12, "backbone_learning_rate": 1e-12}
    values |= {"epochs": 1, "ema_decay": None, "preset": "plus", "weight_decay": 0.0, "mixed_precision": "no"}
    if frozen:
        values |= {"freeze_backbone": True, "cache_features": str(tmp_path / "maps"), "feature_views": 1}
        values |= {"feature_precision": "fp32"}
    recipe = load_recipe("lt_digits", ["backbone=test_resnet", "freeze_batch_norm=true"], values)
    train(dataclasses.replace(recipe, image_size=64), tmp_path / "run", quiet=True)
    weight = CSSFEForImageClassification.from_pretrained(tmp_path / "run").cssfe.class_activation.weight
    other = CSSFEForImageClassification.from_backbone(
        "test_resnet", label_names=["a"], class_counts=[5], backbone_weights=False, label_embeddings="random"
    ).cssfe.class_activation.weight
    # Random first weights are within 1 / sqrt(D); a discriminant of such weak features is far larger.
    assert weight.abs().mean() > 3 * other.abs().mean()
