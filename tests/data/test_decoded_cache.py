# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
import copy
import hashlib
import io
import json
import logging
import multiprocessing
import os
import pickle
import shutil

import datasets
import numpy as np
import pytest
import torch
from PIL import Image

from modeling_cssfe.data import ImageDecodingError, build_data_loader, build_train_transform
from modeling_cssfe.data.decoded_cache import DecodedCache, build_decoded_cache, decoded_cache_bytes
from modeling_cssfe.data.readers.records import image_features


pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning")

NAMES = ["ant", "bee"]
SIZES = [(12, 10), (7, 31), (40, 20), (64, 48), (9, 9), (30, 50)]  # width, height


def photograph(seed: int, size: tuple[int, int], orientation: int = 1) -> bytes:
    """A JPEG of smooth colour, perhaps stored on its side."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (4, 4, 3), dtype=np.uint8))
    exif = Image.Exif()
    exif[0x0112] = orientation
    buffer = io.BytesIO()
    small.resize(size, Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=90, exif=exif)
    return buffer.getvalue()


def table(cells: list[bytes | str]) -> datasets.Dataset:
    rows = {
        "image_id": [f"i{n}" for n in range(len(cells))],
        "image": [
            {"bytes": None, "path": cell} if isinstance(cell, str) else {"bytes": cell, "path": None} for cell in cells
        ],
        "labels": [[n % 2] for n in range(len(cells))],
    }
    return datasets.Dataset.from_dict(rows, features=image_features(NAMES))


@pytest.fixture
def images() -> datasets.Dataset:
    return table([photograph(n, size, orientation=6 if n == 3 else 1) for n, size in enumerate(SIZES)])


def build(images, folder, **options) -> DecodedCache:
    return build_decoded_cache(images, folder, progress=False, **options)


def pixels_of(cell: bytes) -> np.ndarray:
    """What Pillow alone makes of the file, upright."""
    from PIL import ImageOps

    return np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(cell))).convert("RGB"))


def crop_of(image: Image.Image) -> torch.Tensor:
    """A transform of Pillow images alone."""
    left = int(torch.randint(0, image.width - 6, ()))
    return torch.from_numpy(np.array(image.crop((left, 0, left + 6, 6)))).permute(2, 0, 1).float()


@pytest.mark.parametrize("num_workers", [0, 3])
def test_the_cache_holds_the_pixels_that_pillow_decodes(num_workers, images, tmp_path):
    cache = build(images, tmp_path, num_workers=num_workers)
    assert len(cache) == len(SIZES)
    for index, row in enumerate(images):
        np.testing.assert_array_equal(cache.pixels(index), pixels_of(row["image"]["bytes"]))
    assert cache.pixels(3).shape == (64, 48, 3)  # stored 64 wide and 48 high, and turned


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("kind", ["tensors", "pillow"])
def test_batches_with_the_cache_are_those_without_to_the_last_bit(kind, num_workers, images, tmp_path):
    transform = crop_of if kind == "pillow" else build_train_transform(16, (0.5,) * 3, (0.5,) * 3)
    options = {"batch_size": 2, "shuffle": True, "num_workers": num_workers}
    plain = build_data_loader(images, transform, **options)
    cached = build_data_loader(images, transform, decoded_cache=tmp_path, **options)
    for epoch in (0, 1):
        plain.sampler.set_epoch(epoch)
        cached.sampler.set_epoch(epoch)
        for batch, expected in zip(cached, plain, strict=True):
            assert all(torch.equal(batch[key], expected[key]) for key in expected)


def test_real_photographs_come_out_of_the_cache_to_the_last_bit(voc07_lt, tmp_path):
    import pyarrow.parquet as parquet

    cells = parquet.read_table(voc07_lt / "train.parquet", columns=["image"])["image"][:8].to_pylist()
    images = table([cell["bytes"] for cell in cells])
    transform = build_train_transform(64, (0.5,) * 3, (0.5,) * 3)
    plain = build_data_loader(images, transform, batch_size=8)
    cached = build_data_loader(images, transform, batch_size=8, decoded_cache=tmp_path)
    assert torch.equal(next(iter(plain))["pixel_values"], next(iter(cached))["pixel_values"])


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, SIZES),
        ({"short_side": 10}, [(12, 10), (7, 31), (20, 10), (13, 10), (9, 9), (10, 17)]),
        ({"max_side": 20}, [(12, 10), (5, 20), (20, 10), (20, 15), (9, 9), (12, 20)]),
    ],
)
def test_the_size_is_told_beforehand_and_large_images_alone_are_reduced(options, expected, images, tmp_path, caplog):
    num_bytes = 3 * sum(width * height for width, height in expected)
    assert decoded_cache_bytes(images, progress=False, **options) == num_bytes
    with caplog.at_level(logging.INFO):
        cache = build(images, tmp_path, **options)
    assert f"of {len(SIZES)} images takes {num_bytes / 2**20:.1f} MiB" in caplog.text
    assert cache.num_bytes == num_bytes == (cache.folder / "pixels.bin").stat().st_size
    shapes = [cache.pixels(index).shape for index in range(len(SIZES))]
    assert [(width, height) for height, width, _ in shapes] == [
        size[::-1] if index == 3 else size for index, size in enumerate(expected)
    ]


def test_reduced_images_look_like_their_originals(images, tmp_path):
    cache = build(images, tmp_path, short_side=10)
    whole = pixels_of(images[2]["image"]["bytes"]).astype(float)  # 40 x 20 becomes 20 x 10
    averaged = whole.reshape(10, 2, 20, 2, 3).mean(axis=(1, 3))
    assert np.abs(cache.pixels(2) - averaged).mean() < 3


def test_a_cache_that_is_there_is_opened_and_not_built(images, tmp_path, monkeypatch):
    first = build(images, tmp_path)
    monkeypatch.setattr("modeling_cssfe.data.decoded_cache.decode_image", None)
    assert build(images, tmp_path, verify=True).folder == first.folder
    assert decoded_folders(tmp_path) == [first.folder.name]


def decoded_folders(folder) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.is_dir())


def test_the_key_is_the_content_and_not_where_it_lies(images, tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        for index, row in enumerate(images):
            (tmp_path / folder / f"{folder}{index}.jpg").write_bytes(row["image"]["bytes"])
    elsewhere = [table([str(tmp_path / f / f"{f}{n}.jpg") for n in range(len(SIZES))]) for f in ("a", "b")]
    caches = tmp_path / "caches"
    folders = {build(data, caches).folder for data in (images, *elsewhere)}
    assert len(folders) == 1
    # One byte of one image, after the end of its pixels: other content all the same.
    with (tmp_path / "b" / "b0.jpg").open("ab") as file:
        file.write(b"\0")
    others = [elsewhere[1], images.select([1, 0, 2, 3, 4, 5]), images.select(range(5))]
    folders |= {build(data, caches).folder for data in others}
    folders.add(build(images, caches, short_side=8).folder)
    folders.add(build(images, caches, max_side=8).folder)
    assert len(folders) == 6


def test_a_cache_of_other_images_is_refused(images, tmp_path):
    cache = build(images, tmp_path)
    for other in (images.select([1, 0, 2, 3, 4, 5]), images.select(range(5))):
        with pytest.raises(ValueError, match="other images or of another order") as caught:
            build_data_loader(other, crop_of, batch_size=1, decoded_cache=DecodedCache(cache.folder))
        assert "\n" not in str(caught.value)
    build_data_loader(copy.deepcopy(images), crop_of, batch_size=1, decoded_cache=DecodedCache(cache.folder))


def test_the_checksum_is_that_of_the_pixels_and_finds_a_changed_bit(images, tmp_path):
    cache = build(images, tmp_path)
    file = cache.folder / "pixels.bin"
    assert json.loads((cache.folder / "header.json").read_text())["pixels_sha256"] == (
        hashlib.sha256(b"".join(pixels_of(row["image"]["bytes"]).tobytes() for row in images)).hexdigest()
    )
    cache.verify()
    data = bytearray(file.read_bytes())
    data[100] ^= 1
    file.write_bytes(data)
    with pytest.raises(ValueError, match=r"not whole \(pixels.bin does not have its checksum\)"):
        DecodedCache(cache.folder).verify()


DAMAGES = {
    "shorter pixels": lambda folder: os.truncate(folder / "pixels.bin", 50),
    "no header": lambda folder: (folder / "header.json").unlink(),
    "half a header": lambda folder: os.truncate(folder / "header.json", 30),
    "changed sizes": lambda folder: (folder / "sizes.npy").write_bytes(
        (folder / "sizes.npy").read_bytes()[:-1] + b"\1"
    ),
    "another format": lambda folder: (folder / "header.json").write_text('{"format": 0}'),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_cache_is_refused_and_built_again(damage, images, tmp_path, caplog):
    folder = build(images, tmp_path).folder
    DAMAGES[damage](folder)
    with pytest.raises(ValueError, match="is not whole") as caught:
        DecodedCache(folder)
    assert "\n" not in str(caught.value)
    with caplog.at_level(logging.WARNING):
        build(images, tmp_path).verify()
    assert "built again" in caplog.text


def test_changed_pixels_are_built_again_if_verification_is_asked_for(images, tmp_path):
    folder = build(images, tmp_path).folder
    (folder / "pixels.bin").write_bytes(bytes((folder / "pixels.bin").stat().st_size))
    np.testing.assert_array_equal(
        build(images, tmp_path, verify=True).pixels(0), pixels_of(images[0]["image"]["bytes"])
    )


def test_a_disk_without_room_is_one_line_and_leaves_nothing(images, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)._replace(free=1 << 20)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(ValueError, match=r"takes 0.0 MiB, but .* has 1.0 MiB free; choose another cache_dir") as caught:
        build(images, tmp_path)
    assert "\n" not in str(caught.value)
    assert decoded_folders(tmp_path) == []


def test_a_broken_image_stops_the_building_and_leaves_nothing(images, tmp_path):
    data = table([images[0]["image"]["bytes"], images[1]["image"]["bytes"][:-300]])
    with pytest.raises(ImageDecodingError, match="image 'i1' cannot be decoded"):
        build(data, tmp_path)
    assert decoded_folders(tmp_path) == []


def test_broken_images_are_left_to_the_loader_where_skipping_is_asked_for(images, tmp_path, caplog):
    cells = [row["image"]["bytes"] for row in images]
    data = table([cells[0], b"", cells[1][:-300], b"junk", str(tmp_path / "gone.jpg"), cells[5]])
    with caplog.at_level(logging.WARNING):
        cache = build(data, tmp_path, on_error="skip")
    assert [cache.pixels(index) is None for index in range(6)] == [False, True, True, True, True, False]
    assert all(f"'i{n}'" in caplog.text for n in (1, 2, 3, 4))
    loader = build_data_loader(data, crop_of, batch_size=6, decoded_cache=cache, on_error="skip")
    assert next(iter(loader))["index"].tolist() == [0, 5]
    assert loader.dataset.skipped == [1, 2, 3, 4]
    for options in ({}, {"num_workers": 2}):  # a cache with gaps does not pass for a whole one
        with pytest.raises(ImageDecodingError, match="image 'i1' is empty"):
            build(data, tmp_path, **options)


def test_an_interrupted_building_is_started_again(images, tmp_path):
    whole = build(images, tmp_path)
    partial = tmp_path / f".{whole.folder.name}.partial"
    whole.folder.rename(partial)
    os.truncate(partial / "pixels.bin", 10)
    again = build(images, tmp_path)
    again.verify()
    assert decoded_folders(tmp_path) == [whole.folder.name]


def build_there(images, folder, results) -> None:
    results.put(str(build(images, folder).folder))


def test_processes_that_build_at_once_end_with_one_whole_cache(images, tmp_path):
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    processes = [context.Process(target=build_there, args=(images, tmp_path, results)) for _ in range(4)]
    for process in processes:
        process.start()
    folders = {results.get(timeout=60) for _ in processes}
    for process in processes:
        process.join(60)
    assert [os.path.basename(folder) for folder in folders] == decoded_folders(tmp_path)
    DecodedCache(folders.pop()).verify()


def test_a_cache_goes_to_worker_processes_without_its_pixels(images, tmp_path):
    cache = build(images, tmp_path)
    before = cache.pixels(4).copy()
    sent = pickle.dumps(cache)
    assert len(sent) < cache.num_bytes
    np.testing.assert_array_equal(pickle.loads(sent).pixels(4), before)
    assert not cache.pixels(4).flags.writeable


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"short_side": 0}, "short_side must be >= 1 pixel"),
        ({"short_side": 5, "max_side": 6}, "exclude each other, got 5 and 6"),
        ({"on_error": "ignore"}, "'raise' or 'skip', got 'ignore'"),
        ({"num_workers": -1}, "num_workers must be >= 0"),
    ],
)
def test_bad_options_are_refused(options, message, images, tmp_path):
    with pytest.raises(ValueError, match=message):
        build(images, tmp_path, **options)


def test_the_cache_and_draft_decoding_exclude_each_other(images, tmp_path):
    with pytest.raises(ValueError, match="draft_size and a decoded cache exclude each other"):
        build_data_loader(images, crop_of, batch_size=1, decoded_cache=build(images, tmp_path), draft_size=(8, 8))
