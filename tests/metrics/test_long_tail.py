# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
import json
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from scored_cases import columns, scored_labels
from sklearn import metrics as sklearn_metrics

from modeling_cssfe.metrics import long_tail_map


# Training images of the classes of LT-VOC.
LT_VOC = {
    "head": {"person": 775, "chair": 479, "car": 249, "diningtable": 240, "bottle": 154, "pottedplant": 100},
    "medium": {"sofa": 82, "tvmonitor": 64, "dog": 48, "bicycle": 34, "cat": 29, "motorbike": 20},
    "tail": {"bus": 17, "boat": 14, "horse": 11, "bird": 8, "train": 7, "aeroplane": 6, "sheep": 5, "cow": 4},
}
NAMES = [name for group in LT_VOC.values() for name in group]
COUNTS = [count for group in LT_VOC.values() for count in group.values()]


@pytest.fixture(scope="module")
def lt_voc_case():
    """Scores that are better than chance, for 300 images, in an order of classes that is not that of the groups."""
    generator = np.random.default_rng(0)
    labels = (generator.random((300, 20)) < 0.15).astype(int)
    scores = 1 / (1 + np.exp(-(2 * labels - 2 + generator.normal(size=labels.shape))))
    order = generator.permutation(20)
    return scores, labels, [COUNTS[i] for i in order], [NAMES[i] for i in order]


def test_groups_of_lt_voc_are_six_six_and_eight_and_their_means_are_scikit_learn_s(lt_voc_case):
    scores, labels, counts, names = lt_voc_case
    result = long_tail_map(scores, labels, counts, label_names=names)
    expected = dict(zip(names, sklearn_metrics.average_precision_score(labels, scores, average=None), strict=True))
    assert result["per_class"] == pytest.approx(expected, abs=1e-9)
    for group, members in LT_VOC.items():
        figures = result["groups"][group]
        assert set(figures["classes"]) == set(members)
        assert figures["num_classes"] == figures["num_evaluated"] == {"head": 6, "medium": 6, "tail": 8}[group]
        assert result[f"map_{group}"] == pytest.approx(np.mean([expected[name] for name in members]), abs=1e-9)
        assert figures["map"] == result[f"map_{group}"]
    assert result["map_total"] == pytest.approx(np.mean(list(expected.values())), abs=1e-9)
    assert result["absent_classes"] == []


def test_the_other_figures_of_groups_and_classes_are_scikit_learn_s(lt_voc_case):
    scores, labels, counts, names = lt_voc_case
    result = long_tail_map(scores, labels, counts, label_names=names)
    auroc = sklearn_metrics.roc_auc_score(labels, scores, average=None)
    precision, recall, f1, support = sklearn_metrics.precision_recall_fscore_support(
        labels, scores >= 0.5, average=None, zero_division=0
    )
    for index, row in enumerate(result["class_table"]):
        assert row["name"] == names[index]
        assert row["class_count"] == counts[index]
        assert row["num_positives"] == support[index]
        assert row["num_known"] == 300
        assert row["auroc"] == pytest.approx(auroc[index], abs=1e-9)
        assert row["precision"] == pytest.approx(precision[index], abs=1e-9)
        assert row["recall"] == pytest.approx(recall[index], abs=1e-9)
        assert row["f1"] == pytest.approx(f1[index], abs=1e-9)
        assert names[index] in LT_VOC[row["group"]]
    assert result["auroc_macro"] == pytest.approx(auroc.mean(), abs=1e-9)
    assert result["coverage_error"] == pytest.approx(sklearn_metrics.coverage_error(labels, scores), abs=1e-9)
    assert result["ranking_loss"] == pytest.approx(sklearn_metrics.label_ranking_loss(labels, scores), abs=1e-9)
    for group, members in LT_VOC.items():
        mask = np.array([name in members for name in names])
        assert result["groups"][group]["auroc_macro"] == pytest.approx(auroc[mask].mean(), abs=1e-9)
        assert result["groups"][group]["f1_macro"] == pytest.approx(f1[mask].mean(), abs=1e-9)


