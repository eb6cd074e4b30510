import json
import math

import numpy as np
import pytest
import torch
from tiny_runs import tiny_overrides
from torch.nn import functional as F
from torchvision.transforms.v2 import functional as vision

from modeling_cssfe.data import build_data_loader, load_images
from modeling_cssfe.data.streaming import build_streaming_loader
from modeling_cssfe.training import evaluate_model, load_recipe, loop, train
from modeling_cssfe.training.device_augmentation import PARAMETERS, DeviceAugmentation, DeviceAugmentationInput


NEUTRAL = dict.fromkeys(PARAMETERS, 0.0) | {
    "center_x": 0.5,
    "center_y": 0.5,
    "width": 1.0,
    "height": 1.0,
    "mirror": 1.0,
    "brightness": 1.0,
    "contrast": 1.0,
    "saturation": 1.0,
}


def batch_of(*changes: dict, size=(13, 17)) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (len(changes), 3, *size), generator=generator, dtype=torch.uint8)
    rows = [[(NEUTRAL | change)[name] for name in PARAMETERS] for change in changes]
    return {"pixel_values": pixels, "augmentation": torch.tensor(rows)}


def augmentation(size=(8, 10), **options) -> DeviceAugmentation:
    return DeviceAugmentation(size, [0.0, 0.0, 0.0], [1.0, 1.0, 1.0], **options)


def slow_crop(image: np.ndarray, change: dict, size: tuple[int, int]) -> np.ndarray:
    """Bilinear samples at the centres of the crop's pixels, one by one; outside of the image its edge goes on."""
    values = NEUTRAL | change
    channels, height, width = image.shape
    result = np.zeros((channels, *size))
    for row in range(size[0]):
        for column in range(size[1]):
            across = (column + 0.5) / size[1]
            if values["mirror"] < 0:
                across = 1 - across
            down = (row + 0.5) / size[0]
            x = (values["center_x"] - values["width"] / 2 + across * values["width"]) * width - 0.5
            y = (values["center_y"] - values["height"] / 2 + down * values["height"]) * height - 0.5
            x, y = min(max(x, 0), width - 1), min(max(y, 0), height - 1)
            left, top = min(int(x), width - 2), min(int(y), height - 2)
            part = image[:, top : top + 2, left : left + 2]
            rows = part[:, 0] * (1 - (y - top)) + part[:, 1] * (y - top)
            result[:, row, column] = rows[:, 0] * (1 - (x - left)) + rows[:, 1] * (x - left)
    return result


def test_crops_and_mirror_images_are_those_sampled_one_by_one():
    changes = [
        {},
        {"mirror": -1.0},
        {"center_x": 0.3, "center_y": 0.6, "width": 0.6, "height": 0.7},
        {"center_x": 0.7, "center_y": 0.25, "width": 0.5, "height": 0.5, "mirror": -1.0},
    ]
    batch = batch_of(*changes)
    found = augmentation()(batch)
    for image, change, got in zip(batch["pixel_values"], changes, found, strict=True):
        expected = slow_crop(image.double().numpy() / 255, change, (8, 10))
        np.testing.assert_allclose(got.numpy(), expected, atol=1e-5)


def test_the_whole_image_is_what_torch_resizes_it_to_and_is_normalised():
    batch = batch_of({}, {})
    mean, std = [0.4, 0.5, 0.6], [0.2, 0.3, 0.4]
    resized = F.interpolate(batch["pixel_values"].float() / 255, (8, 10), mode="bilinear", align_corners=False)
    found = DeviceAugmentation((8, 10), mean, std)(batch)
    torch.testing.assert_close(found, vision.normalize(resized, mean, std), rtol=1e-4, atol=1e-5)


def test_colours_change_as_torchvision_changes_them_each_image_on_its_own():
    changes = [
        {"brightness": 1.4},
        {"contrast": 0.6},
        {"saturation": 1.5},
        {"brightness": 0.7, "contrast": 1.3, "saturation": 0.2},
    ]
    batch = batch_of(*changes)
    plain = augmentation(recolors=False)(batch)
    found = augmentation()(batch)
    for image, change, got in zip(plain, changes, found, strict=True):
        values = NEUTRAL | change
        image = vision.adjust_brightness(image, values["brightness"])
        image = vision.adjust_contrast(image, values["contrast"])
        # torchvision rounds the weights of grey to .2989, .587 and .114
        torch.testing.assert_close(got, vision.adjust_saturation(image, values["saturation"]), rtol=0, atol=5e-4)


def test_an_erased_rectangle_has_the_mean_colour_and_the_rest_is_untouched():
    rectangle = {"erase_left": 0.2, "erase_top": 0.5, "erase_right": 0.6, "erase_bottom": 1.0}
    batch = batch_of(rectangle, {})
    options = {"mean": [0.4, 0.5, 0.6], "std": [0.2, 0.3, 0.4]}
    plain = DeviceAugmentation((8, 10), **options, erases=False)(batch)
    found = DeviceAugmentation((8, 10), **options)(batch)
    expected = plain.clone()
    expected[0, :, 4:8, 2:6] = 0  # normalised, the mean is 0
    assert torch.equal(found, expected)


