import json
import math
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import f1_score as sklearn_f1

from modeling_cssfe.evaluation.held_out import deal_into_folds, held_out_f1
from modeling_cssfe.evaluation.score_table import ScoreTable
from modeling_cssfe.evaluation.thresholds import OBJECTIVES, choose_thresholds


HEAD, MEDIUM, TAIL = 500, 50, 5


def make_table(scores, labels, counts=None, **changes) -> ScoreTable:
    scores, labels = np.array(scores, dtype=np.float64), np.array(labels, dtype=np.float32)
    if scores.ndim == 1:
        scores, labels = scores[:, None], labels[:, None]
    images, classes = scores.shape
    names = tuple(f"class {index}" for index in range(classes))
    counts = tuple(counts or [TAIL] * classes)
    return ScoreTable("table", tuple(map(str, range(images))), names, scores, labels, counts, **changes)


def random_table(seed, images=60, counts=(HEAD, HEAD, MEDIUM, TAIL, TAIL), digits=1) -> ScoreTable:
    """Scores that say something about the labels, rounded so that many are equal."""
    rng = np.random.default_rng(seed)
    labels = (rng.random((images, len(counts))) < 0.3).astype(np.float32)
    logits = rng.normal(size=labels.shape) + 1.5 * labels - 1
    return make_table(np.round(1 / (1 + np.exp(-logits)), digits), labels, counts)


def own_choice(table, objective="f1", target=None):
    return choose_thresholds(table, objective=objective, target=target, shrinkage=0, num_resamples=0)


def logit(value: float) -> float:
    return math.log(value / (1 - value))


# Of one class, by definition; scikit-learn's take a thousand times longer, and these call them for every cut point.
def f1_score(labels, decided) -> float:
    return 2 * np.sum(labels * decided) / max(np.sum(labels) + np.sum(decided), 1)


def precision_score(labels, decided) -> float:
    return np.sum(labels * decided) / max(np.sum(decided), 1)


def recall_score(labels, decided) -> float:
    return np.sum(labels * decided) / np.sum(labels)


def every_cut(scores):
    """A threshold at each score: every decision that any threshold can make, but the empty one."""
    return [scores >= cut for cut in np.unique(scores)]


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([1, 2, 8]))
def test_f1_is_the_best_of_all_cut_points(seed, digits):
    table = random_table(seed, images=25, digits=digits)
    for index, entry in enumerate(own_choice(table).classes):
        scores, labels = table.scores[:, index], table.labels[:, index]
        if labels.any():
            best = max(f1_score(labels, decided) for decided in every_cut(scores))
            assert f1_score(labels, scores >= entry.threshold) == pytest.approx(best, abs=1e-12)
            assert entry.f1 == pytest.approx(best, abs=1e-12)
            assert entry.f1_at_half == pytest.approx(f1_score(labels, scores >= 0.5), abs=1e-12)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([0.3, 0.5, 0.8, 1.0]))
def test_a_precision_is_reached_with_all_the_recall_that_it_allows(seed, target):
    table = random_table(seed, images=25)
    for index, entry in enumerate(own_choice(table, "precision", target).classes):
        scores, labels = table.scores[:, index], table.labels[:, index]
        if not labels.any():
            continue
        cuts = every_cut(scores)
        allowed = [cut for cut in cuts if precision_score(labels, cut) >= target]
        chosen = scores >= entry.threshold
        if allowed:
            assert precision_score(labels, chosen) >= target
            assert recall_score(labels, chosen) == max(recall_score(labels, cut) for cut in allowed)
            assert entry.reached
        else:
            assert entry.reached is False
            assert precision_score(labels, chosen) == max(precision_score(labels, cut) for cut in cuts)
            assert f"no threshold reaches precision {target:g}" in entry.reason


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([0.3, 0.5, 0.8, 1.0]))
def test_a_recall_is_reached_with_the_fewest_decisions(seed, target):
    table = random_table(seed, images=25)
    for index, entry in enumerate(own_choice(table, "recall", target).classes):
        scores, labels = table.scores[:, index], table.labels[:, index]
        if labels.any():
            allowed = [cut for cut in every_cut(scores) if recall_score(labels, cut) >= target]
            chosen = scores >= entry.threshold
            assert recall_score(labels, chosen) >= target
            assert chosen.sum() == min(cut.sum() for cut in allowed)
            assert entry.reached


