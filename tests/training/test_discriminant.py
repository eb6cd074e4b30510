import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file
from scipy.special import softmax
from sklearn.covariance import shrunk_covariance
from tiny_runs import tiny_overrides

from modeling_cssfe import CSSFEConfig, CSSFEForImageClassification, CSSFEImageProcessor
from modeling_cssfe.common.environment import build_accelerator
from modeling_cssfe.data import decode_image, label_matrix, load_images
from modeling_cssfe.recipes import Recipe
from modeling_cssfe.training import load_recipe, train
from modeling_cssfe.training.discriminant import (
    DiscriminantStatistics,
    KeptDiscriminant,
    contrasts,
    first_look,
    initialize_class_activation,
    tell_apart,
)
from modeling_cssfe.training.frozen_features import FeatureDataset
from modeling_cssfe.training.pretrained_classifier import PretrainedClassifier, load_pretrained_classifier


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


def test_a_class_loses_what_it_has_in_common_with_classes_of_similar_names():
    contrast = np.array([0.5, -0.25, 0, 1, 1 / 3])
    generator = np.random.default_rng(0)
    weight, embeddings = generator.normal(size=(5, 7)), generator.normal(size=(5, 9))
    centred = embeddings - embeddings.mean(0)
    wanted = weight.copy()
    for c in range(5):
        others = [b for b in range(5) if b != c]
        cosines = [centred[c] @ centred[b] / np.linalg.norm(centred[c]) / np.linalg.norm(centred[b]) for b in others]
        for share, b in zip(softmax(np.array(cosines) / 0.2), others, strict=True):
            wanted[c] -= contrast[c] * share * weight[b]
    found = tell_apart(torch.from_numpy(weight), torch.from_numpy(embeddings), torch.from_numpy(contrast))
    np.testing.assert_allclose(found, wanted, rtol=1e-9)


def test_names_that_are_all_alike_and_a_class_alone_stay_finite():
    weight = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 9.0]])
    half = torch.full((3,), 0.5)
    found = tell_apart(weight, torch.ones(3, 4), half)
    torch.testing.assert_close(found, weight - 0.5 * torch.tensor([[4.0, 6.5], [3.0, 5.5], [2.0, 3.0]]))
    assert torch.equal(tell_apart(weight[:1], torch.ones(1, 4), half[:1]), weight[:1])


@pytest.mark.parametrize(
    ("ablation", "wanted"), [("net1", (0, 0, 0)), ("net2", (2 / 3, 2 / 3, 2 / 3)), ("net3", (2 / 3, 1 / 3, 1))]
)
def test_the_mask_tells_rarer_classes_apart_from_their_likes_more_and_no_enhancement_tells_none(ablation, wanted):
    config = CSSFEConfig(label_names=["medium", "head", "tail"], class_counts=[50, 200, 5], ablation=ablation)
    torch.testing.assert_close(contrasts(config), torch.tensor(wanted, dtype=torch.float64))