@pytest.mark.parametrize("scale", [(0.3, 1.0), (0.5, 0.6), (1.0, 1.0)])
def test_what_is_drawn_keeps_to_its_ranges(scale):
    torch.manual_seed(0)
    draw = DeviceAugmentationInput(
        64, crop_scale=scale, horizontal_flip=0.3, color_jitter=0.4, random_erasing=0.25
    )._draw
    drawn = dict(zip(PARAMETERS, np.array([draw() for _ in range(2000)]).T, strict=True))
    area = drawn["width"] * drawn["height"]
    whole = (drawn["width"] == 1) & (drawn["height"] == 1)  # no box of ten fitted
    assert area[~whole].min(initial=1) >= scale[0] - 1e-6
    assert area[~whole].max(initial=0) <= scale[1] + 1e-6
    ratio = drawn["width"] / drawn["height"]
    assert 3 / 4 - 1e-6 <= ratio.min() <= ratio.max() <= 4 / 3 + 1e-6
    for center, size in (("center_x", "width"), ("center_y", "height")):
        assert (drawn[center] - drawn[size] / 2).min() >= -1e-6
        assert (drawn[center] + drawn[size] / 2).max() <= 1 + 1e-6
    # 2,000 draws: four standard deviations are .041
    assert (drawn["mirror"] == -1).mean() == pytest.approx(0.3, abs=0.041)
    erased = (drawn["erase_right"] - drawn["erase_left"]) * (drawn["erase_bottom"] - drawn["erase_top"])
    assert (erased > 0).mean() == pytest.approx(0.25, abs=0.041)
    assert erased.max() <= 0.33 + 1e-6
    for name in ("brightness", "contrast", "saturation"):
        assert 0.6 <= drawn[name].min() < 0.61
        assert 1.39 < drawn[name].max() <= 1.4
    if scale == (0.3, 1.0):
        assert area.mean() == pytest.approx(0.65, abs=0.06)


def test_images_are_resized_so_that_a_crop_of_mean_area_keeps_the_resolution():
    transform = DeviceAugmentationInput(96, crop_scale=(0.125, 1.0))
    item = transform(torch.randint(0, 256, (3, 50, 90), dtype=torch.uint8))
    assert item["pixel_values"].shape == (3, 128, 128)
    assert item["pixel_values"].dtype == torch.uint8
    assert math.sqrt((0.125 + 1) / 2) * 128 == 96


def test_a_batch_is_augmented_alike_with_any_number_of_workers_and_anew_each_epoch(tiny_data):
    dataset = load_images(tiny_data)["train"]

    def epoch(number, **options):
        transform = DeviceAugmentationInput(32, color_jitter=0.3)
        loader = build_data_loader(dataset, transform, batch_size=6, shuffle=True, seed=4, **options)
        loader.sampler.set_epoch(number)
        apply = augmentation((32, 32))
        return torch.cat([apply(batch) for batch in loader])

    first = epoch(1)
    assert torch.equal(epoch(1, num_workers=1), first)
    assert not torch.equal(epoch(2), first)


def test_a_run_with_augmentation_on_the_device_repeats_itself_and_is_judged_on_plain_images(
    tiny_data, tmp_path, monkeypatch
):
    changes = {"augment_on_device": "true", "color_jitter": 0.2, "random_erasing": 0.5, "channels_last": "true"}
    for name, workers in (("one", 0), ("two", 1)):
        recipe = load_recipe(None, tiny_overrides(tiny_data, **changes, num_workers=workers))
        train(recipe, tmp_path / name, quiet=True)
    weights = (tmp_path / "one" / "model.safetensors").read_bytes()
    assert (tmp_path / "two" / "model.safetensors").read_bytes() == weights
    results = json.loads((tmp_path / "one" / "results.json").read_text())
    assert evaluate_model(tmp_path / "one", tiny_data, "validation")["per_class"] == results["validation"]["per_class"]
    # Stopped in its second epoch and resumed, it comes to the same weights.
    update, calls = loop._update, []

    def stopped(*arguments):
        calls.append(0)
        if len(calls) == 5:
            raise RuntimeError("stopped")
        update(*arguments)

    recipe = load_recipe(None, tiny_overrides(tiny_data, **changes, checkpoint_every_steps=1))
    monkeypatch.setattr(loop, "_update", stopped)
    with pytest.raises(RuntimeError, match="stopped"):
        train(recipe, tmp_path / "three", quiet=True)
    monkeypatch.setattr(loop, "_update", update)
    train(recipe, tmp_path / "three", quiet=True, resume="auto")
    assert (tmp_path / "three" / "model.safetensors").read_bytes() == weights
    train(load_recipe(None, tiny_overrides(tiny_data)), tmp_path / "plain", quiet=True)
    assert (tmp_path / "plain" / "model.safetensors").read_bytes() != weights


def test_a_stream_hands_on_what_was_drawn(tiny_data):
    stream = load_images(tiny_data)["train"].to_iterable_dataset(num_shards=2)
    loader = build_streaming_loader(stream, DeviceAugmentationInput(32), batch_size=6, seed=1)
    loader.set_epoch(0)
    batches = list(loader)
    assert [tuple(batch["augmentation"].shape) for batch in batches] == [(6, len(PARAMETERS))] * 3
    assert augmentation((32, 32))(batches[0]).shape == (6, 3, 32, 32)
    assert len(torch.cat([batch["augmentation"] for batch in batches]).unique(dim=0)) == 18


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"augment_on_device": "true", "augmentation": "rand"}, "augment_on_device has no policy 'rand'"),
        ({"augment_on_device": "true", "color_jitter": 1.5}, r"color_jitter is 1.5: give a fraction in \[0, 1\)"),
        ({"color_jitter": 0.2}, "color_jitter needs augment_on_device"),
    ],
)
def test_what_the_device_cannot_do_is_refused_in_one_line(changes, part):
    with pytest.raises(ValueError, match=part) as caught:
        load_recipe(None, tiny_overrides("data", **changes))
    assert "\n" not in str(caught.value)