def test_a_threshold_lies_halfway_between_two_scores_on_the_logit_scale():
    [entry] = own_choice(make_table([0.95, 0.9, 0.4, 0.1], [1, 1, 0, 0])).classes
    middle = (logit(0.9) + logit(0.4)) / 2
    assert entry.threshold == pytest.approx(1 / (1 + math.exp(-middle)), rel=1e-12)


def test_among_equals_the_highest_threshold_wins():
    # The first positive alone has an F1 of 2 / (1 + 2), both with two false alarms 4 / (4 + 2).
    [entry] = own_choice(make_table([0.9, 0.8, 0.7, 0.6], [1, 0, 0, 1])).classes
    assert 0.8 < entry.threshold < 0.9
    assert entry.f1 == pytest.approx(2 / 3)


def test_images_with_equal_scores_stay_together():
    [entry] = own_choice(make_table([0.9, 0.7, 0.7, 0.7, 0.2], [1, 1, 0, 0, 0])).classes
    # Above the tie: F1 = 2/3. With it: 2 hits in 4 decisions, again 2/3, and the higher threshold wins.
    assert 0.7 < entry.threshold <= 0.9
    [entry] = own_choice(make_table([0.9, 0.7, 0.7, 0.7, 0.2], [1, 1, 1, 0, 0])).classes
    assert 0.2 < entry.threshold <= 0.7
    assert entry.f1 == pytest.approx(2 * 3 / (4 + 3))


@pytest.mark.parametrize("scores", [[0.3, 0.3000000000000001], [0.0, 1.0], [1e-300, 1e-299], [1.0, 1.0]], ids=str)
def test_neighbours_without_a_number_between_them_are_still_told_apart(scores):
    table = make_table(scores, [0, 1] if scores[0] < scores[1] else [1, 1])
    [entry] = own_choice(table).classes
    assert entry.f1 == 1.0
    assert 0 <= entry.threshold <= 1


def test_a_class_that_is_always_present_is_always_decided_on_also_in_single_precision():
    table = make_table([0.9, 0.123456789012, 0.4], [1, 1, 1])
    [entry] = own_choice(table).classes
    assert entry.f1 == 1.0
    assert np.float32(table.scores.min()) >= np.float32(entry.threshold)


def test_a_class_without_positives_takes_its_groups_threshold_and_is_named():
    table = make_table([[0.9, 0.9], [0.2, 0.8], [0.1, 0.7]], [[1, 0], [1, 0], [0, 0]], [TAIL, TAIL])
    choice = choose_thresholds(table)
    absent = choice.classes[1]
    assert absent.threshold == choice.groups["tail"]
    assert absent.reason == "no positives: the tail group's threshold"
    assert (absent.own, absent.f1, absent.spread, absent.weight) == (None, None, None, 0.0)
    assert absent.few_positives


def test_a_group_without_positives_takes_the_threshold_of_all_classes():
    table = make_table([[0.9, 0.9], [0.2, 0.8], [0.1, 0.7]], [[1, 0], [1, 0], [0, 0]], [HEAD, TAIL])
    choice = choose_thresholds(table)
    assert choice.groups["tail"] == choice.overall == choice.classes[1].threshold
    assert 0.1 < choice.overall < 0.2


