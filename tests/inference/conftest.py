# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
import numpy as np
import pytest
import torch
from model.helpers import small_model
from PIL import Image
from planted_models import PlantedModel, ZeroProcessor

from modeling_cssfe import CSSFEConfig, CSSFEImageProcessor


NAMES = ["cat", "a, dog", "cow", 'the "hen"', "image"]
CALIBRATION = {"head": {"temperature": 1.7, "bias": 0.4}, "tail": {"temperature": 0.6, "bias": -0.8}}


@pytest.fixture(scope="session")
def small_run(tmp_path_factory):
    """A net3 of random weights with thresholds and a calibration, and its processor, in a folder."""
    folder = tmp_path_factory.mktemp("small_run")
    # Thresholds amid the scores, and maps large enough for different images to get different ones.
    model = small_model(label_names=NAMES, thresholds=[0.8, 0.46, 0.69, 0.295, 0.25], calibration=CALIBRATION)
    with torch.no_grad():
        model.cssfe.class_activation.weight.mul_(30)
    model.save_pretrained(folder)
    CSSFEImageProcessor.from_model_config(model.config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def photographs(tmp_path_factory):
    """Thirty files of several sizes and formats in two folders, one of them turned by its EXIF data."""
    folder = tmp_path_factory.mktemp("photographs")
    (folder / "b").mkdir()
    rng = np.random.default_rng(7)
    for number in range(30):
        width, height = rng.integers(40, 120, 2)
        coarse = Image.fromarray(rng.integers(0, 256, (5, 6, 3), dtype=np.uint8))
        ending = ("png", "jpg", "webp")[number % 3]
        place = folder / ("b" if number % 4 == 0 else "") / f"{number:02d}.{ending}"
        exif = Image.Exif()
        exif[0x0112] = 6 if number == 1 else 1
        coarse.resize((int(width), int(height)), Image.Resampling.BICUBIC).save(place, exif=exif)
    return folder


@pytest.fixture
def broken_file(tmp_path):
    file = tmp_path / "broken.png"
    file.write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    return str(file)


@pytest.fixture
def planted():
    """Builds a predictor's model and processor from logits and maps."""

    def build(logits, maps, **settings):
        names = [f"label {number}" for number in range(len(logits))]
        config = CSSFEConfig(label_names=names, class_counts=[150] * len(names), **settings)
        return PlantedModel(config, torch.tensor(logits), torch.as_tensor(maps, dtype=torch.float32)), ZeroProcessor()

    return build
