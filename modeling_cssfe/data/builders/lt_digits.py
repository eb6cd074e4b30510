# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""LT-Digits: a small long-tailed multi-label set that needs no download.

Scenes of 96 x 96 pixels show one to four of the digits zero to nine, of different size, place, tilt, tint and
faintness, on a dark textured ground among strokes, fragments of digits and noise. The digits are the 1,797 handwritten
ones that scikit-learn carries (E. Alpaydin and C. Kaynak, "Optical Recognition of Handwritten Digits", UCI Machine
Learning Repository, CC BY 4.0), split by source digit: no digit, nor fragment of one, of the training scenes occurs in
another split.

Training counts fall like those of LT-VOC, from 775 down to 4; validation and test have every class equally often. The
same seed makes the same pixels on every machine: all drawing uses uniform numbers of a PCG64 generator seeded by (seed,
split, image), and arithmetic that IEEE 754 defines exactly.

    builder = LTDigits()
    builder.download_and_prepare()
    dataset = builder.as_dataset()      # train, validation, test
"""

import io
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

import datasets
import numpy as np
from PIL import Image


CANVAS = 96
LABEL_NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
# By class id. Heads are three, seven, zero, five; medium eight, one, six; tails four, nine, two. Digits that are easy
# (zero, six, four) and hard (three, eight, nine) to tell apart are in every group, so that group averages differ by the
# number of training images and not by the shapes.
TRAIN_COUNTS = (154, 34, 4, 775, 14, 100, 20, 343, 64, 7)
MAX_LABELS = 4

_SPLITS = ("train", "validation", "test")
_POOL_SHARES = (0.5, 0.2, 0.3)
# Mean labels of an image. LT-VOC's training images have 2.05; a canvas has room for fewer without digits that overlap.
_LABELS_PER_IMAGE = 1.6


@dataclass
class LTDigitsConfig(datasets.BuilderConfig):
    """Options of `LTDigits`.

    Attributes:
        seed: Of everything random, >= 0.
        train_counts: Training images of each class, zero to nine, each >= 1.
        validation_images: Number of validation images.
        test_images: Number of test images.
    """

    seed: int = 0
    train_counts: Sequence[int] = TRAIN_COUNTS
    validation_images: int = 600
    test_images: int = 1000

    def __post_init__(self):
        """Check the values."""
        super().__post_init__()
        self.train_counts = tuple(self.train_counts)
        if self.seed < 0:
            raise ValueError(f"seed must be >= 0, got {self.seed}.")
        if len(self.train_counts) != len(LABEL_NAMES) or min(self.train_counts) < 1:
            raise ValueError(f"train_counts must be {len(LABEL_NAMES)} numbers >= 1, got {self.train_counts}.")
        if min(self.validation_images, self.test_images) < len(LABEL_NAMES):
            raise ValueError(
                f"validation_images and test_images must be >= {len(LABEL_NAMES)}, got {self.validation_images} and "
                f"{self.test_images}."
            )


class LTDigits(datasets.GeneratorBasedBuilder):
    """Builder of LT-Digits; takes the fields of `LTDigitsConfig` as arguments, and `cache_dir`."""

    VERSION = datasets.Version("1.0.0")  # to be raised with any change of the pixels or labels: caches go by it
    BUILDER_CONFIG_CLASS = LTDigitsConfig

    def _info(self) -> datasets.DatasetInfo:
        return datasets.DatasetInfo(
            description="Long-tailed multi-label scenes composed of handwritten digits.",
            features=datasets.Features(
                {
                    "image_id": datasets.Value("string"),
                    "image": datasets.Image(),
                    "labels": datasets.List(datasets.ClassLabel(names=list(LABEL_NAMES))),
                }
            ),
            license="cc-by-4.0",
        )

    def _split_generators(self, dl_manager) -> list[datasets.SplitGenerator]:
        return [datasets.SplitGenerator(name=split, gen_kwargs={"split": split}) for split in _SPLITS]

    def _generate_examples(self, split: str) -> Iterator[tuple[int, dict]]:
        for index, scene in enumerate(draw_scenes(split, self.config)):
            encoded = io.BytesIO()
            Image.fromarray(scene.pixels).save(encoded, format="PNG")
            yield (
                index,
                {
                    "image_id": scene.image_id,
                    "image": {"bytes": encoded.getvalue(), "path": f"{scene.image_id}.png"},
                    "labels": scene.labels,
                },
            )


@dataclass(frozen=True)
class Scene:
    """One image of LT-Digits.

    Attributes:
        image_id: Such as `test-0003`.
        labels: Class ids, ascending.
        pixels: `(96, 96, 3)` uint8.
        boxes: fp64 `(len(labels), 4)`, extent of the ink of each label's digit: x0, y0, x1, y1 in pixels, (0, 0) the
            image's upper left corner.
    """

    image_id: str
    labels: list[int]
    pixels: np.ndarray
    boxes: np.ndarray


def draw_scenes(
    split: str, config: LTDigitsConfig | None = None, image_ids: Collection[str] | None = None
) -> Iterator[Scene]:
    """Draw the scenes of a split; they follow from the options alone.

    Args:
        split: `train`, `validation` or `test`.
        config: Options; the default ones by default.
        image_ids: Draw these only.

    Raises:
        ValueError: Unknown split.
    """
    from sklearn.datasets import load_digits

    if split not in _SPLITS:
        raise ValueError(f"lt_digits has no split {split!r}; it has {', '.join(_SPLITS)}.")
    config = LTDigitsConfig() if config is None else config
    source = load_digits()
    code = _SPLITS.index(split)
    pools = _source_pools(source.target, config.seed)[code]
    glyphs = source.images / 16.0
    if split == "train":
        counts = tuple(config.train_counts)
        images = max(max(counts), round(sum(counts) / _LABELS_PER_IMAGE))
    else:
        images = config.validation_images if split == "validation" else config.test_images
        counts = (round(images * _LABELS_PER_IMAGE / len(LABEL_NAMES)),) * len(LABEL_NAMES)
    for index, labels in enumerate(_draw_labels(_generator(config.seed, code), counts, images)):
        image_id = f"{split}-{index:04d}"
        if image_ids is None or image_id in image_ids:
            pixels, boxes = _draw_scene(_generator(config.seed, code, 1 + index), labels, pools, glyphs)
            yield Scene(image_id, labels, pixels, boxes)


def _generator(*key: int) -> np.random.Generator:
    # A key and the same with zeros behind it give one stream: image 0 therefore has the key 1.
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(key)))


# Only Generator.random is used, here and below: numpy promises the stream of a bit generator, of which random() takes
# 53 bits each, but not the algorithms of permutation, choice or integers.
def _shuffled(rng: np.random.Generator, values: np.ndarray) -> np.ndarray:
    return values[np.argsort(rng.random(len(values)), kind="stable")]


def _between(rng: np.random.Generator, low: float, high: float) -> float:
    return low + (high - low) * rng.random()


def _below(rng: np.random.Generator, count: int) -> int:
    return int(rng.random() * count)


def _source_pools(targets: np.ndarray, seed: int) -> list[list[np.ndarray]]:
    """Return the source digits of each split and class; every digit belongs to one split."""
    rng = _generator(seed, len(_SPLITS))
    pools: list[list[np.ndarray]] = [[] for _ in _SPLITS]
    for digit in range(len(LABEL_NAMES)):
        members = _shuffled(rng, np.flatnonzero(targets == digit))
        first = round(len(members) * _POOL_SHARES[0])
        second = first + round(len(members) * _POOL_SHARES[1])
        for pool, part in zip(pools, np.split(members, [first, second]), strict=True):
            pool.append(part)
    return pools


def _draw_labels(rng: np.random.Generator, counts: Sequence[int], images: int) -> list[list[int]]:
    """Give `images` images 1 to `MAX_LABELS` labels so that class c is on exactly `counts[c]` of them."""
    if not max(counts) <= images <= sum(counts) <= MAX_LABELS * images:
        raise ValueError(
            f"{images} images cannot have class counts {tuple(counts)} with 1 to {MAX_LABELS} labels each; choose "
            "counts of which none is above 5/8 of their sum."
        )
    labels = _shuffled(rng, np.repeat(np.arange(len(counts)), counts))
    # One label each, so that none is empty; the rest go to random images, the most frequent class first while there is
    # the most room. Rare classes so share their images mostly with frequent ones, as in photographs.
    rows = [[int(label)] for label in labels[:images]]
    rest = np.bincount(labels[images:], minlength=len(counts))
    for label in np.argsort(-rest, kind="stable"):
        open_rows = np.array([i for i, row in enumerate(rows) if label not in row and len(row) < MAX_LABELS], dtype=int)
        if len(open_rows) < rest[label]:
            raise ValueError(f"class counts {tuple(counts)} leave no room for class {label}; choose a flatter profile.")
        for index in _shuffled(rng, open_rows)[: rest[label]]:
            rows[index].append(int(label))
    return [sorted(row) for row in rows]


def _draw_scene(
    rng: np.random.Generator, labels: Sequence[int], pools: list[np.ndarray], glyphs: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the pixels of a scene, `(96, 96, 3)` uint8, and the boxes of its digits, `(n, 4)`."""
    canvas, ground = _background(rng)
    for _ in range(_below(rng, 3)):
        _paint(canvas, _stroke(rng), _tint(rng, ground), _between(rng, 0.3, 0.8))
    for _ in range(_below(rng, 3)):
        pool = pools[_below(rng, len(pools))]
        fragment = _fragment(rng, glyphs[pool[_below(rng, len(pool))]])
        size = _between(rng, 16, 26)
        left, top = _between(rng, 0, CANVAS - size), _between(rng, 0, CANVAS - size)
        window, mask = _glyph_mask(rng, fragment, size, left, top)
        _paint(canvas[window], mask, _tint(rng, ground), _between(rng, 0.5, 0.9))
    placed: list[tuple[float, float, float]] = []
    boxes = []
    for label in labels:
        pool = pools[label]
        glyph = glyphs[pool[_below(rng, len(pool))]]
        size = _between(rng, 32, 54)
        left, top = _free_place(rng, size, placed)
        placed.append((left, top, size))
        window, mask = _glyph_mask(rng, glyph, size, left, top)
        _paint(canvas[window], mask, _tint(rng, ground), _between(rng, 0.6, 1.0))
        boxes.append(_extent(window, mask))
    canvas += (rng.random((CANVAS, CANVAS, 1)) - 0.5) * _between(rng, 8, 32)
    return np.floor(np.clip(canvas, 0, 255) + 0.5).clip(0, 255).astype(np.uint8), np.array(boxes, dtype=np.float64)