def test_unknown_labels_take_no_part():
    table = random_table(3, digits=3)
    masked = table.labels.copy()
    masked[10:40, 2] = -1
    with_unknown = own_choice(make_table(table.scores, masked, table.class_counts)).classes[2]
    known = np.r_[0:10, 40:60]
    without = own_choice(make_table(table.scores[known], table.labels[known], table.class_counts)).classes[2]
    assert with_unknown.threshold == without.threshold
    assert (with_unknown.f1, with_unknown.num_positives) == (without.f1, without.num_positives)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_shrinkage_goes_from_the_class_to_its_group(objective):
    table = random_table(1, images=200, digits=6)
    options = {"objective": objective, "target": None if objective == "f1" else 0.6, "num_resamples": 0}
    own, group, mixed = (choose_thresholds(table, shrinkage=k, **options) for k in (0, math.inf, 12.0))
    assert own.groups == group.groups == mixed.groups
    for a, b, c, positives in zip(own.classes, group.classes, mixed.classes, table.labels.sum(axis=0), strict=True):
        assert a.threshold == a.own == b.own
        assert b.threshold == b.group_threshold == group.groups[b.group]
        weight = positives / (positives + 12)
        assert c.weight == pytest.approx(weight)
        assert logit(c.threshold) == pytest.approx(weight * logit(a.own) + (1 - weight) * logit(b.threshold))


def test_with_many_positives_the_group_hardly_matters():
    table = random_table(2, images=20_000, digits=9)
    for entry in choose_thresholds(table, num_resamples=0).classes:
        assert entry.num_positives > 5000
        assert logit(entry.threshold) == pytest.approx(logit(entry.own), abs=0.01)


def test_the_groups_threshold_is_the_best_for_the_mean_f1_of_its_classes():
    table = random_table(5, images=80, counts=(HEAD, HEAD, HEAD), digits=2)
    choice = choose_thresholds(table)

    def mean_f1(threshold):
        return np.mean([f1_score(table.labels[:, c], table.scores[:, c] >= threshold) for c in range(3)])

    # All classes are one group, so `overall` is that of the group and mixing the two changes nothing.
    assert choice.groups["head"] == pytest.approx(choice.overall, rel=1e-12)
    assert mean_f1(choice.overall) == pytest.approx(max(mean_f1(cut) for cut in np.unique(table.scores)), abs=1e-12)


def test_one_threshold_for_several_classes_may_lie_between_the_negatives_of_one_of_them():
    scores = np.array([[0.9, 0.95], [0.1, 0.93], [0.08, 0.8], [0.07, 0.7], [0.06, 0.6]])
    labels = np.array([[1, 1], [0, 0], [0, 0], [0, 0], [0, 0]])
    # At .9 the first class is right and the second has one false alarm: F1 of 1 and 2/3. Each class's own gap below its
    # positive reaches down to .1, where the second has four, or up to .93, where the first finds nothing.
    assert 0.8 < choose_thresholds(make_table(scores, labels, [HEAD, HEAD])).overall <= 0.9


def test_a_group_is_mixed_with_all_classes_by_its_own_positives():
    table = random_table(4, images=50, counts=(HEAD, HEAD, TAIL), digits=6)
    choice = choose_thresholds(table)
    alone = choose_thresholds(make_table(table.scores[:, 2:], table.labels[:, 2:], [TAIL])).overall
    weight = table.labels[:, 2].sum() / (table.labels[:, 2].sum() + 5)
    expected = weight * logit(alone) + (1 - weight) * logit(choice.overall)
    assert logit(choice.groups["tail"]) == pytest.approx(expected)


def test_few_positives_are_called_out():
    scores = np.linspace(0.01, 0.99, 50)
    for positives, few in ((9, True), (10, False)):
        labels = np.zeros(50)
        labels[-positives:] = 1
        [entry] = choose_thresholds(make_table(scores, labels)).classes
        assert entry.few_positives is few
        assert ("too few to trust" in entry.reason) is few


