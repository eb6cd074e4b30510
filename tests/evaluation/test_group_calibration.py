import json

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torchmetrics.functional.classification import binary_calibration_error

from modeling_cssfe import CSSFEImageProcessor
from modeling_cssfe.evaluation.calibration import (
    TEMPERATURE_BOUNDS,
    apply_calibration,
    calibration_errors,
    fit_calibration,
)
from modeling_cssfe.evaluation.held_out import deal_into_folds
from modeling_cssfe.evaluation.score_table import ScoreTable


HEAD, MEDIUM, TAIL = 500, 50, 5
COUNTS = (HEAD, HEAD, MEDIUM, TAIL, TAIL)


def sigmoid(logits):
    return 1 / (1 + np.exp(-logits))


def make_table(scores, labels, counts=COUNTS) -> ScoreTable:
    images, classes = scores.shape
    names = tuple(f"class {index}" for index in range(classes))
    return ScoreTable("table", tuple(map(str, range(images))), names, scores, labels.astype(np.float32), counts)


def planted_table(images, planted=None, seed=0):
    """Labels drawn by true logits, and scores whose logits are `temperature * (true - bias)` of the class's group."""
    rng = np.random.default_rng(seed)
    truth = rng.normal(-1, 2, (images, len(COUNTS)))
    labels = rng.random(truth.shape) < sigmoid(truth)
    planted = planted or {"head": (1.0, 0.0), "medium": (1.0, 0.0), "tail": (1.0, 0.0)}
    temperature, bias = np.array([planted[group] for group in ("head", "head", "medium", "tail", "tail")]).T
    return make_table(sigmoid(temperature * (truth - bias)), labels)


def group_data(table, group):
    columns = np.array(table.groups) == group
    known = table.labels[:, columns] >= 0
    scores = table.scores[:, columns][known]
    return np.log(scores / (1 - scores)), table.labels[:, columns][known]


def test_temperature_and_bias_are_those_of_logistic_regression():
    table = planted_table(800, {"head": (2.0, 0.5), "medium": (0.5, -1.0), "tail": (1.0, 2.0)})
    table.labels[::7, 0] = -1
    for group, found in fit_calibration(table).groups.items():
        logits, labels = group_data(table, group)
        expected = LogisticRegression(C=np.inf, tol=1e-10, max_iter=1000).fit(logits[:, None], labels)
        assert 1 / found.temperature == pytest.approx(expected.coef_.item(), rel=1e-4)
        assert found.bias == pytest.approx(expected.intercept_.item(), rel=1e-4)
        assert found.num_positives == (labels == 1).sum()
        assert found.remark == ""


def test_temperature_alone_is_that_of_torchs_lbfgs():
    table = planted_table(500, {"head": (2.0, 0.5), "medium": (0.5, 0.0), "tail": (1.0, 1.0)})
    found = fit_calibration(table, bias=False).groups
    assert list(found) == ["head", "medium", "tail"]
    for group, entry in found.items():
        logits, labels = map(torch.tensor, group_data(table, group))
        parameter = torch.zeros((), dtype=torch.float64, requires_grad=True)  # the logarithm of the temperature
        optimizer = torch.optim.LBFGS([parameter], max_iter=200, tolerance_grad=1e-12, tolerance_change=1e-15)

        def closure(logits=logits, labels=labels, parameter=parameter, optimizer=optimizer):
            optimizer.zero_grad()
            loss = torch.nn.functional.binary_cross_entropy_with_logits(logits / parameter.exp(), labels.double())
            loss.backward()
            return loss

        optimizer.step(closure)
        assert entry.temperature == pytest.approx(parameter.exp().item(), rel=1e-5)
        assert entry.bias == 0


def test_planted_miscalibration_is_recovered_and_the_error_vanishes():
    planted = {"head": (2.0, 1.0), "medium": (0.6, -1.5), "tail": (0.8, 2.0)}
    calibration = fit_calibration(planted_table(20_000, planted))
    for group, (temperature, bias) in planted.items():
        assert calibration.groups[group].temperature == pytest.approx(temperature, rel=0.05)
        assert calibration.groups[group].bias == pytest.approx(bias, abs=0.06)
        assert calibration.ece_before[group] > 0.1
        assert calibration.ece_after[group] < 0.015


def test_temperature_alone_does_not_mend_a_shift():
    table = planted_table(5000, {"head": (1.0, 2.0), "medium": (1.0, 2.0), "tail": (1.0, 2.0)})
    alone, both = fit_calibration(table, bias=False), fit_calibration(table)
    assert all(group.bias == 0 for group in alone.groups.values())
    assert alone.ece_after["total"] > 0.1 > 0.02 > both.ece_after["total"]


