# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
import shutil
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from model.helpers import small_model
from PIL import Image


@dataclass(frozen=True)
class Exported:
    """A saved model, its graph, and what `export_onnx` made of it."""

    folder: Path
    model: Any
    traced: Any
    result: Any


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory):
    """A net3 of five classes for images of 64 x 96 pixels, with thresholds and calibration."""
    folder = tmp_path_factory.mktemp("model") / "small"
    model = small_model(
        label_names=["aeroplane", "bicycle", "bird", "boat", "kürbis"],
        thresholds=[0.1, 0.9, 0.5, 0.6, 0.4],
        calibration={"head": {"temperature": 2.0, "bias": -1.0}, "tail": {"temperature": 0.5}},
    )
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def exported(model_folder):
    from modeling_cssfe import CSSFEForImageClassification
    from modeling_cssfe.export import export_onnx, torch_export

    honest, kept = torch_export.trace_model, []

    def trace_model(*arguments):
        kept.append(honest(*arguments))
        return kept[0]

    model = CSSFEForImageClassification.from_pretrained(model_folder).eval()
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(torch_export, "trace_model", trace_model)
        result = export_onnx(model_folder)
    return Exported(model_folder, model, kept[0], result)


@pytest.fixture(scope="session")
def same_graph(exported):
    """A context in which exports of that model take the graphs that are there, whose making takes ten seconds."""
    from modeling_cssfe.export import onnx, torch_export

    @contextmanager
    def context():
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(torch_export, "trace_model", lambda model, image_size: exported.traced)
            patched.setattr(onnx, "_write_graph", lambda traced, path, opset: shutil.copy(exported.result.path, path))
            yield

    return context


@pytest.fixture(scope="session")
def image_files(tmp_path_factory):
    """A smooth JPEG, a tall PNG with transparency, and a grey PNG smaller than the model's images."""
    folder = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[:150, :220]
    smooth = np.stack([rows, columns, rows + columns], axis=-1) * 0.6 + rng.normal(0, 12, (150, 220, 3))
    Image.fromarray(smooth.clip(0, 255).astype(np.uint8)).save(folder / "smooth.jpg")
    Image.fromarray(rng.integers(0, 256, (301, 77, 4), dtype=np.uint8)).save(folder / "alpha.png")
    Image.fromarray(rng.integers(0, 256, (21, 33), dtype=np.uint8)).save(folder / "grey.png")
    return [folder / name for name in ("smooth.jpg", "alpha.png", "grey.png")]


@pytest.fixture(scope="session")
def photographs():
    """The first 32 photographs of the validation split, as encoded bytes."""
    parquet = pytest.importorskip("pyarrow.parquet")
    file = Path(__file__).parents[3] / "shared" / "data" / "voc07_lt" / "validation.parquet"
    if not file.is_file():
        pytest.skip("../shared/data/voc07_lt is not here")
    rows = next(parquet.ParquetFile(file).iter_batches(batch_size=32, columns=["image"]))
    return [row["bytes"] for row in rows.column("image").to_pylist()]
