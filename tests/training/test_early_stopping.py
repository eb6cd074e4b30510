import json
import math

import pytest
from tiny_runs import tiny_overrides

from modeling_cssfe.training import load_recipe, train
from modeling_cssfe.training.early_stopping import EarlyStopping


def test_it_stops_after_patience_evaluations_without_a_gain():
    stopping = EarlyStopping(patience=2)
    assert [stopping.update(score) for score in (0.1, 0.3, 0.3, 0.2, 0.9)] == [False, False, False, True, False]


def test_small_gains_count_only_together():
    stopping = EarlyStopping(patience=3, min_delta=0.1)
    # .55 and .58 are each within .1 of .5; .62 is not.
    assert not any(stopping.update(score) for score in (0.5, 0.55, 0.58, 0.62))
    assert stopping.best == 0.62
    assert stopping.evaluations_without_gain == 0


@pytest.mark.parametrize("missing", [None, math.nan])
def test_a_missing_score_is_no_gain(missing):
    stopping = EarlyStopping(patience=2)
    assert not stopping.update(missing)
    assert stopping.update(missing)


def test_without_patience_it_never_stops():
    stopping = EarlyStopping(None)
    assert not any(stopping.update(0.0) for _ in range(100))


def test_it_goes_on_from_its_state_through_json():
    scores = [0.2, 0.1, 0.3, 0.29, 0.28, 0.27]
    whole = EarlyStopping(3)
    expected = [whole.update(score) for score in scores]
    for cut in range(len(scores)):
        first, second = EarlyStopping(3), EarlyStopping(3)
        answers = [first.update(score) for score in scores[:cut]]
        second.load_state_dict(json.loads(json.dumps(first.state_dict())))
        assert answers + [second.update(score) for score in scores[cut:]] == expected


def test_numbers_out_of_range_are_refused():
    with pytest.raises(ValueError, match="early_stopping_patience is 0"):
        EarlyStopping(0)
    with pytest.raises(ValueError, match=r"early_stopping_min_delta is -0\.1"):
        EarlyStopping(1, -0.1)
    with pytest.raises(ValueError, match="early_stopping_patience is 0"):
        load_recipe(None, ["early_stopping_patience=0"])


def test_a_run_ends_early_and_says_so(tiny_data, tmp_path):
    # No gain in mAP can exceed 1, so the first evaluation stays the best and two more end the run.
    overrides = tiny_overrides(tiny_data, epochs=9, early_stopping_patience=2, early_stopping_min_delta=1.0)
    results = train(load_recipe(None, overrides), tmp_path / "run", quiet=True)
    log = (tmp_path / "run" / "log.jsonl").read_text().splitlines()
    assert len(log) == 3
    assert results["epochs_trained"] == 3
    assert results["stop_reason"].startswith("early stopping: no evaluation in 2")
    assert json.loads((tmp_path / "run" / "results.json").read_text())["stop_reason"] == results["stop_reason"]


def test_epochs_without_an_evaluation_do_not_count(tiny_data, tmp_path):
    overrides = tiny_overrides(
        tiny_data, epochs=6, evaluate_every=2, early_stopping_patience=1, early_stopping_min_delta=1.0
    )
    assert train(load_recipe(None, overrides), tmp_path / "run", quiet=True)["epochs_trained"] == 4
