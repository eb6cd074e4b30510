# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
import pickle

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import CLIPImageProcessor

from modeling_cssfe.data import AUGMENTATIONS, EvaluationTransform, build_train_transform
from modeling_cssfe.data.transforms import accepts_tensors, training_draft_size


MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)


def picture(width: int = 40, height: int = 30) -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def build(**options):
    return build_train_transform(options.pop("image_size", 24), MEAN, STD, **options)


@pytest.mark.parametrize("augmentation", AUGMENTATIONS)
def test_every_augmentation_gives_a_normalised_float_image(augmentation):
    transform = pickle.loads(pickle.dumps(build(augmentation=augmentation)))
    torch.manual_seed(0)
    for _ in range(4):
        pixels = transform(picture())
        assert type(pixels) is torch.Tensor
        assert (pixels.shape, pixels.dtype) == ((3, 24, 24), torch.float32)
        low, high = -torch.tensor(MEAN) / torch.tensor(STD), (1 - torch.tensor(MEAN)) / torch.tensor(STD)
        assert (pixels.amin((1, 2)) >= low - 1e-5).all()
        assert (pixels.amax((1, 2)) <= high + 1e-5).all()


@pytest.mark.parametrize("augmentation", AUGMENTATIONS)
def test_tensors_are_augmented_like_pillow_images(augmentation):
    transform = build(augmentation=augmentation, random_erasing=0.3)
    pixels = torch.from_numpy(np.array(picture())).permute(2, 0, 1)
    for seed in range(4):
        torch.manual_seed(seed)
        expected = transform(picture())
        torch.manual_seed(seed)
        assert torch.equal(transform(pixels), expected)
    assert torch.equal(pixels, torch.from_numpy(np.array(picture())).permute(2, 0, 1))  # the input stays as it was
    assert accepts_tensors(transform)
    assert not accepts_tensors(EvaluationTransform(None))


def test_a_tensor_of_another_dtype_is_refused():
    with pytest.raises(TypeError, match=r"a torch.float32 tensor; pass uint8"):
        build()(torch.rand(3, 30, 40))


@pytest.mark.parametrize("augmentation", AUGMENTATIONS)
def test_it_is_torchvisions_own_pipeline_to_the_last_bit(augmentation):
    from torchvision.transforms import v2

    policy = {"auto": [v2.AutoAugment()], "rand": [v2.RandAugment()], "trivial": [v2.TrivialAugmentWide()], "none": []}
    expected = v2.Compose(
        [
            v2.ToImage(),
            v2.RandomResizedCrop(24, scale=(0.5, 1.0), antialias=True),
            v2.RandomHorizontalFlip(0.5),
            *policy[augmentation],
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(MEAN, STD),
            v2.RandomErasing(0.3),
        ]
    )
    transform = build(augmentation=augmentation, random_erasing=0.3)
    for seed in range(12):
        torch.manual_seed(seed)
        pixels = expected(picture())
        torch.manual_seed(seed)
        assert torch.equal(transform(picture()), pixels)


def test_a_draft_leaves_the_smallest_crop_what_the_model_takes():
    # A crop of a quarter of the area has half of each side, so the draft needs twice the model's size.
    assert training_draft_size(224, (0.25, 1.0)) == (448, 448)
    assert training_draft_size((100, 300), (1, 1)) == (300, 100)
    assert training_draft_size(448) == (634, 634)  # 448 / sqrt(.5) = 633.6
    with pytest.raises(ValueError, match="crop_scale must be"):
        training_draft_size(224, (0, 1))


def test_without_randomness_it_is_scaling_and_normalisation_alone():
    image = picture(24, 24)
    transform = build(augmentation="none", crop_scale=(1, 1), horizontal_flip=0)
    expected = (np.asarray(image).astype(np.float64) / 255 - MEAN) / STD
    np.testing.assert_allclose(transform(image), expected.transpose(2, 0, 1), atol=1e-6)


def test_the_flip_mirrors_and_nothing_else():
    image = picture(24, 24)
    options = {"augmentation": "none", "crop_scale": (1, 1)}
    mirrored = build(horizontal_flip=1, **options)(image)
    assert torch.equal(mirrored, build(horizontal_flip=0, **options)(image).flip(2))


def test_height_and_width_may_differ():
    assert build(image_size=(16, 32))(picture()).shape == (3, 16, 32)


@pytest.mark.parametrize("augmentation", AUGMENTATIONS)
def test_the_torch_seed_decides_on_everything(augmentation):
    transform = build(augmentation=augmentation, random_erasing=0.5)
    images = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        images.append(transform(picture()))
    assert torch.equal(images[0], images[1])
    assert not torch.equal(images[0], images[2])


def test_erasing_sets_a_rectangle_to_the_mean():
    torch.manual_seed(0)
    options = {"augmentation": "none", "crop_scale": (1, 1), "horizontal_flip": 0}
    plain, erased = build(**options)(picture()), build(random_erasing=1, **options)(picture())
    changed = (plain != erased).any(0)
    rows, columns = changed.any(1), changed.any(0)
    assert changed.sum() == rows.sum() * columns.sum()
    assert 0.02 * 24 * 24 * 0.5 <= changed.sum() <= 0.33 * 24 * 24 * 1.2
    assert (erased[:, changed] == 0).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"augmentation": "trival"},
            r"unknown augmentation 'trival'; .*auto, rand, trivial, none\. Did you mean 'trivial'",
        ),
        ({"image_size": 0}, "image_size must be"),
        ({"crop_scale": (0.0, 1.0)}, "crop_scale must be"),
        ({"crop_scale": (0.9, 0.5)}, "crop_scale must be"),
        ({"crop_ratio": (0, 1)}, "crop_ratio must be"),
        ({"horizontal_flip": 1.5}, r"horizontal_flip is a probability .* got 1\.5"),
        ({"random_erasing": -0.1}, "random_erasing is a probability"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        build(**options)


def test_mean_and_std_must_have_three_values():
    with pytest.raises(ValueError, match="mean and std must have 3 values"):
        build_train_transform(24, (0.5,), (0.5,))
    with pytest.raises(ValueError, match="std > 0"):
        build_train_transform(24, MEAN, (0.5, 0.0, 0.5))


def test_evaluation_is_the_image_processor_to_the_bit():
    processor = CLIPImageProcessor(size={"shortest_edge": 20}, crop_size={"height": 20, "width": 20})
    expected = processor(images=picture(), return_tensors="pt")["pixel_values"][0]
    assert torch.equal(pickle.loads(pickle.dumps(EvaluationTransform(processor)))(picture()), expected)
