# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""Decoded images on disk, mapped into memory: an epoch then costs no decoding.

A cache is a folder `decoded-<key>` of three files: `pixels.bin` (the 8-bit RGB pixels of all images, one after
another), `sizes.npy` (height and width of each) and `header.json` (options, counts, SHA-256 sums). The key is a hash of
the encoded bytes of all images in their order, of the options, and of the versions of the decoders; where the images
lie does not enter. So data that changed, in one byte of one image or in their order, never meet an old cache.

A cache is written under another name, checked for room beforehand, and renamed when it is whole. Of several processes
that ask for the same cache one builds it and the others wait for it. To open a cache every image file is read once, for
the hash; nothing is decoded.

With `short_side` or `max_side` larger images are reduced, with Pillow's bicubic filter over the whole support. That
saves room (a quarter at half the side), but batches then are those of the reduced images. Without them batches are, bit
for bit, those without a cache.
"""

import hashlib
import io
import json
import logging
import os
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, features

from .decoding import MAX_PIXELS, ImageDecodingError, decode_image, known_formats, read_encoded


if TYPE_CHECKING:
    import datasets

logger = logging.getLogger(__name__)

_FORMAT = 1
_HEADER, _PIXELS, _SIZES = "header.json", "pixels.bin", "sizes.npy"
_ROOM_LEFT = 1 << 26  # 64 MiB that a cache leaves free on the disk
_BLOCK = 1 << 22
_CHUNK = 32  # images that are in memory at a time, for each worker


class DecodedCache:
    """The decoded images of one data set; `build_decoded_cache` builds or opens it.

    Args:
        folder: The cache's own folder, `decoded-<key>`.

    Attributes:
        folder: Where it lies.
        header: What `header.json` holds.

    Raises:
        ValueError: The folder is not a cache, or a file of it is damaged.
    """

    def __init__(self, folder: str | os.PathLike):
        self.folder = Path(folder)
        self._pixels: np.ndarray | None = None
        self._data: Any = None
        try:
            self.header: dict[str, Any] = json.loads((self.folder / _HEADER).read_text())
            sizes_file = (self.folder / _SIZES).read_bytes()
            num_bytes = (self.folder / _PIXELS).stat().st_size
            if self.header["format"] != _FORMAT:
                raise ValueError(f"format {self.header['format']!r} instead of {_FORMAT}")
            if hashlib.sha256(sizes_file).hexdigest() != self.header["sizes_sha256"]:
                raise ValueError(f"{_SIZES} does not have its checksum")
            self.sizes = np.load(io.BytesIO(sizes_file), allow_pickle=False)
            lengths = 3 * self.sizes.astype(np.int64).prod(axis=1)
            if not num_bytes == self.header["num_bytes"] == lengths.sum():
                raise ValueError(f"{_PIXELS} has {num_bytes:,} bytes instead of {int(lengths.sum()):,}")
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"the decoded cache {self.folder} is not whole ({' '.join(str(error).split())}); remove it and build "
                "it again."
            ) from error
        self._starts = np.concatenate([[0], np.cumsum(lengths)])

    def __len__(self) -> int:
        return len(self.sizes)

    def __getstate__(self) -> dict[str, Any]:
        # A map would be sent to a worker process as a copy of all pixels.
        return self.__dict__ | {"_pixels": None, "_data": None}

    @property
    def num_bytes(self) -> int:
        """Bytes of all pixels."""
        return int(self.header["num_bytes"])

    def pixels(self, index: int) -> np.ndarray | None:
        """Return a read-only view of an image, `(height, width, 3)` uint8; `None` if it could not be decoded."""
        height, width = (int(side) for side in self.sizes[index])
        if height == 0:
            return None
        if self._pixels is None:
            self._pixels = np.memmap(self.folder / _PIXELS, np.uint8, mode="r")
        start = int(self._starts[index])
        return self._pixels[start : start + 3 * height * width].reshape(height, width, 3)

    def verify(self) -> None:
        """Read all pixels and compare their checksum.

        Raises:
            ValueError: They have changed since they were written.
        """
        digest = hashlib.sha256()
        with (self.folder / _PIXELS).open("rb") as file:
            while block := file.read(_BLOCK):
                digest.update(block)
        if digest.hexdigest() != self.header["pixels_sha256"]:
            raise ValueError(
                f"the decoded cache {self.folder} is not whole ({_PIXELS} does not have its checksum); remove it and "
                "build it again."
            )

    def require(self, dataset: "datasets.Dataset") -> None:
        """Check that this is the cache of a data set: the same images in the same order.

        Raises:
            ValueError: It is of other images.
        """
        if self._data is dataset:
            return
        content = _scan(dataset, None, None, 0, "skip", progress=False).content if len(self) == len(dataset) else None
        if content != self.header["content_sha256"]:
            raise ValueError(
                f"the decoded cache {self.folder} is of {len(self):,} other images or of another order, not of the "
                f"{len(dataset):,} of this data set; pass its parent folder to build the right one."
            )
        self._data = dataset


def decoded_cache_bytes(
    dataset: "datasets.Dataset",
    *,
    short_side: int | None = None,
    max_side: int | None = None,
    num_workers: int = 0,
    progress: bool = True,
) -> int:
    """Return how many bytes of pixels a decoded cache will have; only the headers of the images are read.

    Args:
        dataset: As `load_images` gives it.
        short_side: As for `build_decoded_cache`.
        max_side: As for `build_decoded_cache`.
        num_workers: As for `build_decoded_cache`.
        progress: Show a progress bar.

    Returns:
        Bytes, an image whose header cannot be read counting as 0.

    Raises:
        ValueError: An option is out of range.
    """
    _check_sides(short_side, max_side)
    return _scan(dataset, short_side, max_side, num_workers, "skip", progress).num_bytes


def build_decoded_cache(
    dataset: "datasets.Dataset",
    cache_dir: str | os.PathLike,
    *,
    short_side: int | None = None,
    max_side: int | None = None,
    num_workers: int = 0,
    on_error: str = "raise",
    max_pixels: int = MAX_PIXELS,
    verify: bool = False,
    progress: bool = True,
) -> DecodedCache:
    """Open the decoded cache of a data set, or build it where there is none; see the module's description.

    Args:
        dataset: As `load_images` gives it.
        cache_dir: Folder of all caches.
        short_side: Reduce larger images until their shorter side has so many pixels; `None` keeps their size.
        max_side: The same for the longer side; instead of `short_side`.
        num_workers: Threads that read and decode; Pillow decodes outside Python's global lock. 0 uses none.
        on_error: `"raise"` stops at an image that cannot be decoded; `"skip"` leaves it out of the cache, with a
            warning, and to the loader's own `on_error`.
        max_pixels: As in `decode_image`.
        verify: Check the pixels of a cache that is there already, which reads all of it. The header, the sizes and the
            length of the pixels are always checked.
        progress: Show progress bars.

    Returns:
        The cache. One that is damaged is built again, with a warning.

    Raises:
        ImageDecodingError: An image cannot be decoded, with `on_error="raise"`.
        ValueError: An option is out of range, or the disk has not enough room.
    """
    from filelock import FileLock

    _check_sides(short_side, max_side)
    if on_error not in ("raise", "skip"):
        raise ValueError(f"on_error must be 'raise' or 'skip', got {on_error!r}.")
    if num_workers < 0:
        raise ValueError(f"num_workers must be >= 0, got {num_workers}.")
    scan = _scan(dataset, short_side, max_side, num_workers, on_error, progress)
    options = {
        "short_side": short_side,
        "max_side": max_side,
        "pillow": Image.__version__,
        "libjpeg": features.version("libjpeg_turbo") or features.version("jpg"),
    }
    key = hashlib.sha256(json.dumps([_FORMAT, scan.content, options], sort_keys=True).encode()).hexdigest()[:24]
    parent = Path(cache_dir)
    parent.mkdir(parents=True, exist_ok=True)
    folder = parent / f"decoded-{key}"
    with FileLock(parent / f".decoded-{key}.lock"):
        cache = _open_whole(folder, verify)
        if cache is None:
            logger.info("The decoded cache %s of %d images takes %s.", folder, len(dataset), _in_words(scan.num_bytes))
            free = shutil.disk_usage(parent).free
            if scan.num_bytes + _ROOM_LEFT > free:
                raise ValueError(
                    f"a decoded cache of these {len(dataset):,} images takes {_in_words(scan.num_bytes)}, but {parent} "
                    f"has {_in_words(free)} free; choose another cache_dir, or a smaller short_side or max_side."
                )
            partial = parent / f".decoded-{key}.partial"  # under the lock, so one that is there was left by a crash
            shutil.rmtree(partial, ignore_errors=True)
            try:
                partial.mkdir()
                header = {"format": _FORMAT, "content_sha256": scan.content, "options": options}

                def decode(cell: tuple[str | None, Any]) -> np.ndarray | ImageDecodingError:
                    try:
                        image = decode_image(cell[1], image_id=cell[0], max_pixels=max_pixels)
                    except ImageDecodingError as error:
                        if on_error == "raise":
                            raise
                        return error
                    size = _reduced(image.size, short_side, max_side)
                    return np.asarray(image if size == image.size else image.resize(size, Image.Resampling.BICUBIC))

                _write(partial, header, _each(dataset, decode, num_workers, "Decoding images", progress))
                os.replace(partial, folder)
            except BaseException:
                shutil.rmtree(partial, ignore_errors=True)
                raise
            cache = DecodedCache(folder)
    if on_error == "raise":
        for index in np.flatnonzero(cache.sizes[:, 0] == 0).tolist():  # built with "skip" before
            decode_image(dataset[index]["image"], image_id=dataset[index].get("image_id"), max_pixels=max_pixels)
    cache._data = dataset
    return cache


@dataclass(frozen=True)
class _Scan:
    content: str  # SHA-256 over the SHA-256 of each image's encoded bytes
    num_bytes: int


def _scan(dataset, short_side, max_side, num_workers: int, on_error: str, progress: bool) -> _Scan:
    def look(cell: tuple[str | None, Any]) -> tuple[bytes, int]:
        try:
            encoded = read_encoded(cell[1], image_id=cell[0])
        except ImageDecodingError:
            if on_error == "raise":
                raise
            return hashlib.sha256(b"").digest(), 0
        digest = hashlib.sha256(encoded).digest()
        try:
            with Image.open(io.BytesIO(encoded), formats=known_formats()) as opened:
                width, height = _reduced(opened.size, short_side, max_side)
        except Exception:
            return digest, 0  # decoding it will say what is wrong
        return digest, 3 * width * height

    content, num_bytes = hashlib.sha256(), 0
    for digest, length in _each(dataset, look, num_workers, "Reading images", progress):
        content.update(digest)
        num_bytes += length
    return _Scan(content.hexdigest(), num_bytes)


def _each(dataset, function: Callable, num_workers: int, title: str, progress: bool) -> Iterator[Any]:
    """Apply a function to (image id, undecoded image) of all rows, in order, with bounded memory."""
    from tqdm.auto import tqdm

    columns = [name for name in ("image_id", "image") if name in dataset.column_names]
    rows = dataset.select_columns(columns).with_format("arrow")
    chunk = _CHUNK * max(1, num_workers)
    pool = ThreadPoolExecutor(num_workers) if num_workers else None
    try:
        with tqdm(total=len(dataset), desc=title, unit="image", disable=not progress) as bar:
            for start in range(0, len(dataset), chunk):
                table = rows[start : start + chunk]
                images = table["image"].to_pylist()
                ids = table["image_id"].to_pylist() if "image_id" in columns else [None] * len(images)
                cells = zip(ids, images, strict=True)
                for result in pool.map(function, cells) if pool else map(function, cells):
                    yield result
                    bar.update()
    finally:
        if pool:
            pool.shutdown(cancel_futures=True)


def _write(folder: Path, header: dict[str, Any], images: Iterator["np.ndarray | ImageDecodingError"]) -> None:
    sizes, digest = [], hashlib.sha256()
    # Written and not mapped: a disk that fills up is an error then, and not a bus error that kills the process.
    with (folder / _PIXELS).open("wb") as file:
        for image in images:
            if isinstance(image, ImageDecodingError):
                logger.warning("%s It is left out of the decoded cache.", image)
                sizes.append((0, 0))
                continue
            block = image.tobytes()
            file.write(block)
            digest.update(block)
            sizes.append(image.shape[:2])
        file.flush()
        os.fsync(file.fileno())
        num_bytes = file.tell()
    buffer = io.BytesIO()
    np.save(buffer, np.array(sizes, dtype=np.int32).reshape(-1, 2), allow_pickle=False)
    (folder / _SIZES).write_bytes(buffer.getvalue())
    header |= {
        "num_images": len(sizes),
        "num_bytes": num_bytes,
        "sizes_sha256": hashlib.sha256(buffer.getvalue()).hexdigest(),
        "pixels_sha256": digest.hexdigest(),
    }
    (folder / _HEADER).write_text(json.dumps(header, indent=1) + "\n")


def _open_whole(folder: Path, verify: bool) -> DecodedCache | None:
    """Open a cache that is there; remove one that is damaged."""
    if not folder.exists():
        return None
    try:
        cache = DecodedCache(folder)
        if verify:
            cache.verify()
    except ValueError as error:
        logger.warning("%s It is built again now.", error)
        shutil.rmtree(folder)
        return None
    return cache


def _check_sides(short_side: int | None, max_side: int | None) -> None:
    if short_side is not None and max_side is not None:
        raise ValueError(f"short_side and max_side exclude each other, got {short_side} and {max_side}; give one.")
    for name, side in (("short_side", short_side), ("max_side", max_side)):
        if side is not None and side < 1:
            raise ValueError(f"{name} must be >= 1 pixel, or None for the images' own size, got {side}.")


def _reduced(size: tuple[int, int], short_side: int | None, max_side: int | None) -> tuple[int, int]:
    """Return (width, height) of an image in the cache; images are never enlarged."""
    scale = 1.0
    if short_side is not None:
        scale = short_side / min(size)
    elif max_side is not None:
        scale = max_side / max(size)
    if scale >= 1:
        return size
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def _in_words(num_bytes: int) -> str:
    return f"{num_bytes / 2**30:,.2f} GiB" if num_bytes >= 2**30 else f"{num_bytes / 2**20:,.1f} MiB"


__all__ = ["DecodedCache", "build_decoded_cache", "decoded_cache_bytes"]
