import json

import datasets
import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from sklearn.metrics import average_precision_score
from tiny_runs import TINY_COUNTS, tiny_overrides, write_parquet

from modeling_cssfe import CSSFEForImageClassification, CSSFEImageProcessor
from modeling_cssfe.evaluation.logits import align_labels
from modeling_cssfe.training import SavingError, evaluate_model, load_recipe, load_trained_model, train
from modeling_cssfe.training.loop import smooth_labels
from modeling_cssfe.training.preparation import load_run_splits


def test_a_run_leaves_everything_that_is_promised(tiny_run):
    names = {entry.name for entry in tiny_run.iterdir()}
    assert {"config.json", "model.safetensors", "preprocessor_config.json", "results.json"} <= names
    assert {"log.jsonl", "README.md", "checkpoints", "modeling_cssfe.py", "configuration_cssfe.py"} <= names
    assert not [name for name in names if name.startswith(".")]
    results = json.loads((tiny_run / "results.json").read_text())
    assert {"map_total", "map_head", "map_medium", "map_tail", "per_class", "environment", "seed"} <= results.keys()
    assert results["wall_time_seconds"] > 0
    assert results["recipe"]["epochs"] == 2
    assert results["class_counts"] == TINY_COUNTS
    assert results["num_training_images"] == 18
    log = [json.loads(line) for line in (tiny_run / "log.jsonl").read_text().splitlines()]
    assert [entry["epoch"] for entry in log] == [1, 2]
    assert results["map_total"] == max(entry["map_total"] for entry in log)


def test_results_agree_with_scikit_learn_on_the_saved_model(tiny_run, tiny_data):
    results = json.loads((tiny_run / "results.json").read_text())
    model = CSSFEForImageClassification.from_pretrained(tiny_run).eval()
    processor = CSSFEImageProcessor.from_pretrained(tiny_run)
    split = datasets.load_dataset("parquet", data_files=str(tiny_data / "test.parquet"), split="train")
    names = split.features["labels"].feature.names
    with torch.no_grad():
        scores = (
            model(processor(images=list(split["image"]), return_tensors="pt")["pixel_values"]).logits.sigmoid().numpy()
        )
    labels = np.array([[int(index in row) for index in range(len(names))] for row in split["labels"]])
    for index, name in enumerate(names):
        expected = average_precision_score(labels[:, index], scores[:, index])
        assert results["test"]["per_class"][name] == pytest.approx(expected, abs=1e-9)


def test_evaluate_model_repeats_the_results_of_training(tiny_run, tiny_data):
    results = json.loads((tiny_run / "results.json").read_text())
    for split in ("validation", "test"):
        again = evaluate_model(tiny_run, tiny_data, split)
        assert again["per_class"] == results[split]["per_class"]
    assert evaluate_model(tiny_run, tiny_data)["split"] == "test"


def test_the_same_seed_gives_the_same_weights_and_another_seed_does_not(tiny_run, tiny_data, tmp_path):
    for name, seed in (("again", 0), ("other", 1)):
        train(load_recipe(None, tiny_overrides(tiny_data, seed=seed, num_workers=seed)), tmp_path / name, quiet=True)
    first = (tiny_run / "model.safetensors").read_bytes()
    assert (tmp_path / "again" / "model.safetensors").read_bytes() == first
    assert (tmp_path / "other" / "model.safetensors").read_bytes() != first


def test_training_learns(tiny_data, tmp_path):
    # Squares of a colour on grey: what a network of 400 thousand weights learns in a few passes.
    results = train(
        load_recipe(None, tiny_overrides(tiny_data, ablation="net0", epochs=25, learning_rate=0.01, ema_decay="null")),
        tmp_path / "run",
        quiet=True,
    )
    log = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert log[-1]["loss"] < 0.5 * log[0]["loss"]
    assert results["map_total"] > 0.8


@pytest.mark.parametrize(
    "change",
    [
        {"optimizer": "adam", "schedule": "cosine", "loss": "bce"},
        {"gradient_accumulation_steps": 2, "ablation": "net1", "max_grad_norm": "null"},
        {"freeze_backbone": "true", "ablation": "net2", "augmentation": "rand"},
        {"freeze_batch_norm": "true", "preset": "paper", "channels_last": "true"},
        {"sampler": "class_aware", "loss": "db_focal", "num_workers": 1},
        {"mixed_precision": "bf16", "preset": "released", "evaluate_every": 5, "loss": "ldam"},
    ],
    ids=lambda change: "-".join(map(str, change.values())),
)
def test_every_kind_of_run_ends_with_results(tiny_data, tmp_path, change):
    results = train(
        load_recipe(None, tiny_overrides(tiny_data, **{"epochs": 1, **change})), tmp_path / "run", quiet=True
    )
    assert 0 < results["map_total"] <= 1


