# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
import io

import datasets
import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter

from modeling_cssfe.data import ImageDecodingError, build_data_loader, build_train_transform, decode_image
from modeling_cssfe.data.decoding import decode_pixels
from modeling_cssfe.data.readers.records import image_features


ORIENTATION = 0x0112


def smooth(width: int, height: int) -> Image.Image:
    """Colour that changes slowly, and differently to the right and downwards."""
    y, x = np.mgrid[0:height, 0:width].astype(np.float64)
    channels = (x / width, y / height, 0.5 + 0.5 * np.sin(x / 40) * np.cos(y / 60))
    return Image.fromarray((np.stack(channels, axis=-1) * 255).round().astype(np.uint8))


def textured(width: int, height: int) -> Image.Image:
    """Noise over all scales that falls off as in photographs (amplitude ~ 1 / frequency; Field, 1987)."""
    rng = np.random.default_rng(0)
    fy, fx = np.meshgrid(np.fft.fftfreq(height), np.fft.rfftfreq(width), indexing="ij")
    amplitude = 1 / np.maximum(np.hypot(fx, fy), 1 / max(width, height))
    noise = [
        np.fft.irfft2(amplitude * np.exp(2j * np.pi * rng.random(amplitude.shape)), (height, width)) for _ in "rgb"
    ]
    scaled = 128 + 45 * np.stack([channel / channel.std() for channel in noise], axis=-1)
    return Image.fromarray(scaled.clip(0, 255).round().astype(np.uint8))


def encode(image: Image.Image, orientation: int = 1, image_format: str = "JPEG", **options) -> bytes:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    buffer = io.BytesIO()
    image.save(buffer, image_format, exif=exif, **({"quality": 92} if image_format == "JPEG" else {}) | options)
    return buffer.getvalue()


# (width, height) of the file, draft_size, s of the documented rule: the largest of 2, 4, 8 that leaves draft_size.
CASES = [
    ((400, 300), (200, 150), 2),
    ((400, 300), (201, 150), 1),  # 1.99 times in width
    ((400, 300), (200, 151), 1),  # 1.99 times in height
    ((400, 300), (100, 75), 4),
    ((400, 300), (101, 75), 2),
    ((800, 600), (100, 75), 8),
    ((800, 600), (10, 7), 8),  # 8 is the most that a JPEG allows
    ((401, 301), (200, 150), 2),  # rounded up
    ((400, 300), (400, 300), 1),
    ((400, 300), (500, 500), 1),
]


