import math
import warnings
from fractions import Fraction

import numpy as np
import pytest
from report_cases import make_table
from scipy.stats import binomtest
from sklearn.metrics import average_precision_score

from modeling_cssfe.metrics import long_tail_map
from modeling_cssfe.report.figures import heat_map_classes, short_name
from modeling_cssfe.report.gallery import describe_choice, gallery_classes, gather_shots
from modeling_cssfe.report.measures import Confusion, confuse_labels, judge, precision_at_recall, recall_points


def slow_precision(scores, positive, recall):
    """Precision at the highest threshold that reaches a recall, in whole numbers."""
    for threshold in sorted(set(scores), reverse=True):
        hits = sum(p for s, p in zip(scores, positive, strict=True) if s >= threshold)
        if Fraction(int(hits), int(sum(positive))) >= recall:
            return int(hits) / sum(1 for s in scores if s >= threshold)
    raise AssertionError


@pytest.mark.parametrize("seed", range(3))
def test_precision_at_recall_is_that_of_the_highest_threshold_that_reaches_it(seed):
    rng = np.random.default_rng(seed)
    scores, positive = rng.random(40).round(1), rng.random(40) < 0.4
    expected = [slow_precision(scores, positive, Fraction(2 * i + 1, 400)) for i in range(200)]
    assert precision_at_recall(scores, positive).tolist() == pytest.approx(expected, abs=1e-15)
    assert recall_points()[[0, -1]].tolist() == [0.0025, 0.9975]


def test_the_mean_over_recall_is_the_average_precision_of_scikit_learn():
    rng = np.random.default_rng(4)
    positive = np.zeros(300, dtype=bool)
    positive[:25] = True  # a divisor of 200, so that no step is cut by the grid
    scores = rng.random(300).round(2) + 0.2 * positive
    assert precision_at_recall(scores, positive).mean() == pytest.approx(
        average_precision_score(positive, scores), abs=1e-12
    )


@pytest.mark.parametrize("thresholds", [None, (0.3, 0.6, 0.45, 0.5)])
def test_confusion_counts_absent_labels_predicted_beside_present_ones(thresholds, monkeypatch):
    monkeypatch.setattr("modeling_cssfe.report.measures._ROWS_AT_A_TIME", 7)
    table = make_table(thresholds=thresholds)
    limits = thresholds or (0.5,) * 4
    found = confuse_labels(table)
    for a in range(4):
        for b in range(4):
            rows = [r for r in range(60) if table.labels[r, a] == 1 and table.labels[r, b] == 0]
            wrong = [r for r in rows if table.scores[r, b] >= limits[b]]
            assert (found.images[a, b], found.wrong[a, b]) == (len(rows), len(wrong))
            if rows:
                assert found.rate[a, b] == len(wrong) / len(rows)
            else:
                assert math.isnan(found.rate[a, b])
    assert np.isnan(np.diag(found.rate)).all()


def test_pairs_are_ranked_by_the_lower_end_of_wilsons_interval():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 40, (6, 6))
    wrong = rng.integers(0, 41, (6, 6)) % (images + 1)
    lowest = {
        (a, b): binomtest(int(wrong[a, b]), int(images[a, b])).proportion_ci(method="wilson").low
        for a in range(6)
        for b in range(6)
        if wrong[a, b] and images[a, b] >= 5
    }
    expected = sorted(lowest, key=lambda pair: -lowest[pair])
    assert Confusion(wrong, images).top_pairs() == expected
    assert Confusion(wrong, images).top_pairs(3) == expected[:3]


def test_reliability_counts_known_labels_of_the_group_in_fifteen_bins():
    table = make_table(counts=(775, 200, 4, 0))
    judged = judge(table)
    expected = np.zeros((3, 15))
    for column in (0, 1):
        for score, label in zip(table.scores[:, column], table.labels[:, column], strict=True):
            if label >= 0:
                expected[:, min(int(score * 15), 14)] += (1, score, label)
    assert judged.reliability["head"] == pytest.approx(expected, abs=1e-12)
    assert not judged.reliability["medium"].any()


