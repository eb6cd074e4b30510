# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""The recipes of the paper's tables, and recipes that extend others."""

import dataclasses
import json

import pytest
import torch
import yaml

from modeling_cssfe import CSSFEConfig, CSSFEForImageClassification
from modeling_cssfe.losses import build_loss
from modeling_cssfe.recipes import find_recipe
from modeling_cssfe.samplers import build_sampler
from modeling_cssfe.training import Recipe, list_recipes, load_recipe


# mAP in percent, total / head / medium / tail, as the tables print them: LT-VOC, LT-COCO.
PUBLISHED = {
    "erm": ("70.86 68.91 80.20 65.31", "41.27 48.48 49.06 24.25"),
    "rw": ("74.70 67.58 82.81 73.96", "42.27 48.62 45.80 32.02"),
    "focal": ("73.88 69.41 81.43 71.56", "49.46 49.80 54.77 42.14"),
    "rs": ("75.38 70.95 82.94 73.05", "46.97 47.58 50.55 41.70"),
    "ldam": ("70.73 68.73 80.38 69.09", "40.53 48.77 48.38 22.92"),
    "cb_focal": ("75.24 70.30 83.53 72.74", "49.06 47.91 53.01 44.85"),
    "asl": ("76.40 70.70 82.26 76.29", "50.21 49.05 53.65 46.68"),
    "db_focal": ("78.94 73.22 84.18 79.30", "53.55 51.13 57.05 51.06"),
    "pg": ("80.37 73.67 83.83 82.88", "54.43 51.23 57.42 53.40"),
    "cssfe_released": ("86.38 81.93 91.16 87.26", "66.93 66.96 71.21 62.41"),
    "cssfe_paper": ("86.38 81.93 91.16 87.26", "66.93 66.96 71.21 62.41"),
    "cssfe_corrected": ("86.38 81.93 91.16 87.26", "66.93 66.96 71.21 62.41"),
    "net3": ("86.38 81.93 91.16 87.26", "66.93 66.96 71.21 62.41"),
    "cssfe_vit_b16": ("86.44 82.33 91.10 87.14", "66.95 66.98 71.33 62.38"),
    "cssfe_vgg16": ("86.13 81.04 90.25 86.34", "65.92 65.13 70.87 60.16"),
    "cssfe_db": ("86.32", "65.42"),
    "cssfe_pg": ("86.35", "65.93"),
    # Rows of which no figure is at hand.
    **dict.fromkeys(("db", "net0", "net1", "net2"), ("", "")),
    **{f"cssfe_{name}": ("", "") for name in ("glove", "minilm", "mpnet", "bert", "random")},
}
FIGURES = ("map_total", "map_head", "map_medium", "map_tail")
SETS = {"lt_voc": "LT-VOC", "lt_coco": "LT-COCO"}
# Training counts, most frequent first: LT-VOC's own, and a tail of LT-COCO's length between its 1,128 and 6 images.
COUNTS = {
    "lt_voc": [775, 479, 249, 240, 154, 100, 82, 64, 48, 34, 29, 20, 17, 14, 11, 8, 7, 6, 5, 4],
    "lt_coco": [round(6 * (1128 / 6) ** (step / 79)) for step in range(79, -1, -1)],
}
NUM_IMAGES = {"lt_voc": 1142, "lt_coco": 1909}
OF_THE_TABLES = [name for name in list_recipes() if name.startswith(("lt_voc_", "lt_coco_"))]


def set_of(name):
    return next(key for key in SETS if name.startswith(key))


def config_of(recipe, num_labels, **others):
    options = {**recipe.model, **others}
    if recipe.loss_kwargs is not None:
        options["loss_kwargs"] = recipe.loss_kwargs
    return CSSFEConfig(
        backbone=recipe.backbone,
        backbone_kwargs=recipe.backbone_kwargs or None,
        preset=recipe.preset,
        ablation=recipe.ablation,
        image_size=recipe.image_size,
        num_labels=num_labels,
        loss=recipe.loss,
        **options,
    )