def test_a_recall_missed_by_shrinkage_is_said():
    rng = np.random.default_rng(0)
    easy = np.r_[np.full(30, 0.9), rng.uniform(0, 0.1, 70)]
    hard = np.r_[np.full(3, 0.2), rng.uniform(0, 0.1, 97)]
    labels = np.c_[np.r_[np.ones(30), np.zeros(70)], np.r_[np.ones(3), np.zeros(97)]]
    choice = choose_thresholds(make_table(np.c_[easy, hard], labels), objective="recall", target=0.5, shrinkage=100)
    missed = choice.classes[1]
    assert missed.threshold > 0.2
    assert (missed.reached, missed.recall) == (False, 0.0)
    assert choice.classes[0].reached


@pytest.mark.parametrize(("objective", "target"), [("f1", None), ("precision", 0.6), ("recall", 0.7)])
def test_the_spread_is_that_of_resampled_images(objective, target):
    table = random_table(8, images=150, counts=(TAIL,), digits=6)
    [entry] = choose_thresholds(table, objective=objective, target=target, num_resamples=2000).classes
    rng = np.random.default_rng(1)
    slow = []
    for _ in range(400):
        rows = rng.integers(0, 150, 150)
        resample = make_table(table.scores[rows], table.labels[rows])
        slow.append(own_choice(resample, objective, target).classes[0].own)
    for found, expected in zip(entry.spread, np.percentile(slow, [5, 95]), strict=True):
        assert logit(found) == pytest.approx(logit(expected), abs=0.35)
    again = choose_thresholds(table, objective=objective, target=target, num_resamples=2000)
    assert again.classes[0].spread == entry.spread


def test_held_out_f1_decides_on_each_fold_by_the_others():
    table = random_table(9, images=90, digits=6)
    at_half, chosen = held_out_f1(table, num_folds=3, seed=4, shrinkage=2.0)
    decided = np.zeros(table.scores.shape, dtype=bool)
    folds = deal_into_folds(table, 3, 4)
    assert sorted(np.concatenate(folds)) == list(range(90))
    for fold in folds:
        rest = table.select([row for row in range(90) if row not in fold])
        thresholds = choose_thresholds(rest, shrinkage=2.0).thresholds
        decided[fold] = table.scores[fold] >= np.array(thresholds)
    assert chosen == pytest.approx(list(sklearn_f1(table.labels, decided, average=None)))
    assert at_half == pytest.approx(list(sklearn_f1(table.labels, table.scores >= 0.5, average=None)))


def test_a_choice_goes_through_json():
    choice = choose_thresholds(random_table(6), shrinkage=math.inf)
    content = json.loads(json.dumps(choice.to_dict(), allow_nan=False))
    assert content["shrinkage"] == "inf"
    assert [entry["threshold"] for entry in content["classes"]] == choice.thresholds
    assert content["groups"] == choice.groups


@pytest.mark.parametrize(
    ("options", "part"),
    [
        (
            {"objective": "precison", "target": 0.5},
            "unknown objective 'precison'; choose one of 'f1', 'precision', 'recall'. Did you mean 'precision'?",
        ),
        ({"target": 0.5}, "target is 0.5 but objective 'f1' has none"),
        ({"objective": "recall"}, "target is None; objective 'recall' needs"),
        ({"objective": "precision", "target": 90}, "target is 90; objective 'precision' needs"),
        ({"shrinkage": -1}, "shrinkage is -1"),
        ({"shrinkage": math.nan}, "shrinkage is nan"),
        ({"num_resamples": -1}, "num_resamples is -1"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_wrong_option_is_one_line(options, part):
    with pytest.raises(ValueError, match=re.escape(part)) as caught:
        choose_thresholds(random_table(0), **options)
    assert "\n" not in str(caught.value)


def test_without_any_positive_there_is_nothing_to_choose():
    with pytest.raises(ValueError, match="table: no class has a positive"):
        choose_thresholds(make_table([0.1, 0.2], [0, -1]))


@pytest.mark.parametrize("num_folds", [1, 61])
def test_a_number_of_folds_that_cannot_be_is_refused(num_folds):
    with pytest.raises(ValueError, match=f"num_folds is {num_folds} for 60 image"):
        held_out_f1(random_table(0), num_folds=num_folds)