@pytest.mark.parametrize("decode", [decode_image, decode_pixels])
@pytest.mark.parametrize(("size", "draft_size", "scale"), CASES)
def test_the_size_follows_the_documented_rule(size, draft_size, scale, decode):
    decoded = decode(encode(smooth(*size)), draft_size=draft_size)
    width, height = decoded.size if isinstance(decoded, Image.Image) else (decoded.shape[2], decoded.shape[1])
    assert (width, height) == (-(-size[0] // scale), -(-size[1] // scale))
    if scale > 1:
        assert (width >= draft_size[0], height >= draft_size[1]) == (True, True)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_applied_and_the_size_is_that_of_the_upright_image(orientation):
    data = encode(smooth(480, 240), orientation)
    turned = orientation >= 5
    whole = decode_image(data)
    assert whole.size == ((240, 480) if turned else (480, 240))
    wanted = (120, 240) if turned else (240, 120)  # of the upright image: half of each side
    drafted = decode_image(data, draft_size=wanted)
    assert drafted.size == wanted
    reduced = whole.resize(wanted, Image.Resampling.BOX)
    assert np.abs(np.asarray(drafted, float) - np.asarray(reduced, float)).mean() < 2
    # With its sides exchanged the wanted size is more than half of one side.
    assert decode_image(data, draft_size=wanted[::-1]).size == whole.size


@pytest.mark.parametrize("mode", ["L", "CMYK"])
def test_grey_and_cmyk_are_drafted_too(mode):
    image = smooth(400, 300).convert(mode)
    drafted = decode_image(encode(image), draft_size=(200, 150))
    assert (drafted.mode, drafted.size) == ("RGB", (200, 150))
    expected = np.asarray(image.convert("RGB").resize((200, 150), Image.Resampling.BOX), float)
    assert np.abs(np.asarray(drafted, float) - expected).mean() < 3


@pytest.mark.parametrize("image_format", ["PNG", "WEBP", "TIFF"])
def test_other_formats_are_decoded_in_full(image_format):
    assert decode_image(encode(smooth(64, 48), image_format=image_format), draft_size=(8, 6)).size == (64, 48)


def test_the_pixel_limit_counts_the_file_and_not_the_draft():
    data = encode(smooth(400, 300))
    with pytest.raises(ImageDecodingError, match="400 x 300 pixels"):
        decode_image(data, draft_size=(50, 40), max_pixels=400 * 300 - 1)


def test_a_truncated_file_is_refused_in_draft_mode_too():
    data = encode(smooth(400, 300))
    with pytest.raises(ImageDecodingError, match="cannot be decoded"):
        decode_image(data[: len(data) // 2], draft_size=(50, 40))


def deviation(image: Image.Image, side: int = 96) -> float:
    """Mean absolute difference, of 255, between draft and full decoding once both are brought to a model's size."""
    data = encode(image)
    small = [
        np.asarray(decoded.resize((side, side), Image.Resampling.BILINEAR), float)
        for decoded in (decode_image(data), decode_image(data, draft_size=(side, side)))
    ]
    return float(np.abs(small[0] - small[1]).mean())


@pytest.mark.parametrize("scale", [2, 4, 8])
def test_the_deviation_is_small_on_smooth_and_on_photograph_like_images(scale):
    even, odd = (96 * scale + 64, 96 * scale), (96 * scale + 40, 96 * scale + 10)  # odd sizes are stretched by rounding
    assert deviation(smooth(*even)) < 0.6
    assert deviation(smooth(*odd)) < 2
    for size in (even, odd):
        assert deviation(textured(*size)) < 8
    assert deviation(textured(*even).filter(ImageFilter.GaussianBlur(2))) < 2.5


def test_the_deviation_is_small_on_real_photographs(voc07_lt):
    import pyarrow.parquet as parquet

    cells = parquet.read_table(voc07_lt / "train.parquet", columns=["image"])["image"][:40].to_pylist()
    differences = []
    for cell in cells:
        small = [
            np.asarray(decoded.resize((120, 120), Image.Resampling.BILINEAR), float)
            for decoded in (decode_image(cell), decode_image(cell, draft_size=(120, 120)))
        ]
        assert decode_image(cell, draft_size=(120, 120)).width < decode_image(cell).width
        differences.append(np.abs(small[0] - small[1]).mean())
    assert np.mean(differences) < 2
    assert np.max(differences) < 5


def test_the_loader_passes_the_size_on():
    rows = {
        "image_id": ["a", "b"],
        "image": [{"bytes": encode(smooth(400, 300)), "path": None}] * 2,
        "labels": [[0], [1]],
    }
    images = datasets.Dataset.from_dict(rows, features=image_features(["ant", "bee"]))

    def size(image: Image.Image) -> torch.Tensor:
        return torch.tensor(image.size).reshape(2, 1, 1)

    for draft_size, expected in ((None, [400, 300]), ((100, 70), [100, 75])):
        batch = next(iter(build_data_loader(images, size, batch_size=2, draft_size=draft_size)))
        assert batch["pixel_values"].flatten(1).tolist() == [expected] * 2
    transform = build_train_transform(32, (0.5,) * 3, (0.5,) * 3, augmentation="none", crop_scale=(1, 1))
    batches = [
        next(iter(build_data_loader(images, transform, batch_size=2, draft_size=draft_size)))["pixel_values"]
        for draft_size in (None, (50, 40))
    ]
    assert 0 < (batches[0] - batches[1]).abs().mean() < 0.02  # of a range of 2


@pytest.mark.parametrize("draft_size", [(0, 5), (5,), 5, (5, 5, 5)])
def test_a_wrong_draft_size_is_refused(draft_size):
    with pytest.raises(ValueError, match="draft_size must be"):
        decode_image(encode(smooth(16, 16)), draft_size=draft_size)