def architecture_of(name):
    recipe = load_recipe(name)
    keys = ("backbone", "backbone_kwargs", "preset", "ablation", "image_size", "model")
    return json.dumps([getattr(recipe, key) for key in keys], sort_keys=True)


def test_every_row_of_the_tables_has_a_recipe_for_both_data_sets():
    assert {f"{data}_{row}" for data in SETS for row in PUBLISHED} <= set(OF_THE_TABLES)


@pytest.mark.parametrize("row", PUBLISHED)
@pytest.mark.parametrize("data", SETS)
def test_published_figures_are_those_of_the_tables_in_the_field_and_in_the_comment(data, row):
    name = f"{data}_{row}"
    printed = PUBLISHED[row][list(SETS).index(data)].split()
    expected = {figure: round(float(text) / 100, 6) for figure, text in zip(FIGURES, printed, strict=False)}
    if expected:
        expected["data"] = SETS[data]
    assert load_recipe(name).published == expected
    text = find_recipe(name).read_text()
    assert not printed or " / ".join(printed) in text


@pytest.mark.parametrize("name", OF_THE_TABLES)
def test_a_recipe_of_the_tables_judges_what_it_says_by_data_that_its_script_writes(name):
    recipe = load_recipe(name)
    assert recipe.data == f"data/{set_of(name)}"
    assert (recipe.validation_split, recipe.test_split) == ("validation", "test")
    comment = find_recipe(name).read_text().splitlines()[0]
    assert comment.startswith("# ")


@pytest.mark.parametrize("name", list_recipes())
def test_loss_and_sampler_of_a_recipe_can_be_built_and_give_numbers(name):
    recipe, data = load_recipe(name), set_of(name) if name in OF_THE_TABLES else "lt_voc"
    counts = COUNTS[data]
    loss = build_loss(recipe.loss, class_counts=counts, num_samples=NUM_IMAGES[data], **(recipe.loss_kwargs or {}))
    labels = torch.zeros(4, len(counts))
    labels[:, 0] = 1
    assert torch.isfinite(loss(torch.zeros(4, len(counts)), labels))
    if recipe.sampler != "uniform":
        build_sampler(recipe.sampler, labels=labels, **recipe.sampler_kwargs)


