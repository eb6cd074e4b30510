import json
import logging
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from tiny_runs import tiny_overrides

from modeling_cssfe import CSSFEConfig, CSSFEForImageClassification, CSSFEImageProcessor
from modeling_cssfe.backbone_cssfe import CSSFEBackbone
from modeling_cssfe.cli import main
from modeling_cssfe.data import decode_image, load_images
from modeling_cssfe.data.loading import ItemKey
from modeling_cssfe.training import evaluate_model, load_recipe, loop, train
from modeling_cssfe.training.feature_cache import FeatureCache, FeatureViews
from modeling_cssfe.training.frozen_features import FeatureDataset, FeatureFeed


def frozen(data, weights, cache, **changes) -> list[str]:
    settings = {"backbone_weights": weights, "freeze_backbone": "true", "cache_features": cache, **changes}
    return tiny_overrides(data, **settings)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A file of timm's names with the weights of a random backbone, whose BatchNorm does something."""
    torch.manual_seed(3)
    model = CSSFEBackbone(CSSFEConfig(backbone="test_resnet", image_size=64)).timm_model
    for name, tensor in model.state_dict().items():
        if name.endswith(("bias", "running_mean")):
            tensor.normal_(0, 0.3)
        elif tensor.ndim == 1:
            tensor.uniform_(0.5, 1.5)
    file = tmp_path_factory.mktemp("weights") / "backbone.safetensors"
    save_file(model.state_dict(), file)
    return file


@pytest.fixture(scope="module")
def frozen_run(tiny_data, weights, tmp_path_factory):
    """A run on cached maps in fp32, and its cache."""
    folder = tmp_path_factory.mktemp("frozen")
    overrides = frozen(tiny_data, weights, folder / "cache", feature_precision="fp32", feature_views=4)
    train(load_recipe(None, overrides), folder / "run", quiet=True)
    return folder


@pytest.fixture
def small_cache(tiny_data, weights, tmp_path):
    """Makes a cache in `tmp_path` of a model with given weights and options."""

    def make(file=weights, **options):
        model = CSSFEForImageClassification.from_backbone(
            "test_resnet", class_counts=[3, 8, 14], image_size=64, backbone_weights=file, label_embeddings="random"
        )
        return FeatureCache(tmp_path / "cache", model.cssfe.backbone, model.config, precision="fp32", **options)

    return make


def decoded(row) -> Image.Image:
    return row["image"] if isinstance(row["image"], Image.Image) else decode_image(row["image"])


def views_of(folder, split) -> dict[str, torch.Tensor]:
    return {file.stem.split("-")[1]: load_file(file)["maps"] for file in folder.glob(f"{split}-*.safetensors")}


