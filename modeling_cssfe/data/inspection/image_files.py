# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""One pass over image files: which cannot be read, what they are like, and which are copies of each other.

Every image is read and decoded once, by the rules of `modeling_cssfe.data.decoding`. What is kept of it is a digest of
its file and a thumbnail of 9 x 9 grey values: a million images take about 150 MB, whatever their size.

Two images are *copies* if their files are the same, byte for byte. They *look alike* if their thumbnails are the same
but for `LOOK_ALIKE_RMS` grey levels in root mean square and `LOOK_ALIKE_MAX` at most, as after compressing or shrinking
a picture. On the 2,511 VOC 2007 photographs beside the repository, copies of half the size at JPEG quality 30 differ by
at most 2 and 7 levels, and the nearest of 3.2 million pairs of other photographs by 7.8 and 19. Crops and mirror images
are not found.
"""

import hashlib
import io
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from PIL import Image

from ..decoding import IMAGE_FORMATS, MAX_PIXELS, ImageDecodingError, decode_image


if TYPE_CHECKING:
    import datasets

LOOK_ALIKE_RMS = 2.5  # grey levels of 256
LOOK_ALIKE_MAX = 8
_FLAT = 2.0  # a thumbnail that varies less (standard deviation) has nothing to be recognised by
_SIDE = 9  # of the thumbnail
_COEFFICIENTS = 3  # lowest frequencies, each way, by which look-alikes are searched
_NEIGHBOURS = 5  # nearest thumbnails looked at for each, itself among them, so that a film's frames end
_CHUNK = 64  # images read at a time


@dataclass
class ImageScan:
    """What the pass found in one split; arrays have one entry an image.

    Attributes:
        readable: Bool: decoded without an error.
        digests: `(N, 4)` uint64: SHA-256 of the file's bytes.
        thumbnails: `(N, 81)` uint8 grey values.
        widths: Pixels, as the image stands after its EXIF orientation; 0 where unreadable.
        heights: The same.
        num_bytes: Of all files together.
        formats: Images of each file format, such as `JPEG`.
        modes: Images of each pixel mode of Pillow, such as `RGB`, `L` or `CMYK`.
        animated: Images with several frames.
        unreadable: `(image id, reason)` of each image that cannot be decoded.
    """

    readable: np.ndarray
    digests: np.ndarray
    thumbnails: np.ndarray
    widths: np.ndarray
    heights: np.ndarray
    num_bytes: int = 0
    formats: Counter = field(default_factory=Counter)
    modes: Counter = field(default_factory=Counter)
    animated: int = 0
    unreadable: list[tuple[str, str]] = field(default_factory=list)


class Copies(NamedTuple):
    """Images of two splits (or twice the same split) that are copies or look alike.

    Attributes:
        splits: The two splits.
        exact: Files are the same byte for byte; otherwise they look alike.
        pairs: `(row in the first split, row in the second)`, each image of the second split once.
    """

    splits: tuple[str, str]
    exact: bool
    pairs: tuple[tuple[int, int], ...]


class _Facts(NamedTuple):
    digest: bytes
    num_bytes: int
    size: tuple[int, int]
    image_format: str
    mode: str
    animated: bool
    thumbnail: np.ndarray


def scan_images(
    dataset: "datasets.Dataset",
    *,
    max_pixels: int = MAX_PIXELS,
    num_threads: int = 1,
    advance: Callable[[int], Any] = lambda count: None,
) -> ImageScan:
    """Read and decode every image of a data set once.

    Args:
        dataset: With the columns `image_id` and `image` as `load_images` gives them.
        max_pixels: As in `decode_image`; a larger image counts as unreadable.
        num_threads: Images decoded at a time.
        advance: Called with the number of images done since the last call, for a progress bar.
    """
    length = len(dataset)
    scan = ImageScan(
        readable=np.zeros(length, bool),
        digests=np.zeros((length, 4), np.uint64),
        thumbnails=np.zeros((length, _SIDE * _SIDE), np.uint8),
        widths=np.zeros(length, np.int32),
        heights=np.zeros(length, np.int32),
    )

    def look(start: int) -> list[_Facts | tuple[str, str]]:
        rows = dataset[start : start + _CHUNK]
        found: list[_Facts | tuple[str, str]] = []
        for image_id, cell in zip(rows["image_id"], rows["image"], strict=True):
            try:
                found.append(_facts(cell, image_id, max_pixels))
            except ImageDecodingError as error:
                found.append((image_id, str(error)))
        return found

    pool = ThreadPoolExecutor(num_threads)
    try:
        starts = range(0, length, _CHUNK)
        for start, found in zip(starts, pool.map(look, starts), strict=True):
            for index, facts in enumerate(found, start=start):
                _keep(facts, index, scan)
            advance(len(found))
    finally:
        pool.shutdown(cancel_futures=True)
    return scan


def find_copies(scans: Mapping[str, ImageScan], look_alikes: bool = True) -> list[Copies]:
    """Find images whose files are the same, and, if asked, others that look alike.

    Args:
        scans: What `scan_images` found in each split, in their order.
        look_alikes: Compare thumbnails as well.

    Returns:
        For each pair of splits with copies, exact ones first; within a split the first of several equal images stays
        unpaired, and each other one is paired with it.
    """
    splits = list(scans)
    split = np.concatenate([np.full(len(scan.readable), number) for number, scan in enumerate(scans.values())])
    row = np.concatenate([np.arange(len(scan.readable)) for scan in scans.values()])
    readable = np.flatnonzero(np.concatenate([scan.readable for scan in scans.values()]))
    digests = np.concatenate([scan.digests for scan in scans.values()])[readable]
    found: dict[tuple[int, int, bool], dict[int, int]] = {}
    # Equal digests stand side by side, and as lexsort is stable, in the order of the data.
    order = np.lexsort(digests.T)
    starts = np.flatnonzero(np.r_[True, (digests[order][1:] != digests[order][:-1]).any(axis=1)][: len(order)])
    ends = np.r_[starts[1:], len(order)]
    for group in np.flatnonzero(ends - starts > 1):
        members = readable[order[starts[group] : ends[group]]]
        for here in dict.fromkeys(split[members]):
            own = members[split[members] == here]
            _pair(found, own[0], own[1:], (here, here, True))
            for later in dict.fromkeys(split[members[split[members] > here]]):
                _pair(found, own[0], members[split[members] == later], (here, later, True))
    if look_alikes:
        alone = np.sort(readable[order[starts]])  # one of each group of copies
        thumbnails = np.concatenate([scan.thumbnails for scan in scans.values()])
        for first, second in _similar(thumbnails[alone]):
            first, second = alone[first], alone[second]
            _pair(found, first, [second], (split[first], split[second], False))
    return [
        Copies(
            (splits[first], splits[second]),
            exact,
            tuple((int(row[earlier]), int(row[later])) for later, earlier in sorted(pairs.items())),
        )
        for (first, second, exact), pairs in sorted(found.items(), key=lambda item: (not item[0][2], item[0][:2]))
    ]


def _pair(found: dict, first: int, others: Iterable[int], key: tuple[int, int, bool]) -> None:
    for other in others:
        found.setdefault((int(key[0]), int(key[1]), key[2]), {}).setdefault(int(other), int(first))


def _similar(thumbnails: np.ndarray) -> Iterator[tuple[int, int]]:
    """Yield pairs of thumbnails that look alike, the smaller index first.

    The lowest frequencies of an orthonormal cosine transform differ by no more than the whole thumbnails, so a search
    among them misses nothing but what has too many neighbours, as the frames of a film.
    """
    from scipy.fft import dctn
    from scipy.spatial import cKDTree

    varied = np.flatnonzero(thumbnails.std(axis=1) >= _FLAT)
    # Equal thumbnails are paired first: a search tree gets slow where many points are the same.
    distinct, firsts, inverse = np.unique(thumbnails[varied], axis=0, return_index=True, return_inverse=True)
    inverse = inverse.reshape(-1)  # numpy 2.0 gave it a second axis
    for index in np.flatnonzero(firsts[inverse] != np.arange(len(varied))):
        yield int(varied[firsts[inverse[index]]]), int(varied[index])
    varied = varied[firsts]
    if len(varied) < 2:
        return
    grids = distinct.reshape(-1, _SIDE, _SIDE)
    low = np.empty((len(grids), _COEFFICIENTS * _COEFFICIENTS), np.float32)
    for start in range(0, len(grids), 65536):
        part = dctn(grids[start : start + 65536].astype(np.float32), axes=(1, 2), norm="ortho")
        low[start : start + 65536] = part[:, :_COEFFICIENTS, :_COEFFICIENTS].reshape(len(part), -1)
    radius = LOOK_ALIKE_RMS * _SIDE * 1.001  # from the root mean square of 81 values to their Euclidean length
    tree = cKDTree(low)
    for start in range(0, len(grids), 65536):
        block = low[start : start + 65536]
        # eps lets the search stop at neighbours twice as far as the nearest, so it looks twice as far: an exact one
        # takes hours where a million frames differ by noise alone.
        _, near = tree.query(block, k=min(_NEIGHBOURS, len(low)), eps=1.0, distance_upper_bound=2 * radius)
        for offset, neighbours in enumerate(near, start=start):
            for other in neighbours[(neighbours < len(low)) & (neighbours != offset)]:
                difference = grids[offset].astype(np.int32) - grids[other]
                if np.abs(difference).max() <= LOOK_ALIKE_MAX and (difference**2).mean() <= LOOK_ALIKE_RMS**2:
                    yield tuple(sorted((int(varied[offset]), int(varied[other]))))  # type: ignore[misc]


def _facts(cell: Mapping[str, Any], image_id: str, max_pixels: int) -> _Facts:
    data, path = cell.get("bytes"), cell.get("path")
    if data is None and path is not None:
        try:
            data = Path(path).read_bytes()
        except OSError:
            decode_image(path, image_id=image_id, max_pixels=max_pixels)  # says what is wrong with the path
    if data is None:
        raise ImageDecodingError(f"image {image_id!r} has no bytes that can be read; restore it.")
    # The path goes along so that the error names it.
    image = decode_image({"bytes": data, "path": path}, image_id=image_id, max_pixels=max_pixels)
    with Image.open(io.BytesIO(data), formats=[name for name in IMAGE_FORMATS if name in Image.OPEN]) as stored:
        described = stored.format or "unknown", stored.mode, bool(getattr(stored, "is_animated", False))
    small = image.resize((_SIDE, _SIDE), Image.Resampling.BOX).convert("L")
    return _Facts(
        hashlib.sha256(data).digest(), len(data), image.size, *described, np.asarray(small, dtype=np.uint8).reshape(-1)
    )


def _keep(facts: "_Facts | tuple[str, str]", index: int, scan: ImageScan) -> None:
    if not isinstance(facts, _Facts):
        scan.unreadable.append(facts)
        return
    scan.readable[index] = True
    scan.digests[index] = np.frombuffer(facts.digest, np.uint64)
    scan.thumbnails[index] = facts.thumbnail
    scan.widths[index], scan.heights[index] = facts.size
    scan.num_bytes += facts.num_bytes
    scan.formats[facts.image_format] += 1
    scan.modes[facts.mode] += 1
    scan.animated += facts.animated


__all__ = ["LOOK_ALIKE_MAX", "LOOK_ALIKE_RMS", "Copies", "ImageScan", "find_copies", "scan_images"]