def test_a_frozen_backbone_does_not_change(tiny_data, tmp_path):
    overrides = tiny_overrides(tiny_data, freeze_backbone="true", ema_decay="null")
    train(load_recipe(None, overrides), tmp_path / "run", quiet=True)
    torch.manual_seed(0)
    trained = CSSFEForImageClassification.from_pretrained(tmp_path / "run")
    fresh_run = tmp_path / "fresh"
    train(load_recipe(None, [*overrides, "epochs=1", "learning_rate=1e-12"]), fresh_run, quiet=True)
    fresh = CSSFEForImageClassification.from_pretrained(fresh_run)
    for (name, value), other in zip(
        trained.cssfe.backbone.state_dict().items(), fresh.cssfe.backbone.state_dict().values(), strict=True
    ):
        assert torch.equal(value, other), name
    assert not torch.equal(trained.cssfe.class_activation.weight, fresh.cssfe.class_activation.weight)


def test_frozen_layers_do_not_change_and_the_others_do(tiny_data, tmp_path):
    names = ["conv1", "bn1", "layer1"]
    settings = tiny_overrides(tiny_data, epochs=1, learning_rate=0.01, frozen_layers=f"[{', '.join(names)}]")
    still = [*settings, "learning_rate=1e-30", "weight_decay=0", "ema_decay=null", "freeze_batch_norm=true"]
    train(load_recipe(None, still), tmp_path / "before", quiet=True)
    train(load_recipe(None, settings), tmp_path / "after", quiet=True)
    before, after = (load_file(tmp_path / run / "model.safetensors") for run in ("before", "after"))
    kept = tuple(f"cssfe.backbone.timm_model.{name}." for name in names)
    assert any(key.startswith(kept) and "running_mean" in key for key in before)
    for key, value in before.items():
        if key.startswith(kept):
            assert torch.equal(after[key], value), key
        elif key.endswith(("conv1.weight", "running_mean")):
            assert not torch.equal(after[key], value), key


def test_a_frozen_layer_that_is_not_there_is_named(tiny_data, tmp_path):
    recipe = load_recipe(None, tiny_overrides(tiny_data, frozen_layers="[layer1, layer7]"))
    with pytest.raises(ValueError, match="frozen_layers: 'test_resnet' has no module 'layer7'; it has conv1, bn1, "):
        train(recipe, tmp_path / "run", quiet=True)


def test_one_update_equals_adam_written_out(tiny_data, tmp_path):
    # One full-batch step of Adam from known weights moves every weight by lr * g / (|g| + eps): its sign times lr.
    overrides = tiny_overrides(
        tiny_data, ablation="net0", epochs=1, batch_size=32, schedule="constant", warmup_fraction=0.0,
        optimizer="adam", weight_decay=0.0, ema_decay="null", learning_rate=0.001, max_grad_norm="null",
    )  # fmt: skip
    train(load_recipe(None, overrides), tmp_path / "one", quiet=True)
    train(load_recipe(None, [*overrides, "learning_rate=1e-12"]), tmp_path / "zero", quiet=True)
    after = CSSFEForImageClassification.from_pretrained(tmp_path / "one").cssfe.class_activation.weight
    before = CSSFEForImageClassification.from_pretrained(tmp_path / "zero").cssfe.class_activation.weight
    moved = (after - before).detach().abs()
    assert moved.max() <= 0.001 * 1.001
    assert moved.median().item() == pytest.approx(0.001, rel=1e-2)


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_the_loss_of_training_is_that_of_smoothed_labels(tiny_data, tmp_path, smoothing):
    # One batch of all images as they are; the learning rate leaves the weights where they were.
    overrides = tiny_overrides(
        tiny_data, ablation="net0", loss="bce", epochs=1, batch_size=18, learning_rate=1e-12, ema_decay="null",
        freeze_batch_norm="true", crop_scale="[1,1]", horizontal_flip=0.0, label_smoothing=smoothing,
    )  # fmt: skip
    train(load_recipe(None, overrides), tmp_path / "run", quiet=True)
    entry = json.loads((tmp_path / "run" / "log.jsonl").read_text().splitlines()[0])
    images = datasets.Dataset.from_parquet(str(tiny_data / "train.parquet"))
    processor = CSSFEImageProcessor.from_pretrained(tmp_path / "run")
    with torch.no_grad():
        model = CSSFEForImageClassification.from_pretrained(tmp_path / "run").eval()
        logits = model(**processor(list(images["image"]), return_tensors="pt")).logits
    labels = torch.tensor([[float(number in row) for number in range(3)] for row in images["labels"]])
    targets = torch.where(labels == 1, 1 - smoothing / 2, smoothing / 2)
    expected = torch.nn.functional.binary_cross_entropy_with_logits(logits, targets)
    assert entry["loss"] == pytest.approx(expected.item(), rel=1e-4)


