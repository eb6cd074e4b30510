# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""Small image sets in the formats that the package reads."""

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image


@pytest.fixture
def write_image() -> Callable[..., Path]:
    """Write a small image whose pixels follow from the seed, and return its path."""

    def write(path: Path, seed: int = 0, size: tuple[int, int] = (12, 10)) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path)
        return path

    return write


@pytest.fixture
def image_bytes() -> Callable[..., bytes]:
    """Encode a small image whose pixels follow from the seed."""

    def encode(seed: int = 0, size: tuple[int, int] = (12, 10), image_format: str = "PNG") -> bytes:
        pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, image_format)
        return buffer.getvalue()

    return encode


@pytest.fixture(scope="session")
def voc07_lt() -> Path:
    """The real photographs beside the repository, where they are."""
    folder = Path(__file__).parents[3] / "shared" / "data" / "voc07_lt"
    if not (folder / "train.parquet").is_file():
        pytest.skip("../shared/data/voc07_lt is not here")
    return folder
