import json

import pytest
import torch
from huggingface_hub import ModelCard
from tiny_runs import tiny_overrides

from modeling_cssfe import CSSFEForImageClassification
from modeling_cssfe.hub.model_card import render_model_card
from modeling_cssfe.training import load_recipe, train
from modeling_cssfe.training.preparation import build_run_model, load_run_data


STILL = {"epochs": 1, "learning_rate": 1e-30, "weight_decay": 0.0, "ema_decay": "null", "freeze_batch_norm": "true"}


def test_a_run_takes_weights_and_label_embeddings_from_its_initial_model(tiny_run, tiny_data, tmp_path):
    changes = {**STILL, "seed": 5, "loss": "bce", "label_embeddings": "no/encoder", "initial_model": tiny_run}
    train(load_recipe(None, tiny_overrides(tiny_data, **changes)), tmp_path / "run", quiet=True)
    before, after = (CSSFEForImageClassification.from_pretrained(path) for path in (tiny_run, tmp_path / "run"))
    for key, value in before.state_dict().items():
        assert torch.equal(value, after.state_dict()[key]), key
    assert after.config.label_embedding_provenance == before.config.label_embedding_provenance
    assert (before.config.loss, after.config.loss) == ("asl", "bce")


def test_an_initial_model_keeps_the_discriminant_that_it_has(tiny_data, tmp_path):
    plus = {"preset": "plus", "class_activation_init": "discriminant"}
    train(load_recipe(None, tiny_overrides(tiny_data, epochs=1, **plus)), tmp_path / "first", quiet=True)
    before = CSSFEForImageClassification.from_pretrained(tmp_path / "first").discriminant
    changes = {**plus, **STILL, "initial_model": tmp_path / "first", "random_erasing": 0.3, "image_size": 96}
    train(load_recipe(None, tiny_overrides(tiny_data, **changes)), tmp_path / "second", quiet=True)
    after = CSSFEForImageClassification.from_pretrained(tmp_path / "second").discriminant
    assert before.weight.any(dim=1).all()
    assert torch.equal(after.weight, before.weight)
    assert torch.equal(after.bias, before.bias)


def test_weights_of_a_model_may_be_judged_at_another_size(tiny_run, tiny_data):
    recipe = load_recipe(None, tiny_overrides(tiny_data, image_size=96))
    model = build_run_model(recipe, load_run_data(recipe, False), tiny_run)
    assert model.config.image_size == 96
    trained = CSSFEForImageClassification.from_pretrained(tiny_run)
    images = torch.randn(2, 3, 96, 96)
    with torch.no_grad():
        torch.testing.assert_close(model(images).logits, trained(images).logits, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"model.fusion_residual": "false"},
            "another network than the recipe's: it has fusion_residual True, not False",
        ),
        ({"ablation": "net1"}, "ablation 'net3', not 'net1'"),
        ({"preset": "plus"}, "discriminant_share 0.0, not 0.5"),
        ({"model.map_pooling": "softmax"}, "map_pooling 'relu', not 'softmax'"),
    ],
)
def test_another_network_is_refused(changes, message, tiny_run, tiny_data, tmp_path):
    recipe = load_recipe(None, tiny_overrides(tiny_data, initial_model=tiny_run, **changes))
    with pytest.raises(ValueError, match=message):
        train(recipe, tmp_path / "run", quiet=True)
    assert not (tmp_path / "run").exists()


def test_a_gate_of_another_size_is_refused(tiny_data, tmp_path):
    gate = {"model.map_gate": "true", "epochs": 1}
    train(load_recipe(None, tiny_overrides(tiny_data, **gate)), tmp_path / "gate", quiet=True)
    recipe = load_recipe(None, tiny_overrides(tiny_data, image_size=96, initial_model=tmp_path / "gate", **gate))
    with pytest.raises(ValueError, match=r"of the shape .*give the recipe the image_size that it was trained with"):
        train(recipe, tmp_path / "run", quiet=True)


def test_the_same_settings_are_the_same_network_whether_list_or_tuple(tiny_data, tmp_path):
    own = {"model.image_mean": "[0.5, 0.5, 0.5]", "epochs": 1}
    train(load_recipe(None, tiny_overrides(tiny_data, **own)), tmp_path / "first", quiet=True)
    recipe = load_recipe(None, tiny_overrides(tiny_data, **own))
    assert build_run_model(recipe, load_run_data(recipe, False), tmp_path / "first").config.image_mean == [0.5] * 3


def test_the_card_names_an_initial_model_of_the_hub_as_its_base(tiny_run):
    results = json.loads((tiny_run / "results.json").read_text())
    config = CSSFEForImageClassification.from_pretrained(tiny_run).config
    for initial, base in (("user/network", "user/network"), (str(tiny_run), None)):
        results["recipe"] |= {"initial_model": initial, "backbone_weights": True}
        assert ModelCard(render_model_card(results, config)).data.base_model == base


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["blue", "red", "green"], "number 1 is 'green', not 'red'"),
        (["red", "green"], "3 of them, not 2"),
    ],
)
def test_other_classes_are_refused(names, message, tiny_run, tiny_data, tmp_path):
    recipe = load_recipe(None, tiny_overrides(tiny_data, initial_model=tiny_run))
    data = load_run_data(recipe, False)
    data.label_names, data.class_counts = names, data.class_counts[: len(names)]
    with pytest.raises(ValueError, match=f"has other classes than the data: {message}"):
        build_run_model(recipe, data, tiny_run)


def test_what_is_no_model_is_refused_in_one_line(tiny_data, tmp_path):
    (tmp_path / "empty").mkdir()
    recipe = load_recipe(None, tiny_overrides(tiny_data, initial_model=tmp_path / "empty"))
    with pytest.raises(ValueError, match=r"holds no model \(no config.json\)"):
        train(recipe, tmp_path / "run", quiet=True)


def test_without_a_test_split_none_is_judged(tiny_data, tmp_path):
    results = train(load_recipe(None, tiny_overrides(tiny_data, epochs=1, test_split="null")), tmp_path, quiet=True)
    assert results["test"] is None
    assert "test" not in json.loads((tmp_path / "results.json").read_text())["data_fingerprint"]
    with pytest.raises(ValueError, match="test_split to one of them or to null"):
        train(load_recipe(None, tiny_overrides(tiny_data, test_split="exam")), tmp_path / "other", quiet=True)
