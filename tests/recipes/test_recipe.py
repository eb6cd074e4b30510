import dataclasses
from pathlib import Path

import pytest
import yaml

from modeling_cssfe import CSSFEConfig, CSSFEForImageClassification
from modeling_cssfe.recipes import find_recipe
from modeling_cssfe.recipes.checks import KEYS_OF_THE_DATA, OWN_KEYS
from modeling_cssfe.training import Recipe, list_recipes, load_recipe
from modeling_cssfe.training.preparation import RunData, build_run_model


RECIPES = Path(__file__).parents[2] / "train" / "recipes"


def test_every_recipe_file_is_listed():
    assert list_recipes() == sorted(file.stem for file in RECIPES.glob("*.yaml"))


@pytest.mark.parametrize("name", list_recipes())
def test_every_shipped_recipe_parses_and_keeps_its_values(name):
    recipe = dataclasses.asdict(load_recipe(name))
    written = yaml.safe_load(find_recipe(name).read_text())
    written.pop("extends", None)
    for key, value in written.items():
        found = recipe[key]
        if isinstance(value, dict):  # what a recipe extends may have further entries
            found = {entry: found[entry] for entry in value}
        assert found == value, key


@pytest.mark.parametrize("name", list_recipes())
def test_every_shipped_recipe_gives_a_valid_configuration(name):
    recipe = load_recipe(name)
    config = CSSFEConfig(
        backbone=recipe.backbone,
        preset=recipe.preset,
        ablation=recipe.ablation,
        image_size=recipe.image_size,
        loss=recipe.loss,
        loss_kwargs=recipe.loss_kwargs,
        **recipe.model,
    )
    assert config.ablation == recipe.ablation


def test_overrides_win_over_the_file_and_reach_nested_keys(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("epochs: 7\nmodel: {hidden_size: 64, label_dropout: 0.2}\n")
    recipe = load_recipe(str(file), ["epochs=3", "model.hidden_size=32", "loss_kwargs.margin=0.1"], {"data": "a b=c"})
    assert (recipe.epochs, recipe.model, recipe.loss_kwargs) == (
        3,
        {"hidden_size": 32, "label_dropout": 0.2},
        {"margin": 0.1},
    )
    assert recipe.data == "a b=c"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((None, ["epocs=3"]), "unknown key 'epocs' in the overrides; did you mean 'epochs'"),
        ((None, ["epochs"]), "cannot read 'epochs'; write key=value"),
        ((None, ["epochs=many"]), r"^epochs is 'many': give a whole number\.$"),
        ((None, ["ema_decay=slow"]), r"^ema_decay is 'slow': give a number or null\.$"),
        (
            (None, ["loss.name=asl"]),
            "^loss is {'name': 'asl'}: give a name or text, with options in a key of their own",
        ),
        ((None, ["crop_scale=[a, b]"]), r"^crop_scale is \['a', 'b'\]: give a list"),
        ((None, ["trackers=[[1]]"]), "unknown tracker"),
        ((None, ["preset=papr"]), "unknown preset 'papr'"),
        ((None, ["epochs=0", "batch_size=-1"]), "2 problem"),
        ((None, ["validation_split=test"]), "choose on another split"),
        ((None, ["validation_split=train"]), "validation_split is 'train', what is trained on"),
        ((None, ["test_split=train"]), "test_split is 'train', what is trained on"),
        ((None, ["weight_decay=nan"]), "weight_decay is nan"),
        ((None, ["learning_rate=inf"]), "learning_rate is inf: give a finite number > 0"),
        ((None, ["label_smoothing=1"]), r"label_smoothing is 1.*: give a share in \[0, 1\)"),
        ((None, ["label_smoothing=0.1", "loss=two_way"]), "label_smoothing excludes the loss 'two_way'"),
        ((None, ["epochs=${oc.env:HOME}"]), r"epochs is '\$\{oc.env:HOME\}', which recipes do not fill in"),
        (("lt_digit",), "did you mean 'lt_digits'"),
        (("no/such/file.yaml",), "no recipe file"),
    ],
)
def test_a_wrong_recipe_is_a_one_line_error(arguments, message):
    with pytest.raises(ValueError, match=message) as caught:
        load_recipe(*arguments)
    assert "\n" not in str(caught.value)


def test_a_recipe_does_not_read_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("SECRET", "hunter2")
    file = tmp_path / "recipe.yaml"
    secret = '"${oc.env:SECRET}"'
    file.write_text(f'data: {secret}\npublished: {{data: {secret}}}\ndata_kwargs: {{label_names: ["a${{b}}"]}}')
    recipe = load_recipe(str(file))
    assert recipe.data == recipe.published["data"] == "${oc.env:SECRET}"
    assert recipe.data_kwargs["label_names"] == ["a${b}"]


@pytest.mark.parametrize("text", ["- a\n- b\n", "epochs: [1\n", "epochs: {a: 1}\n", "unheard_of: 1\n"])
def test_a_broken_recipe_file_is_a_one_line_error(tmp_path, text):
    file = tmp_path / "broken.yaml"
    file.write_text(text)
    with pytest.raises(ValueError, match=r"recipe|key|epochs is") as caught:
        load_recipe(str(file))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("key", OWN_KEYS)
def test_a_key_of_the_recipe_is_refused_among_the_models(key):
    with pytest.raises(ValueError, match=rf"model\.{key} is a key of the recipe itself: write {key}=7") as caught:
        load_recipe(None, [f"model.{key}=7"])
    assert "\n" not in str(caught.value)


def test_every_key_that_the_recipe_gives_the_model_is_one_of_its_own(monkeypatch):
    given = {}

    def record(backbone, **settings):
        given.update(settings, backbone=backbone)
        return CSSFEForImageClassification(CSSFEConfig(backbone="test_resnet", ablation="net0"))

    monkeypatch.setattr(CSSFEForImageClassification, "from_backbone", record)
    data = RunData({}, ["a", "b"], [3, 4], 5, {}, {})
    build_run_model(Recipe(loss_kwargs={"gamma_neg": 2.0}), data)
    assert given.keys() == set(OWN_KEYS) | set(KEYS_OF_THE_DATA)


@pytest.mark.parametrize("key", KEYS_OF_THE_DATA)
def test_what_the_data_says_is_refused_among_the_models_keys(key):
    with pytest.raises(ValueError, match=rf"model\.{key} comes from the data"):
        load_recipe(None, [f"model.{key}=[1]"])


def test_defaults_are_valid():
    assert Recipe().validation_split == "validation"