def test_figures_are_those_of_long_tail_map_at_the_tables_thresholds():
    table = make_table(thresholds=(0.2, 0.3, 0.4, 0.6))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = long_tail_map(
            table.scores, table.labels, table.class_counts, label_names=table.label_names, threshold=table.thresholds
        )
        warnings.simplefilter("error")
        assert judge(table).figures == expected  # and it does not warn


def test_the_gallery_takes_the_ends_of_the_ranking_and_shows_no_positive_twice():
    table = make_table(thresholds=(0.5, 0.5, 0.9, 0.5))
    gallery = {entry.name: entry for entry in gather_shots(judge(table), worst=3)}
    assert list(gallery) == ["horse", "cow", "dog", "person"]
    for column, name in enumerate(table.label_names):
        score = dict(zip(table.image_ids, table.scores[:, column].tolist(), strict=True))
        positives = [i for i, y in zip(table.image_ids, table.labels[:, column], strict=True) if y == 1]
        negatives = [i for i, y in zip(table.image_ids, table.labels[:, column], strict=True) if y == 0]
        entry = gallery[name]
        for shots, pool, reverse in (
            (entry.best, positives, 1),
            (entry.worst, positives, 0),
            (entry.alarms, negatives, 1),
        ):
            expected = sorted((score[image] for image in pool), reverse=bool(reverse))[:3]
            assert [shot.score for shot in shots] == expected
            assert all(shot.score == score[shot.image_id] and shot.image_id in pool for shot in shots)
        threshold = 0.9 if name == "cow" else 0.5
        assert [shot.verdict for shot in entry.best] == [
            "found" if s.score >= threshold else "missed" for s in entry.best
        ]
        assert {s.verdict for s in entry.alarms} <= {"false alarm", "rightly absent"}
        assert [s.verdict == "false alarm" for s in entry.alarms] == [s.score >= threshold for s in entry.alarms]


@pytest.mark.parametrize(
    ("positives", "best", "worst"), [(0, 0, 0), (1, 1, 0), (2, 1, 1), (3, 2, 1), (5, 3, 2), (9, 3, 3)]
)
def test_few_positives_are_shared_between_best_and_worst(positives, best, worst):
    labels = np.zeros((20, 4), dtype=np.float32)
    labels[:positives, 0] = 1
    table = make_table(images=20, labels=labels)
    entry = gather_shots(judge(table), worst=3)[-1]
    assert (len(entry.best), len(entry.worst)) == (best, worst)
    assert len({shot.image_id for shot in entry.best + entry.worst}) == best + worst


def test_with_many_classes_the_lowest_of_each_group_are_shown_and_the_page_says_so():
    names = [f"class {number}" for number in range(120)]
    counts = [1000 // (number + 1) for number in range(120)]
    judged = judge(make_table(names, counts))
    precision = [row["average_precision"] for row in judged.figures["class_table"]]
    chosen = gallery_classes(judged)
    expected = set()
    for low, high in ((100, 1001), (20, 100), (0, 20)):
        own = [c for c in range(120) if low <= counts[c] < high and precision[c] is not None]
        expected |= set(sorted(own, key=lambda c: precision[c])[:10])
    assert set(chosen) == expected
    assert describe_choice(judged).startswith("30 of 120 classes")
    strongest = [index for pair in judged.confusion.top_pairs() for index in pair]
    shown = heat_map_classes(judged)
    assert len(shown) == 40
    assert set(dict.fromkeys(strongest[:20])) <= set(shown)
    assert [counts[c] for c in shown] == sorted((counts[c] for c in shown), reverse=True)


def test_names_in_pictures_are_short_and_printable():
    assert short_name("tvmonitor") == "tvmonitor"
    assert short_name("a\nb\x00\ud800") == "a\ufffdb\ufffd\ufffd"
    assert short_name("x" * 50) == "x" * 21 + "…"