@torch.no_grad()
def test_the_saved_model_scores_images_as_the_cached_maps_did(frozen_run, tiny_data):
    model = CSSFEForImageClassification.from_pretrained(frozen_run / "run").eval()
    processor = CSSFEImageProcessor.from_pretrained(frozen_run / "run")
    images = [decoded(row) for row in load_images(tiny_data)["validation"]]
    stock = model(processor(images=images, return_tensors="pt")["pixel_values"]).logits
    maps = views_of(frozen_run / "cache", "validation")["plain"]
    FeatureFeed(model)
    torch.testing.assert_close(model(pixel_values=maps).logits, stock, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(model(pixel_values=maps.bfloat16()).logits, stock, rtol=0.05, atol=0.05)
    FeatureFeed.detach(model)
    again = model(processor(images=images, return_tensors="pt")["pixel_values"]).logits
    assert torch.equal(again, stock)


def test_the_results_of_a_run_on_cached_maps_are_those_of_the_saved_model_on_images(frozen_run, tiny_data):
    results = json.loads((frozen_run / "run" / "results.json").read_text())
    for split in ("validation", "test"):
        again = evaluate_model(frozen_run / "run", tiny_data, split)
        assert again["per_class"] == pytest.approx(results[split]["per_class"], abs=1e-9)
    log = [json.loads(line) for line in (frozen_run / "run" / "log.jsonl").read_text().splitlines()]
    assert [entry["epoch"] for entry in log] == [1, 2]
    assert results["map_total"] == max(entry["map_total"] for entry in log)


def test_the_saved_model_has_the_backbone_of_the_file_and_a_trained_head(frozen_run, weights):
    saved = load_file(frozen_run / "run" / "model.safetensors")
    given = load_file(weights)
    prefix = "cssfe.backbone.timm_model."
    assert {key.removeprefix(prefix) for key in saved if key.startswith(prefix)} == given.keys()
    assert all(torch.equal(saved[prefix + key], tensor) for key, tensor in given.items())
    best = load_file(frozen_run / "run" / "checkpoints" / "best" / "model.safetensors")
    assert best.keys() == saved.keys()


def test_a_second_run_computes_no_maps_and_repeats_the_first_to_the_bit(
    frozen_run, tiny_data, weights, tmp_path, monkeypatch
):
    monkeypatch.setattr(FeatureCache, "_compute", None)
    overrides = frozen(tiny_data, weights, frozen_run / "cache", feature_precision="fp32", feature_views=4)
    train(load_recipe(None, overrides), tmp_path / "again", quiet=True)
    first = (frozen_run / "run" / "model.safetensors").read_bytes()
    assert (tmp_path / "again" / "model.safetensors").read_bytes() == first


def test_a_run_on_cached_maps_goes_on_where_it_was_stopped(frozen_run, tiny_data, weights, tmp_path, monkeypatch):
    update, calls = loop._update, []

    def stopped(*arguments):
        calls.append(0)
        if len(calls) == 5:  # in the second epoch, which has three updates
            raise RuntimeError("stopped")
        update(*arguments)

    cache = frozen_run / "cache"
    options = {"feature_precision": "fp32", "feature_views": 4, "checkpoint_every_steps": 1}
    recipe = load_recipe(None, frozen(tiny_data, weights, cache, **options))
    monkeypatch.setattr(loop, "_update", stopped)
    with pytest.raises(RuntimeError, match="stopped"):
        train(recipe, tmp_path / "run", quiet=True)
    monkeypatch.setattr(loop, "_update", update)
    train(recipe, tmp_path / "run", quiet=True, resume="auto")
    first = (frozen_run / "run" / "model.safetensors").read_bytes()
    assert (tmp_path / "run" / "model.safetensors").read_bytes() == first


@torch.no_grad()
def test_maps_are_those_of_the_backbone_on_each_view(small_cache, tiny_data):
    cache = small_cache(batch_size=5)
    dataset = load_images(tiny_data)["train"]
    maps = cache.maps(dataset, "train", FeatureViews(4))
    assert list(maps) == ["plain", "flip", "crop0", "crop1"]
    images = [decoded(row) for row in dataset]
    for name, shown in (("plain", images), ("flip", [image.transpose(Image.FLIP_LEFT_RIGHT) for image in images])):
        pixels = cache.processor(images=shown, return_tensors="pt")["pixel_values"]
        torch.testing.assert_close(maps[name], cache.backbone(pixels), rtol=1e-4, atol=1e-5)
    gaps = [(maps[one] - maps[other]).abs().mean() for one, other in (("plain", "crop0"), ("crop0", "crop1"))]
    assert min(gaps) > 0.01 * maps["plain"].abs().mean()


@pytest.mark.parametrize("how", ["a byte changed", "cut off", "another file under its name", "not a tensor file"])
def test_a_damaged_cache_is_named_and_computed_again(small_cache, tiny_data, caplog, how):
    cache = small_cache()
    dataset = load_images(tiny_data)["train"]
    cache.maps(dataset, "train", FeatureViews(2))
    file, other = (next(cache.folder.glob(f"train-{name}-*.safetensors")) for name in ("plain", "flip"))
    whole = file.read_bytes()
    damaged = {
        "a byte changed": whole[:-9] + bytes([whole[-9] ^ 1]) + whole[-8:],
        "cut off": whole[: len(whole) // 2],
        "another file under its name": other.read_bytes(),
        "not a tensor file": b"{}",
    }
    file.write_bytes(damaged[how])
    with caplog.at_level(logging.WARNING):
        cache.maps(dataset, "train", FeatureViews(1))
    assert file.read_bytes() == whole
    lines = [record.getMessage() for record in caplog.records if str(file) in record.getMessage()]
    assert len(lines) == 1
    assert "computed again" in lines[0]
    assert "\n" not in lines[0]


def test_maps_of_other_weights_are_not_used_and_what_differs_is_named(
    small_cache, weights, tiny_data, tmp_path, caplog
):
    dataset = load_images(tiny_data)["train"]
    old = small_cache().maps(dataset, "train", FeatureViews(1))["plain"].clone()
    other = {name: tensor * 1.5 for name, tensor in load_file(weights).items()}
    save_file(other, tmp_path / "other.safetensors")
    with caplog.at_level(logging.WARNING):
        new = small_cache(tmp_path / "other.safetensors").maps(dataset, "train", FeatureViews(1))["plain"]
    assert not torch.equal(new, old)
    assert [record.getMessage() for record in caplog.records if "are of other weights and" in record.getMessage()]
    assert len(list((tmp_path / "cache").glob("train-plain-*.safetensors"))) == 2


def test_an_interruption_leaves_no_file_behind(small_cache, tiny_data, monkeypatch):
    cache = small_cache(batch_size=4)
    whole = FeatureCache._compute

    def interrupted(*arguments):
        yield next(whole(*arguments))
        raise KeyboardInterrupt

    monkeypatch.setattr(FeatureCache, "_compute", interrupted)
    with pytest.raises(KeyboardInterrupt):
        cache.maps(load_images(tiny_data)["train"], "train", FeatureViews(1))
    assert [file.name for file in cache.folder.iterdir() if not file.name.endswith(".lock")] == []


def test_what_a_killed_process_left_of_a_file_is_written_over(small_cache, weights, tiny_data):
    code = """if True:
        import os, signal, sys
        from modeling_cssfe import CSSFEForImageClassification
        from modeling_cssfe.data import load_images
        from modeling_cssfe.training.feature_cache import FeatureCache, FeatureViews

        options = {"class_counts": [3, 8, 14], "image_size": 64, "label_embeddings": "random"}
        model = CSSFEForImageClassification.from_backbone("test_resnet", backbone_weights=sys.argv[1], **options)
        cache = FeatureCache(sys.argv[2], model.cssfe.backbone, model.config, precision="fp32", batch_size=6)
        compute = cache._compute

        def killed(*arguments):
            for number, batch in enumerate(compute(*arguments)):
                if number == 1:
                    os.kill(os.getpid(), signal.SIGKILL)
                yield batch

        cache._compute = killed
        cache.maps(load_images(sys.argv[3])["train"], "train", FeatureViews(1))
    """
    cache = small_cache(batch_size=6)
    arguments = [str(argument) for argument in (weights, cache.folder, tiny_data)]
    killed = subprocess.run([sys.executable, "-c", code, *arguments])
    assert killed.returncode == -signal.SIGKILL
    (left,) = cache.folder.glob(".saving-*")
    maps = cache.maps(load_images(tiny_data)["train"], "train", FeatureViews(1))
    assert left.name == f".saving-{next(cache.folder.glob('train-*.safetensors')).name}"
    assert not list(cache.folder.glob(".saving-*"))
    assert len(maps["plain"]) == 18


def test_a_disk_without_room_is_refused_in_one_line(small_cache, tiny_data, monkeypatch):
    usage = type("Usage", (), {"free": 1000})
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage)
    with pytest.raises(ValueError, match="choose another cache_features folder or fewer feature_views") as caught:
        small_cache().maps(load_images(tiny_data)["train"], "train", FeatureViews(1))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("number", "flip", "names"),
    [
        (1, 0.5, ("plain",)),
        (2, 0.5, ("plain", "flip")),
        (4, 0.5, ("plain", "flip", "crop0", "crop1")),
        (1, 0.0, ("plain",)),
        (3, 0.0, ("plain", "crop0", "crop1")),
    ],
)
def test_views_begin_with_the_plain_one_and_are_mirrored_only_where_that_is_allowed(number, flip, names):
    assert FeatureViews(number, horizontal_flip=flip).names == names