def test_a_model_with_a_discriminant_keeps_it_with_classes_told_apart():
    torch.manual_seed(0)
    model = small_model(preset="plus", label_names=["a", "b"])
    pixels, labels = torch.randn(24, 3, 64, 64), (torch.rand(24, 2) < 0.4).float()
    initialize_class_activation(model, [{"pixel_values": pixels, "labels": labels}], build_accelerator("no"))
    with torch.no_grad():
        output = model.cssfe(pixels)
        means = output.class_activation_maps.mean((2, 3))
        known = model.discriminant(output.last_hidden_state)
    # Of two classes, here of the tail, each has one neighbour, the other, and loses all of it.
    apart = means - means.flip(1)
    torch.testing.assert_close(known - known.mean(0), apart - apart.mean(0), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(known.mean(0), labels.mean().logit().expand(2), rtol=1e-3, atol=1e-3)


def test_what_a_model_keeps_is_the_mean_of_a_discriminant_for_each_descriptor():
    torch.manual_seed(0)
    model = small_model(preset="plus", label_names=["a", "b"])
    classifier = PretrainedClassifier(torch.randn(7, 96), torch.randn(7))
    model.set_pretrained_classifier(classifier.weight, classifier.bias)
    features, labels = torch.randn(60, 96, 5, 5), (torch.rand(60, 2) < 0.4).float()
    kept = KeptDiscriminant(model, classifier=classifier)
    for rows in torch.arange(60).split(16):
        kept.update(features[rows], labels[rows])
    model.set_discriminant(*kept.solve())
    descriptors = [descriptor.numpy() for descriptor in model.discriminant.descriptors(features)]
    assert [descriptor.shape[1] for descriptor in descriptors] == [96, 7, 7]
    of_means = DiscriminantStatistics(96, 2, classifier=classifier)  # the classifier's rows count there alone
    of_means.update(torch.from_numpy(descriptors[0]), labels)
    weights = [of_means.solve()[0].double().numpy()]
    weights += [solve(descriptor, labels.numpy())[0] for descriptor in descriptors[1:]]
    logits = sum(descriptor @ weight.T for descriptor, weight in zip(descriptors, weights, strict=True)) / 3
    logits = logits - logits[:, ::-1]  # of two classes of the tail each has one neighbour, the other
    logits += labels.mean().logit().item() - logits.mean(axis=0)
    np.testing.assert_allclose(model.discriminant(features).numpy(), logits, rtol=1e-3, atol=1e-3)


def test_a_model_that_keeps_none_is_told_so():
    with pytest.raises(ValueError, match="this model has no discriminant"):
        KeptDiscriminant(small_model(label_names=["a", "b"]))


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


def pretrained(rows=7, width=6, seed=1):
    generator = np.random.default_rng(seed)
    return generator.normal(size=(rows, width)), generator.normal(size=rows)


def test_a_pretrained_classifier_adds_its_rows_by_how_much_likelier_their_classes_are():
    features, labels = draw()
    rows, bias = pretrained()
    classifier = PretrainedClassifier(torch.from_numpy(rows).float(), torch.from_numpy(bias).float())
    statistics = DiscriminantStatistics(6, 3, classifier=classifier)
    for start in range(0, 200, 64):
        statistics.update(*(torch.from_numpy(array[start : start + 64]) for array in (features, labels)))
    weight, _ = (tensor.double().numpy() for tensor in statistics.solve())
    discriminant, _ = solve(features, labels)
    probabilities = softmax(features.astype(np.float64) @ rows.T + bias, axis=1)
    for c in range(3):
        present = labels[:, c] == 1
        relevance = np.zeros(7)
        for k in range(7):
            p, q = probabilities[present, k].mean(), probabilities[~present, k].mean()
            relevance[k] = max(0.0, p * np.log(p / (q + 0.1 / 7)))
        wanted = relevance @ (rows - rows.mean(0))
        wanted = wanted / (features @ wanted).std() + discriminant[c] / (features @ discriminant[c]).std()
        np.testing.assert_allclose(weight[c], 1.5 * wanted / (features @ wanted).std(), rtol=2e-3, atol=1e-4)


def test_a_pretrained_class_that_never_shows_and_a_classifier_that_says_nothing_do_no_harm():
    features, labels = draw()
    rows, bias = pretrained()
    never = torch.tensor([*bias[:6], -1e6], dtype=torch.float32)
    for weight, biases in ((rows, never), (np.ones_like(rows), torch.zeros(7))):
        classifier = PretrainedClassifier(torch.from_numpy(weight).float(), biases)
        statistics = DiscriminantStatistics(6, 3, classifier=classifier)
        statistics.update(torch.from_numpy(features), torch.from_numpy(labels))
        found, _ = statistics.solve()
        assert torch.isfinite(found).all()
    # Rows that are all alike tell no class: what is left is the discriminant.
    np.testing.assert_allclose(found.numpy(), solve(features, labels)[0], rtol=1e-3, atol=1e-5)


def backbone_file(path, **left_out):
    """A file of timm's `test_resnet` with its classifier; gives its state."""
    torch.manual_seed(0)
    state = timm.create_model("test_resnet").state_dict()
    save_file({key: value for key, value in state.items() if key not in left_out}, path)
    return state


def small_model(**options):
    return CSSFEForImageClassification.from_backbone(
        "test_resnet", class_counts=[9, 5], label_embeddings="random", **{"backbone_weights": False, **options}
    )


def test_the_classifier_is_read_from_the_file_of_the_backbones_weights(tmp_path):
    state = backbone_file(tmp_path / "whole.safetensors")
    timm_model = timm.create_model("test_resnet").eval()
    timm_model.load_state_dict(state)
    model = small_model(backbone_weights=tmp_path / "whole.safetensors").eval()
    classifier = load_pretrained_classifier(model, tmp_path / "whole.safetensors")
    pixels = torch.randn(3, 3, 64, 64)
    with torch.no_grad():
        found = classifier.probabilities(model.cssfe.backbone(pixels).mean((2, 3)))
        torch.testing.assert_close(found, timm_model(pixels).softmax(dim=1))


def test_a_classifier_that_is_not_there_or_does_not_fit_is_an_error_in_one_line(tmp_path):
    whole, bare, other = (tmp_path / f"{name}.safetensors" for name in ("whole", "bare", "other"))
    state = backbone_file(whole)
    backbone_file(bare, **{"fc.weight": None, "fc.bias": None})
    save_file({**state, "fc.weight": torch.zeros(10, 3)}, other)
    for model, weights, part in (
        (small_model(), False, "backbone_weights is false"),
        (small_model(), bare, "do not hold fc.weight, the classifier of 'test_resnet'"),
        (small_model(), other, "takes 3 features"),
        (small_model(feature_size=8), whole, "feature_size 8 puts a new layer behind 'test_resnet'"),
    ):
        with pytest.raises(ValueError, match=part) as caught:
            load_pretrained_classifier(model, weights)
        assert "set class_activation_init to discriminant" in str(caught.value)
        assert "\n" not in str(caught.value)


def test_of_cached_views_the_first_look_is_at_whole_images_alone(tiny_data):
    dataset = load_images(tiny_data)["train"]
    maps = {view: torch.randn(len(dataset), 4, 2, 2) for view in ("plain", "flip", "crop0")}
    loader = SimpleNamespace(dataset=FeatureDataset(dataset, maps))
    batches = list(first_look(Recipe(batch_size=4), None, None, loader))
    assert torch.equal(torch.cat([batch["pixel_values"] for batch in batches]), maps["plain"])
    assert torch.equal(
        torch.cat([batch["labels"] for batch in batches]), torch.from_numpy(label_matrix(dataset)).float()
    )


@pytest.mark.parametrize("frozen", [False, True])
def test_a_run_starts_from_the_discriminant(frozen, tmp_path):
    values = {"class_activation_init": "discriminant", "learning_rate": 1e-12, "backbone_learning_rate": 1e-12}
    values |= {"epochs": 1, "ema_decay": None, "preset": "plus", "weight_decay": 0.0, "mixed_precision": "no"}
    if frozen:
        values |= {"freeze_backbone": True, "cache_features": str(tmp_path / "maps"), "feature_views": 1}
        values |= {"feature_precision": "fp32"}
    recipe = load_recipe("lt_digits", ["backbone=test_resnet", "freeze_batch_norm=true"], values)
    train(dataclasses.replace(recipe, image_size=64), tmp_path / "run", quiet=True)
    model = CSSFEForImageClassification.from_pretrained(tmp_path / "run")
    weight = model.cssfe.class_activation.weight
    other = CSSFEForImageClassification.from_backbone(
        "test_resnet", label_names=["a"], class_counts=[5], backbone_weights=False, label_embeddings="random"
    ).cssfe.class_activation.weight
    # Random first weights are within 1 / sqrt(D); a discriminant of such weak features is far larger.
    assert weight.abs().mean() > 3 * other.abs().mean()
    # What the model keeps of it, classes told apart, is not trained and not averaged away.
    kept = tell_apart(weight.detach().flatten(1), model.cssfe.label_embeddings, contrasts(model.config))
    torch.testing.assert_close(model.discriminant.weight, kept, rtol=1e-3, atol=1e-4)


def test_plus_without_first_maps_in_closed_form_is_told_that_it_lacks_them(tiny_data, tmp_path, caplog):
    train(load_recipe(None, tiny_overrides(tiny_data, preset="plus", epochs=1)), tmp_path / "run", quiet=True)
    assert "class_activation_init is random" in caplog.text
    assert "the discriminant, with a share of 0.5 in the logit, stays 0" in caplog.text


def test_a_run_hears_the_pretrained_classifier(tiny_data, tmp_path):
    file = tmp_path / "backbone.safetensors"
    backbone_file(file)
    values = {"class_activation_init": "discriminant_and_classifier", "learning_rate": 1e-12, "weight_decay": 0.0}
    values |= {"backbone_weights": str(file), "epochs": 1, "ema_decay": None, "freeze_backbone": True}
    train(load_recipe(None, tiny_overrides(tiny_data, mixed_precision="no"), values), tmp_path / "run", quiet=True)
    model = CSSFEForImageClassification.from_pretrained(tmp_path / "run")
    data = load_images(tiny_data)["train"]
    processor = CSSFEImageProcessor.from_pretrained(tmp_path / "run")
    pixels = processor([decode_image(row["image"]) for row in data], return_tensors="pt")["pixel_values"]
    statistics = DiscriminantStatistics(96, 3, classifier=load_pretrained_classifier(model, file))
    with torch.no_grad():
        statistics.update(model.cssfe.backbone(pixels).mean((2, 3)), torch.from_numpy(label_matrix(data)))
    weight, _ = statistics.solve()
    torch.testing.assert_close(model.cssfe.class_activation.weight.flatten(1), weight, rtol=1e-3, atol=1e-5)


def test_a_run_of_plus_keeps_the_pretrained_classifier_and_a_second_run_goes_on_with_it(tiny_data, tmp_path):
    file = tmp_path / "backbone.safetensors"
    state = backbone_file(file)
    values = {"preset": "plus", "class_activation_init": "discriminant_and_classifier", "backbone_weights": str(file)}
    train(load_recipe(None, tiny_overrides(tiny_data, epochs=1), values), tmp_path / "first", quiet=True)
    model = CSSFEForImageClassification.from_pretrained(tmp_path / "first")
    assert model.config.num_pretrained_labels == len(state["fc.bias"]) == 1000
    assert torch.equal(model.discriminant.pretrained_weight, state["fc.weight"])
    assert torch.equal(model.discriminant.pretrained_bias, state["fc.bias"])
    assert model.discriminant.weight.shape == (3, 96 + 2000)
    assert all(part.any(dim=1).all() for part in model.discriminant.weight.split([96, 1000, 1000], dim=1))
    values["initial_model"] = str(tmp_path / "first")
    train(load_recipe(None, tiny_overrides(tiny_data, epochs=1), values), tmp_path / "second", quiet=True)
    second = CSSFEForImageClassification.from_pretrained(tmp_path / "second").discriminant
    for name, buffer in model.discriminant.named_buffers():
        assert torch.equal(buffer, second.get_buffer(name))