@settings(max_examples=80, deadline=None)
@given(scored_labels())
def test_means_are_taken_over_the_classes_that_have_positives(case):
    counts = [100, 99, 20, 19, 0][: case[0].shape[1]]
    groups = ["head", "medium", "medium", "tail", "tail"][: len(counts)]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        result = long_tail_map(*case, counts)
    expected = [sklearn_metrics.average_precision_score(y, s) if y.any() else None for s, y in columns(*case)]
    assert list(result["per_class"].values()) == [e if e is None else pytest.approx(e, abs=1e-9) for e in expected]
    for name, members in [("total", expected)] + [
        (group, [value for value, own in zip(expected, groups, strict=True) if own == group])
        for group in ("head", "medium", "tail")
    ]:
        present = [value for value in members if value is not None]
        assert result[f"map_{name}"] == (pytest.approx(np.mean(present), abs=1e-9) if present else None)
    absent = [f"LABEL_{index}" for index, value in enumerate(expected) if value is None]
    assert result["absent_classes"] == absent
    assert len(caught) == bool(absent)
    assert result["num_unknown"] == int((~np.isin(case[1], [0, 1])).sum())
    assert json.loads(json.dumps(result, allow_nan=False)) == result


def test_an_absent_class_is_named_in_one_warning_and_its_figures_are_none():
    scores, labels = [[0.9, 0.9, 0.6], [0.1, 0.2, 0.7]], [[1, 0, 0], [0, 1, 0]]
    with pytest.warns(UserWarning, match="1 of 3 classes have no positive") as caught:
        result = long_tail_map(scores, labels, [200, 50, 3], label_names=["person", "dog", "cow"])
    assert len(caught) == 1
    assert "left out of all means: cow." in str(caught[0].message)
    assert "Nothing is left to average in: tail" in str(caught[0].message)
    assert caught[0].filename == __file__
    assert result["map_tail"] is None
    assert result["groups"]["tail"]["num_evaluated"] == 0
    assert result["groups"]["tail"]["absent_classes"] == ["cow"]
    assert result["per_class"] == {"person": 1.0, "dog": 0.5, "cow": None}
    assert result["map_total"] == 0.75
    row = result["class_table"][2]
    assert [row[name] for name in ("average_precision", "auroc", "precision", "recall", "f1", "ece")] == [None] * 6
    # The false alarm on the absent class still counts where labels are pooled: 1 hit of 4 decisions.
    assert result["op"] == 0.25


def test_a_test_set_without_any_positive_has_no_mean():
    with pytest.warns(UserWarning, match="Nothing is left to average in: head, tail"):
        result = long_tail_map([[0.5, 0.5]], [[0, -1]], [100, 1])
    assert [result[name] for name in ("map_total", "map_head", "map_medium", "map_tail", "cf1")] == [None] * 5


def test_a_long_list_of_absent_classes_is_cut_short():
    with pytest.warns(UserWarning, match="LABEL_8, LABEL_9 and 5 more"):
        long_tail_map(np.zeros((1, 15)), np.zeros((1, 15)), [1] * 15)


def test_other_bounds_make_other_groups(lt_voc_case):
    scores, labels, counts, names = lt_voc_case
    result = long_tail_map(scores, labels, counts, 200, 50, label_names=names)
    assert [result["groups"][group]["num_classes"] for group in ("head", "medium", "tail")] == [4, 4, 12]
    assert (result["protocol"]["head_min"], result["protocol"]["tail_max"]) == (200, 50)


