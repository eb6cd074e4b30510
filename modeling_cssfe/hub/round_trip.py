# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""Does a model folder work for somebody who has only the folder? Tried before anything is published."""

import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image


CHILD = Path(__file__).parent / "files" / "round_trip_child.py"
# Credentials and settings of the Hub and of Python stay here: the child needs none of them.
KEPT_FROM_THE_CHILD = ("PYTHON", "HF_", "HUGGING", "TRANSFORMERS_")


class RoundTripError(RuntimeError):
    """A model folder does not give what the model gives; the message is one line."""


def check_round_trip(
    folder: str | os.PathLike, model: torch.nn.Module, processor: Any, *, timeout: float = 900.0
) -> None:
    """Load a copy of a model folder in a fresh process without this package, and compare.

    The copy is loaded with `trust_remote_code=True`, by the code that lies beside the weights, with no network. A fixed
    random image must give the same pixels and logits to the last bit, and the stock pipeline every label with its
    sigmoid score.

    Args:
        folder: What is to be published.
        model: The model that it must be equal to, on the CPU.
        processor: Its image processor.
        timeout: Seconds that the fresh process may take.

    Raises:
        RoundTripError: The folder cannot be loaded, or gives something else.
    """
    with tempfile.TemporaryDirectory(prefix="cssfe-round-trip-") as temporary:
        work = Path(temporary)
        shutil.copytree(folder, work / "model")
        pixels = np.random.default_rng(0).integers(0, 256, (75, 100, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(work / "image.png")
        _run_child(work, timeout)
        _compare(work, model, processor)


def _run_child(work: Path, timeout: float) -> None:
    environment = {key: value for key, value in os.environ.items() if not key.startswith(KEPT_FROM_THE_CHILD)}
    environment |= {"HF_HOME": str(work / "home"), "HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    try:
        done = subprocess.run(
            [sys.executable, "-I", str(CHILD), str(work / "model"), str(work)],
            cwd=work, env=environment, capture_output=True, text=True, timeout=timeout, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        raise RoundTripError(f"the model folder did not load within {timeout:g} s in a fresh process.") from error
    if done.returncode:
        lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        reason = lines[-1] if lines else f"exit code {done.returncode}"
        raise RoundTripError(f"the model folder cannot be used without this package: {reason[:500]}")


def _compare(work: Path, model: torch.nn.Module, processor: Any) -> None:
    from safetensors.torch import load_file

    found = load_file(work / "outputs.safetensors")
    scores = json.loads((work / "scores.json").read_text(encoding="utf-8"))
    threads, training = torch.get_num_threads(), model.training
    torch.set_num_threads(1)  # as in the child: sums in another order differ in the last bits
    model.eval()
    try:
        image = Image.open(work / "image.png").convert("RGB")
        dtype = next(model.parameters()).dtype
        pixels = processor(image, return_tensors="pt")["pixel_values"].to(dtype)
        with torch.no_grad():
            logits = model(pixels).logits
    finally:
        torch.set_num_threads(threads)
        model.train(training)
    for name, expected in (("pixel_values", pixels), ("logits", logits)):
        if found[name].shape != expected.shape or not torch.equal(found[name], expected):
            raise RoundTripError(f"the {name} of the loaded copy are not those of the model.")
    names: list[str] = model.config.label_names  # type: ignore[union-attr, assignment]
    wanted = dict(zip(names, logits[0].float().sigmoid().tolist(), strict=True))
    given = {entry["label"]: entry["score"] for entry in scores}
    tolerance = 1e-5 if logits.dtype == torch.float32 else 1e-2
    if given.keys() != wanted.keys() or not all(
        math.isclose(given[name], wanted[name], abs_tol=tolerance) for name in names
    ):
        raise RoundTripError("the image-classification pipeline does not give the model's labels and sigmoid scores.")


__all__ = ["RoundTripError", "check_round_trip"]