def _extent(window: tuple[slice, slice], mask: np.ndarray) -> tuple[int, int, int, int]:
    """Return the box of the ink in a window: x0, y0, x1, y1."""
    top, left = window[0].start, window[1].start
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return (left + columns[0], top + rows[0], left + columns[-1] + 1, top + rows[-1] + 1)


def _background(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return a ground of two colours mixed by smooth noise, and its mean colour."""
    base = 10 + 90 * rng.random(3)
    other = base + 60 * (rng.random(3) - 0.5)
    mix = np.zeros((CANVAS, CANVAS))
    for cells, weight in ((3, 0.6), (12, 0.4)):
        grid = rng.random((cells + 1, cells + 1))
        at = np.arange(CANVAS) * (cells / CANVAS)
        mix += weight * _bilinear(grid, at[None, :], at[:, None])
    return base + (other - base) * mix[..., None], (base + other) / 2


def _tint(rng: np.random.Generator, ground: np.ndarray) -> np.ndarray:
    """Return a colour that is brighter than the ground, in every channel a little and on the whole clearly."""
    light = ground + (245 - ground) * (0.15 + 0.85 * rng.random(3))
    return light + (245 - light) * max(0.0, 0.5 - 0.5 * rng.random())


def _paint(canvas: np.ndarray, mask: np.ndarray, colour: np.ndarray, strength: float) -> None:
    canvas += (mask * strength)[..., None] * (colour - canvas)


def _stroke(rng: np.random.Generator) -> np.ndarray:
    """Return the mask of a straight line of random ends and width."""
    x0, y0, x1, y1 = (_between(rng, 0, CANVAS) for _ in range(4))
    width = _between(rng, 0.8, 2.0)
    x, y = np.arange(CANVAS)[None, :] - x0, np.arange(CANVAS)[:, None] - y0
    dx, dy = x1 - x0, y1 - y0
    along = np.clip((x * dx + y * dy) / (dx * dx + dy * dy + 1e-9), 0, 1)
    across_x, across_y = x - along * dx, y - along * dy
    return np.clip(width + 0.5 - np.sqrt(across_x * across_x + across_y * across_y), 0, 1)


def _fragment(rng: np.random.Generator, glyph: np.ndarray) -> np.ndarray:
    """Return three or four of a digit's eight rows or columns, at one of its sides."""
    keep = 3 + _below(rng, 2)
    side = _below(rng, 4)
    fragment = np.zeros_like(glyph)
    part = (slice(None, keep), slice(-keep, None))[side % 2]
    where = (part, slice(None)) if side < 2 else (slice(None), part)
    fragment[where] = glyph[where]
    return fragment


def _glyph_mask(
    rng: np.random.Generator, glyph: np.ndarray, size: float, left: float, top: float
) -> tuple[tuple[slice, slice], np.ndarray]:
    """Draw an 8 x 8 digit `size` pixels high, tilted and stretched a little; return the window and its mask."""
    # tan(angle / 2) gives cosine and sine without a library call, whose last bit may differ from machine to machine.
    half = _between(rng, -0.13, 0.13)  # about 15 degrees
    cosine, sine = (1 - half * half) / (1 + half * half), 2 * half / (1 + half * half)
    stretch = _between(rng, 0.85, 1.15)
    margin = 0.3 * size  # beyond it even a tilted and stretched digit has no ink
    columns = slice(max(0, int(left - margin)), min(CANVAS, int(left + size + margin) + 1))
    rows = slice(max(0, int(top - margin)), min(CANVAS, int(top + size + margin) + 1))
    x = (np.arange(columns.start, columns.stop)[None, :] + 0.5 - left - size / 2) / size
    y = (np.arange(rows.start, rows.stop)[:, None] + 0.5 - top - size / 2) / size
    column = (cosine * x + sine * y) * stretch * 8 + 3.5
    row = (cosine * y - sine * x) * 8 + 3.5
    padded = np.zeros((10, 10))
    padded[1:9, 1:9] = glyph
    value = _bilinear(padded, np.clip(column + 1, 0, 9), np.clip(row + 1, 0, 9))
    # Steeper edges than interpolation of 8 x 8 pixels has.
    return (rows, columns), np.clip((value - 0.25) * 2.5, 0, 1)


def _bilinear(grid: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Interpolate the grid at columns `x` and rows `y`, which broadcast and lie inside it."""
    column = np.minimum(np.floor(x).astype(int), grid.shape[1] - 2)
    row = np.minimum(np.floor(y).astype(int), grid.shape[0] - 2)
    right, down = x - column, y - row
    upper = grid[row, column] * (1 - right) + grid[row, column + 1] * right
    lower = grid[row + 1, column] * (1 - right) + grid[row + 1, column + 1] * right
    return upper * (1 - down) + lower * down


def _free_place(
    rng: np.random.Generator, size: float, placed: Sequence[tuple[float, float, float]]
) -> tuple[float, float]:
    """Return a place whose overlap with the digits placed so far is small, or the best of thirty."""
    best, best_overlap = (0.0, 0.0), float("inf")
    for _ in range(30):
        left, top = _between(rng, -2, CANVAS - size + 2), _between(rng, -2, CANVAS - size + 2)
        overlap = 0.0
        for other_left, other_top, other_size in placed:
            width = min(left + size, other_left + other_size) - max(left, other_left)
            height = min(top + size, other_top + other_size) - max(top, other_top)
            shared = max(width, 0.0) * max(height, 0.0)
            overlap = max(overlap, shared / min(size, other_size) ** 2)
        if overlap < best_overlap:
            best, best_overlap = (left, top), overlap
        if overlap <= 0.1:
            break
    return best


__all__ = ["CANVAS", "LABEL_NAMES", "TRAIN_COUNTS", "LTDigits", "LTDigitsConfig", "Scene", "draw_scenes"]