def test_the_protocol_names_the_switches(lt_voc_case):
    scores, labels, counts, _ = lt_voc_case
    protocol = long_tail_map(scores, labels, counts)["protocol"]
    assert (protocol["decision"], protocol["threshold"], protocol["top_k"]) == ("threshold", 0.5, None)
    assert (protocol["average_precision_method"], protocol["num_bins"]) == ("area", 15)
    thresholds = np.linspace(0.1, 0.9, 20)
    protocol = long_tail_map(scores, labels, counts, threshold=thresholds, num_bins=10)["protocol"]
    assert protocol["threshold"] == thresholds.tolist()
    assert protocol["num_bins"] == 10
    result = long_tail_map(scores, labels, counts, top_k=3, average_precision_method="11-point")
    protocol = result["protocol"]
    assert (protocol["decision"], protocol["threshold"], protocol["top_k"]) == ("top_k", None, 3)
    assert protocol["average_precision_method"] == "11-point"
    # Three decisions for each of 300 images.
    assert result["op"] * 900 == pytest.approx(result["or"] * labels.sum())


def test_logits_are_ranked_with_a_warning_and_without_calibration(lt_voc_case):
    scores, labels, counts, _ = lt_voc_case
    logits = np.log(scores / (1 - scores))
    expected = long_tail_map(scores, labels, counts)
    with pytest.warns(UserWarning, match=r"are no probabilities: calibration is left out .*apply a sigmoid"):
        result = long_tail_map(logits, labels, counts)
    assert result["map_tail"] == pytest.approx(expected["map_tail"], abs=1e-12)
    assert result["ece"] is None
    assert result["ece_macro"] is None
    assert not result["protocol"]["scores_are_probabilities"]
    # The threshold is taken as it stands: a logit of 0 is the probability .5.
    with pytest.warns(UserWarning, match="no probabilities"):
        assert long_tail_map(logits, labels, counts, threshold=0)["f1_macro"] == pytest.approx(expected["f1_macro"])


def test_arrays_tensors_and_lists_give_the_same_and_threads_do_not_matter(lt_voc_case):
    scores, labels, counts, names = lt_voc_case
    expected = long_tail_map(scores, labels, counts, label_names=names)
    tensors = torch.tensor(scores, requires_grad=True), torch.tensor(labels).float(), torch.tensor(counts)
    assert long_tail_map(*tensors, label_names=names) == expected
    assert long_tail_map(scores.tolist(), labels.tolist(), np.array(counts), label_names=tuple(names)) == expected
    assert long_tail_map(scores, labels, counts, label_names=names, num_workers=2) == expected


@pytest.mark.parametrize(
    ("counts", "kind", "message"),
    [
        ([1, 2, 3], ValueError, r"class_counts has shape \(3,\) but there are 2 classes"),
        ([[1, 2]], ValueError, r"class_counts has shape \(1, 2\)"),
        ([1, -2], ValueError, r"class_counts\[1\] is -2; expected a whole number"),
        ([1.5, 2], ValueError, r"class_counts\[0\] is 1\.5"),
        ([float("nan"), 2], ValueError, r"class_counts\[0\] is nan"),
        (["many", 2], TypeError, "class_counts must be a list of whole numbers"),
    ],
)
def test_bad_class_counts_are_refused(counts, kind, message):
    with pytest.raises(kind, match=message):
        long_tail_map([[0.5, 0.5]], [[1, 1]], counts)


@pytest.mark.parametrize("bounds", [{"head_min": 99.5}, {"tail_max": "20"}])
def test_bounds_that_are_no_whole_numbers_are_refused(bounds):
    with pytest.raises(TypeError, match=f"{next(iter(bounds))} must be a whole number"):
        long_tail_map([[0.5, 0.5]], [[1, 1]], [100, 1], **bounds)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"head_min": 10, "tail_max": 20}, "tail_max"),
        ({"average_precision_method": "aera"}, "Did you mean 'area'"),
        ({"num_bins": 0}, "num_bins must be at least 1"),
        ({"threshold": [0.5]}, r"threshold has shape \(1,\) but there are 2 classes"),
        ({"top_k": 3}, "top_k is 3 but there are only 2 classes"),
    ],
)
def test_bad_switches_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        long_tail_map([[0.5, 0.5]], [[1, 1]], [100, 1], **options)