def test_unknown_labels_stay_unknown_when_labels_are_smoothed():
    labels = torch.tensor([[1.0, 0.0, -1.0, torch.nan]])
    torch.testing.assert_close(
        smooth_labels(labels, 0.1), torch.tensor([[0.95, 0.05, -1.0, torch.nan]]), equal_nan=True, rtol=0, atol=1e-7
    )


def test_bad_data_is_an_error_before_anything_is_written(tiny_data, tmp_path):
    unseen = tmp_path / "unseen"
    unseen.mkdir()
    write_parquet(unseen, {"train": [["red"], ["green"]], "validation": [["red"], ["blue"]]})
    with pytest.raises(ValueError, match="blue"):
        train(load_recipe(None, tiny_overrides(unseen)), tmp_path / "run", quiet=True)
    with pytest.raises(ValueError, match="has no split 'validate'"):
        train(load_recipe(None, tiny_overrides(tiny_data, validation_split="validate")), tmp_path / "run", quiet=True)
    with pytest.raises(ValueError, match="unknown backbone"):
        train(load_recipe(None, tiny_overrides(tiny_data, backbone="resnet5o")), tmp_path / "run", quiet=True)
    with pytest.raises(ValueError, match=r"hiden_size.*hidden_size"):
        train(load_recipe(None, [*tiny_overrides(tiny_data), "model.hiden_size=3"]), tmp_path / "run", quiet=True)
    with pytest.raises(ValueError, match="unknown loss"):
        train(load_recipe(None, tiny_overrides(tiny_data, loss="asll")), tmp_path / "run", quiet=True)
    for key, value in (("sampler", "clas_aware"), ("augmentation", "rnd"), ("sampler", "two_branch")):
        with pytest.raises(ValueError, match=value):
            train(load_recipe(None, tiny_overrides(tiny_data, **{key: value})), tmp_path / "run", quiet=True)
    assert not (tmp_path / "run").exists()


