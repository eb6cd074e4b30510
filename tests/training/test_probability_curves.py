import json

import numpy as np
import pytest
import torch
from tiny_runs import tiny_overrides

from modeling_cssfe.training import compute_scores, load_recipe, load_trained_model, train
from modeling_cssfe.training.probability_curves import ProbabilityMeter, group_probabilities


GROUPS = ["head", "tail", "head", "medium", "tail"]


def slowly(scores, labels, groups):
    """The definition, one number at a time."""
    means = {}
    for group in groups:
        means[group] = {}
        for kind, wanted in (("positive", 1), ("negative", 0)):
            of_classes = []
            for column, own in enumerate(groups):
                chosen = [
                    float(row[column]) for row, marks in zip(scores, labels, strict=True) if marks[column] == wanted
                ]
                if own == group and chosen:
                    of_classes.append(sum(chosen) / len(chosen))
            means[group][kind] = sum(of_classes) / len(of_classes) if of_classes else None
    return means


@pytest.fixture
def table():
    rng = np.random.default_rng(1)
    labels = rng.choice([1.0, 0.0, -1.0], (40, 5), p=[0.3, 0.6, 0.1])
    labels[:, 1] = np.where(labels[:, 1] == 1, 0, labels[:, 1])  # a tail class without positives
    return rng.normal(0, 3, (40, 5)), labels


def test_it_is_the_mean_over_classes_of_the_means_over_images(table):
    logits, labels = table
    scores = 1 / (1 + np.exp(-logits))
    found = group_probabilities(scores, labels, GROUPS)
    expected = slowly(scores, labels, GROUPS)
    assert found.keys() == expected.keys()
    for group, kinds in expected.items():
        assert found[group] == pytest.approx(kinds, abs=1e-12)


def test_unknown_labels_may_be_nan(table):
    logits, labels = table
    scores = 1 / (1 + np.exp(-logits))
    assert group_probabilities(scores, np.where(labels == -1, np.nan, labels), GROUPS) == group_probabilities(
        scores, labels, GROUPS
    )


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_a_meter_over_batches_gives_the_whole(table, dtype):
    logits, labels = (torch.tensor(values) for values in table)
    logits = logits.to(dtype)
    meter = ProbabilityMeter(GROUPS)
    meter.update(torch.full((2, 5), 9.0), torch.ones(2, 5))
    meter.reset()
    for start in range(0, 40, 7):
        meter.update(logits[start : start + 7], labels[start : start + 7])
    expected = slowly(logits.double().sigmoid(), labels, GROUPS)
    for group, kinds in meter.compute().items():
        assert kinds == pytest.approx(expected[group], abs=1e-12)


def test_a_meter_goes_on_from_its_state_to_the_bit(table):
    logits, labels = (torch.tensor(values) for values in table)
    whole, first, second = (ProbabilityMeter(GROUPS) for _ in range(3))
    for meter, rows in ((whole, slice(0, 15)), (first, slice(0, 15))):
        meter.update(logits[rows], labels[rows])
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    for meter in (whole, second):
        meter.update(logits[15:], labels[15:])
    assert second.compute() == whole.compute()


def test_nothing_to_average_is_none_and_empty_groups_are_left_out():
    assert group_probabilities([[0.25, 0.5]], [[0, 0]], ["tail", "tail"]) == {
        "tail": {"positive": None, "negative": 0.375}
    }


def test_shapes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"scores are \(2, 3\) and labels \(2, 3\) for 2 classes"):
        group_probabilities(np.zeros((2, 3)), np.zeros((2, 3)), ["head", "tail"])


def test_the_log_has_them_of_training_and_of_validation(tiny_run, tiny_data):
    log = [json.loads(line) for line in (tiny_run / "log.jsonl").read_text().splitlines()]
    results = json.loads((tiny_run / "results.json").read_text())
    for entry in log:
        for split in ("training", "validation"):
            assert set(entry[f"{split}_probabilities"]) == {"head", "medium", "tail"}
    from accelerate import Accelerator

    from modeling_cssfe.data import EvaluationTransform, build_data_loader, load_images

    model, processor = load_trained_model(tiny_run)
    split = load_images(str(tiny_data))["validation"]
    loader = build_data_loader(split, EvaluationTransform(processor), batch_size=4)
    scores, labels = compute_scores(model, Accelerator(cpu=True).prepare(loader), Accelerator(cpu=True))
    expected = slowly(scores, labels, model.config.groups)
    best = log[results["best_epoch"] - 1]["validation_probabilities"]
    for group, kinds in expected.items():
        assert best[group] == pytest.approx(kinds, abs=1e-6)
        assert results["validation"]["probabilities"][group] == best[group]


def test_training_probabilities_are_those_of_the_training_batches(tiny_data, tmp_path, monkeypatch):
    seen = []
    update = ProbabilityMeter.update

    def recorded(self, logits, labels):
        seen.append((self.groups, logits.double().sigmoid(), labels.clone()))
        update(self, logits, labels)

    monkeypatch.setattr(ProbabilityMeter, "update", recorded)
    train(load_recipe(None, tiny_overrides(tiny_data, epochs=2)), tmp_path / "run", quiet=True)
    log = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert len(seen) == 6  # three batches an epoch
    for entry, batches in zip(log, (seen[:3], seen[3:]), strict=True):
        scores, labels = (torch.cat(parts) for parts in list(zip(*batches, strict=True))[1:])
        assert len(scores) == 18
        expected = slowly(scores, labels, batches[0][0])
        for group, kinds in expected.items():
            assert entry["training_probabilities"][group] == pytest.approx(kinds, abs=1e-12)