# One recipe for each architecture: the others have the same model, with other losses, samplers or data.
@pytest.mark.parametrize("name", {architecture_of(name): name for name in reversed(list_recipes())}.values())
def test_each_recipes_model_can_be_built(name):
    recipe = load_recipe(name)
    config = config_of(recipe, num_labels=3, class_counts=[150, 30, 4], num_samples=160)
    with torch.device("meta"):
        model = CSSFEForImageClassification(config)
    stride = 8 if recipe.backbone_kwargs else 16 if recipe.backbone.startswith("vit") else 32
    assert model.cssfe.backbone.map_size == (recipe.image_size // stride,) * 2


def test_paper_and_released_code_differ_in_what_is_known_to_differ():
    paper, released = (dataclasses.asdict(load_recipe(f"lt_voc_cssfe_{name}")) for name in ("paper", "released"))
    assert {key: (paper[key], released[key]) for key in paper if paper[key] != released[key]} == {
        "preset": ("paper", "released"),
        "optimizer": ("adam", "adamw"),
        "weight_decay": (1e-4, 0.01),
        "schedule": ("constant", "one_cycle"),
        "warmup_fraction": (0.0, 0.1),
        "ema_decay": (None, 0.998),
    }
    assert (released["batch_size"], released["epochs"], released["image_size"]) == (16, 80, 448)
    rates = {
        data: {load_recipe(f"{data}_cssfe_{name}").learning_rate for name in ("paper", "released")} for data in SETS
    }
    assert rates == {"lt_voc": {5e-5}, "lt_coco": {1e-5}}


@pytest.mark.parametrize("data", SETS)
def test_baselines_of_both_samplers_have_as_many_updates(data):
    uniform, class_aware = load_recipe(f"{data}_erm"), load_recipe(f"{data}_rs")
    updates = NUM_IMAGES[data] // uniform.batch_size * uniform.epochs
    drawn = max(COUNTS[data]) * len(COUNTS[data]) // 4
    assert updates == pytest.approx(drawn // class_aware.batch_size * class_aware.epochs, rel=0.03)


def test_rows_of_a_table_differ_from_their_base_in_what_they_are_named_for():
    base = dataclasses.asdict(load_recipe("lt_coco_cssfe_released"))

    def differing(row):
        recipe = dataclasses.asdict(load_recipe(f"lt_coco_{row}"))
        return {key for key in recipe if recipe[key] != base[key]} - {"published"}

    assert differing("net0") == differing("net1") == differing("net2") == {"ablation"}
    assert differing("net3") == set()
    assert differing("cssfe_vgg16") == differing("cssfe_vit_b16") == {"backbone"}
    for row in ("glove", "minilm", "mpnet", "bert", "random"):
        assert differing(f"cssfe_{row}") == {"label_embeddings"}
    assert differing("cssfe_db") == differing("cssfe_pg") == {"loss", "loss_kwargs"}


def test_a_recipe_extends_another_key_by_key_and_leaves_its_figures(tmp_path):
    (tmp_path / "base.yaml").write_text(
        "epochs: 7\nbatch_size: 5\nmodel: {hidden_size: 64, label_dropout: 0.2}\npublished: {map_total: 0.5}\n"
    )
    (tmp_path / "middle.yaml").write_text("extends: base.yaml\nepochs: 8\nmodel: {label_dropout: 0.1}\n")
    (tmp_path / "mine.yml").write_text("extends: middle.yaml\nbatch_size: 6\npublished: {map_tail: 0.25}\n")
    recipe = load_recipe(str(tmp_path / "mine.yml"), ["model.hidden_size=32"])
    assert recipe == Recipe(
        epochs=8,
        batch_size=6,
        model={"hidden_size": 32, "label_dropout": 0.1},
        published={"map_tail": 0.25},
    )
    (tmp_path / "of_shipped.yaml").write_text("extends: lt_voc_erm\nloss: asl\n")
    written = yaml.safe_load(find_recipe("lt_voc_erm").read_text())
    expected = {key: value for key, value in written.items() if key != "published"} | {"loss": "asl"}
    assert load_recipe(str(tmp_path / "of_shipped.yaml")) == Recipe(**expected)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"a": "extends: a.yaml"}, r"a\.yaml extends itself \(a\.yaml -> a\.yaml\)"),
        ({"a": "extends: b.yaml", "b": "extends: ./c.yaml", "c": "extends: b.yaml"}, r"b\.yaml -> c\.yaml -> b\.yaml"),
        ({"a": "extends: lt_voc_emr"}, "a.yaml extends 'lt_voc_emr': .* did you mean 'lt_voc_erm'"),
        ({"a": "extends: gone.yaml"}, "a.yaml extends 'gone.yaml': no recipe file"),
        ({"a": "extends: [lt_voc_erm, lt_voc_rw]"}, "give one recipe's name or YAML file"),
        ({"a": "extends: b.yaml", "b": "epocs: 3"}, "unknown key 'epocs' in recipe b.yaml; did you mean 'epochs'"),
        ({"a": "published: {map_total: 86.38}"}, r"published.map_total is 86.38: give a fraction"),
        ({"a": "published: {map: 0.8}"}, "unknown published.map: give map_total"),
    ],
    ids=lambda value: "" if isinstance(value, dict) else value[:30],
)
def test_a_wrong_chain_is_a_one_line_error(files, message, tmp_path):
    for name, text in files.items():
        (tmp_path / f"{name}.yaml").write_text(text + "\n")
    with pytest.raises(ValueError, match=message) as caught:
        load_recipe(str(tmp_path / "a.yaml"))
    assert "\n" not in str(caught.value)