def test_epochs_show_all_views_equally_and_repeat_themselves(tiny_data):
    dataset = load_images(tiny_data)["train"]
    maps = {name: torch.full((18, 1, 1, 1), float(number)) for number, name in enumerate("abc")}
    items = FeatureDataset(dataset, maps, seed=5)

    def epoch(number):
        keys = [ItemKey(index, draw, number) for index in range(18) for draw in range(3)]
        return [items[key]["pixel_values"].item() for key in keys]

    seen = np.array([epoch(number) for number in range(60)])
    assert np.array_equal(seen[7], epoch(7))
    shares = [(seen == number).mean() for number in range(3)]
    # 3,240 draws of a third each: four standard deviations are .033
    assert shares == pytest.approx([1 / 3] * 3, abs=0.033)
    assert len({tuple(row) for row in seen.tolist()}) == 60


def test_the_shipped_recipe_trains_by_the_command_line(tiny_data, weights, tmp_path, capsys):
    small = [pair for pair in frozen(tiny_data, weights, tmp_path / "cache", epochs=2) if pair.startswith("model.")]
    command = ["train", "--recipe", "voc07_lt_frozen", "--output_dir", str(tmp_path / "run"), "--data", str(tiny_data)]
    command += ["--backbone_weights", str(weights), "--label_embeddings", "random", "--quiet", "--set"]
    command += ["backbone=test_resnet", "image_size=64", "epochs=2", "batch_size=6", "num_workers=0", *small]
    assert main([*command, f"cache_features={tmp_path / 'cache'}"]) == 0, capsys.readouterr().err
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["stride_in_first_convolution"] is True
    files = sorted(file.name.rsplit("-", 1)[0] for file in (tmp_path / "cache").glob("*.safetensors"))
    training = ["train-crop0", "train-crop1", "train-crop2", "train-crop3", "train-flip", "train-plain"]
    assert files == ["test-plain", *training, "validation-plain"]
    again = evaluate_model(tmp_path / "run", tiny_data, "validation")
    found = json.loads((tmp_path / "run" / "results.json").read_text())["validation"]
    assert again["map_total"] == pytest.approx(found["map_total"], abs=0.1)  # maps were bf16


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"freeze_backbone": "false"}, "cache_features needs freeze_backbone"),
        ({"compile": "true"}, "compile and cache_features exclude each other"),
        ({"augment_on_device": "true"}, "augment_on_device and cache_features exclude"),
        ({"decoded_cache": "folder"}, "decoded_cache and cache_features exclude"),
        ({"feature_views": "0"}, "feature_views is 0: give a number >= 1"),
        ({"feature_precision": "fp8"}, "unknown feature_precision 'fp8': choose one of bf16, fp32"),
    ],
)
def test_what_does_not_go_with_cached_maps_is_refused_in_one_line(changes, part):
    with pytest.raises(ValueError, match=part) as caught:
        load_recipe(None, frozen("data", "false", "cache", **changes))
    assert "\n" not in str(caught.value)