def test_a_corrupt_image_stops_training_by_name_or_is_skipped_and_counted(tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    write_parquet(data, {"train": [["red"], ["green"], ["blue"], ["red"]] * 2, "validation": [["red"], ["green"]] * 2})
    table = datasets.load_dataset("parquet", data_files=str(data / "train.parquet"), split="train")
    rows = table.cast_column("image", datasets.Image(decode=False)).to_list()
    rows[3]["image"]["bytes"] = rows[3]["image"]["bytes"][:60]
    features = table.features.copy()
    features["image"] = datasets.Image(decode=False)
    datasets.Dataset.from_list(rows, features=features).cast(table.features).to_parquet(str(data / "train.parquet"))
    with pytest.raises(ValueError, match=r"train-3.*with skip_unreadable_images=true\.") as caught:
        train(load_recipe(None, tiny_overrides(data)), tmp_path / "run", quiet=True)
    assert "on_error" not in str(caught.value)
    results = train(
        load_recipe(None, tiny_overrides(data, skip_unreadable_images="true", batch_size=4, epochs=1)),
        tmp_path / "run",
        quiet=True,
    )
    assert results["skipped_images"]["train"] == ["train-3"]
    assert results["num_training_images"] == 7


def test_a_loss_that_is_not_finite_stops_the_run(tiny_data, tmp_path):
    overrides = tiny_overrides(
        tiny_data, ablation="net0", learning_rate=1e30, optimizer="sgd", max_grad_norm="null", ema_decay="null",
        schedule="constant", warmup_fraction=0.0,
    )  # fmt: skip
    with pytest.raises(FloatingPointError, match=r"the loss is (nan|inf) at epoch"):
        train(load_recipe(None, overrides), tmp_path / "run", quiet=True)


@pytest.mark.parametrize("there", [False, True])
def test_a_run_that_fails_before_it_has_anything_to_keep_leaves_the_folder_as_it_was(
    there, tiny_data, tmp_path, monkeypatch
):
    def fail(run):
        raise RuntimeError("no memory")

    if there:
        (tmp_path / "run").mkdir()
    monkeypatch.setattr("modeling_cssfe.training.engine.fit", fail)
    for _ in range(2):  # the second is not refused for what the first has left
        with pytest.raises(RuntimeError, match="no memory"):
            train(load_recipe(None, tiny_overrides(tiny_data)), tmp_path / "run", quiet=True)
    assert (tmp_path / "run").exists() == there
    assert not list((tmp_path / "run").glob("*"))


@pytest.mark.parametrize(
    ("loss", "option", "value"),
    [("asl", "gamma_neg", "foo"), ("asl", "margin", "[1]"), ("focal", "gamma", "much"), ("ldam", "max_margin", "x")],
)
def test_an_option_of_the_loss_that_is_no_number_is_named(loss, option, value, tiny_data, tmp_path):
    recipe = load_recipe(None, tiny_overrides(tiny_data, loss=loss, **{f"loss_kwargs.{option}": value}))
    with pytest.raises(ValueError, match=option) as caught:
        train(recipe, tmp_path / "run", quiet=True)
    assert value in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_a_loss_without_one_number_is_refused_before_the_run(tiny_data, tmp_path):
    recipe = load_recipe(None, [*tiny_overrides(tiny_data), "loss_kwargs.reduction=none"])
    with pytest.raises(ValueError, match=r"reduction 'none'; set loss_kwargs\.reduction to 'mean'"):
        train(recipe, tmp_path / "run", quiet=True)


def test_only_the_default_test_split_may_be_absent(tiny_data, tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    write_parquet(data, {"train": [["red"], ["green"], ["blue"]] * 2, "validation": [["red"], ["green"]] * 2})
    assert list(load_run_splits(load_recipe(None, tiny_overrides(data)))) == ["train", "validation"]
    for where in (data, tiny_data):
        with pytest.raises(ValueError, match=r"has no split 'nope' \(test_split\); it has train, validation"):
            load_run_splits(load_recipe(None, tiny_overrides(where, test_split="nope")))


def test_a_full_disk_is_one_line_and_leaves_nothing_half_written(tiny_data, tmp_path, monkeypatch):
    def save(self, path, **kwargs):
        (path / "config.json").write_text("{")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(CSSFEForImageClassification, "save_pretrained", save)
    with pytest.raises(SavingError, match="No space left on device"):
        train(load_recipe(None, tiny_overrides(tiny_data)), tmp_path / "run", quiet=True)
    assert not list((tmp_path / "run").rglob("config.json"))


def test_labels_are_aligned_by_name_or_refused():
    labels = np.array([[1, 0, -1]])
    assert align_labels(labels, ["a", "b", "c"], ["c", "a", "b"]).tolist() == [[-1, 1, 0]]
    with pytest.raises(ValueError, match=r"lacks 'c' and has 'd'"):
        align_labels(labels, ["a", "b", "d"], ["a", "b", "c"])


def test_a_folder_without_a_model_is_a_one_line_error(tmp_path):
    for path in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(ValueError, match=r"no model|no folder") as caught:
            load_trained_model(path)
        assert "\n" not in str(caught.value)


def test_options_of_the_data_reach_the_loader(tiny_data, tmp_path):
    recipe = load_recipe(None, [*tiny_overrides(tiny_data, epochs=1), "data_kwargs.label_names=[red,blue,green]"])
    train(recipe, tmp_path / "run", quiet=True)
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert [config["id2label"][str(index)] for index in range(3)] == ["red", "blue", "green"]
    assert config["class_counts"] == [TINY_COUNTS[name] for name in ("red", "blue", "green")]


def test_an_unknown_option_of_the_data_is_named(tiny_data, tmp_path):
    recipe = load_recipe(None, [*tiny_overrides(tiny_data), "data_kwargs.empty_cell=unknown"])
    with pytest.raises(ValueError, match=r"unknown data_kwargs\.empty_cell; load_images takes .*empty_cells"):
        train(recipe, tmp_path / "run", quiet=True)


def test_a_decoded_cache_of_whole_images_trains_the_same_model(tiny_run, tiny_data, tmp_path):
    overrides = tiny_overrides(tiny_data, decoded_cache=tmp_path / "cache")
    for name in ("built", "found"):
        train(load_recipe(None, overrides), tmp_path / name, quiet=True)
        weights = (tmp_path / name / "model.safetensors").read_bytes()
        assert weights == (tiny_run / "model.safetensors").read_bytes()
    assert any((tmp_path / "cache").iterdir())


def test_draft_decoding_of_small_images_changes_nothing(tiny_run, tiny_data, tmp_path):
    train(load_recipe(None, tiny_overrides(tiny_data, draft_decoding="true")), tmp_path / "run", quiet=True)
    assert (tmp_path / "run" / "model.safetensors").read_bytes() == (tiny_run / "model.safetensors").read_bytes()


@pytest.mark.parametrize(
    ("override", "message"),
    [("decoded_cache_short_side=64", "needs decoded_cache"), ("decoded_cache=x draft_decoding=true", "exclude")],
)
def test_options_of_decoding_that_do_not_fit_are_named(override, message):
    with pytest.raises(ValueError, match=message):
        load_recipe(None, override.split())