def test_errors_are_torchmetrics_and_the_one_after_is_of_images_not_fitted_on():
    table = planted_table(120, {"head": (2.0, 1.0), "medium": (0.6, -1.5), "tail": (0.8, 2.0)}, seed=3)
    table.labels[5:30, 4] = -1
    calibration = fit_calibration(table, num_folds=4, seed=2)
    held_out = np.empty(table.scores.shape)
    for fold in deal_into_folds(table, 4, 2):
        rest = fit_calibration(table.select([row for row in range(120) if row not in fold])).parameters
        for column, group in enumerate(table.groups):
            logits = np.log(table.scores[fold, column] / (1 - table.scores[fold, column]))
            held_out[fold, column] = sigmoid(logits / rest[group]["temperature"] + rest[group]["bias"])
    for errors, probabilities in ((calibration.ece_before, table.scores), (calibration.ece_after, held_out)):
        assert list(errors) == ["total", "head", "medium", "tail"]
        for name, error in errors.items():
            columns = np.array([name in ("total", group) for group in table.groups])
            known = table.labels[:, columns] >= 0
            expected = binary_calibration_error(
                torch.tensor(probabilities[:, columns][known]),
                torch.tensor(table.labels[:, columns][known]).long(),
                n_bins=15,
                norm="l1",
            )
            assert error == pytest.approx(expected.item(), abs=1e-6)


@pytest.mark.parametrize(("label", "word"), [(0, "positives"), (1, "negatives")])
def test_a_group_of_one_kind_of_label_is_left_as_it_is_and_named(label, word):
    table = planted_table(50)
    table.labels[:, 2] = label
    table.labels[:5, 2] = -1
    medium = fit_calibration(table).groups["medium"]
    assert (medium.temperature, medium.bias) == (1.0, 0.0)
    assert medium.remark == f"no {word} to calibrate by: left as it is"
    assert fit_calibration(table, bias=False).groups["medium"].temperature == 1.0


def test_separable_labels_end_at_the_bound_and_are_named():
    table = planted_table(60)
    table.labels[:, 2] = table.scores[:, 2] > 0.5
    medium = fit_calibration(table).groups["medium"]
    assert medium.temperature == pytest.approx(TEMPERATURE_BOUNDS[0], rel=1e-3)
    assert "bound" in medium.remark
    assert np.isfinite(medium.bias)


def test_few_positives_take_the_values_of_all_classes_together():
    table = planted_table(400, {"head": (2.0, 0.5), "medium": (0.5, -1.0), "tail": (1.0, 2.0)}, seed=1)
    table.labels[:, 2] = 0
    table.labels[[3, 20, 40], 2] = 1
    medium = fit_calibration(table).groups["medium"]
    assert (medium.num_positives, medium.remark) == (3, "fewer than 10 positives: the values of all classes together")
    logits = np.log(table.scores / (1 - table.scores)).reshape(-1, 1)
    expected = LogisticRegression(C=np.inf, tol=1e-10, max_iter=1000).fit(logits, table.labels.reshape(-1))
    assert 1 / medium.temperature == pytest.approx(expected.coef_.item(), rel=1e-4)
    assert medium.bias == pytest.approx(expected.intercept_.item(), rel=1e-4)


def test_few_positives_in_all_are_not_fitted():
    table = planted_table(50)
    table.labels[:] = 0
    table.labels[[3, 20, 40], [0, 2, 4]] = 1
    for group in fit_calibration(table).groups.values():
        assert (group.temperature, group.bias) == (1.0, 0.0)
        assert group.remark == "fewer than 10 positives: left as it is"


def test_scores_of_zero_and_one_are_calibrated_too():
    table = planted_table(40)
    table.scores[0], table.scores[1] = 0.0, 1.0
    calibration = fit_calibration(table)
    probabilities = apply_calibration(table.scores, table.groups, calibration.parameters)
    assert ((probabilities >= 0) & (probabilities <= 1)).all()


def test_calibration_keeps_the_order_within_a_class_and_agrees_with_the_image_processor():
    parameters = {"head": {"temperature": 1.7, "bias": -2.0}, "tail": {"temperature": 0.4}}
    logits = torch.linspace(-6, 6, 50).repeat(5, 1).T.contiguous()
    table = planted_table(10)
    probabilities = apply_calibration(logits.double().sigmoid().numpy(), table.groups, parameters)
    assert (np.diff(probabilities, axis=0) > 0).all()
    per_class = [(1.7, -2.0), (1.7, -2.0), (1.0, 0.0), (0.4, 0.0), (0.4, 0.0)]
    kept = CSSFEImageProcessor().post_process_multi_label_classification(logits, 0.0, calibration=per_class)
    for row, entries in zip(probabilities, kept, strict=True):
        assert {entry["label"]: entry["probability"] for entry in entries} == pytest.approx(dict(enumerate(row)))


def test_a_group_without_known_labels_has_no_error():
    table = planted_table(20)
    table.labels[:, 2] = -1
    assert calibration_errors(table, table.scores)["medium"] is None


def test_a_calibration_goes_through_json():
    calibration = fit_calibration(planted_table(50))
    content = json.loads(json.dumps(calibration.to_dict(), allow_nan=False))
    assert content["groups"]["tail"]["temperature"] == calibration.parameters["tail"]["temperature"]
    assert set(content["ece_after"]) == {"total", "head", "medium", "tail"}


def test_a_number_of_folds_that_cannot_be_is_refused():
    with pytest.raises(ValueError, match="num_folds is 9 for 8 image"):
        fit_calibration(planted_table(8), num_folds=9)
