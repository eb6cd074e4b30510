# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""The snippet of a model card, and running it as its readers will: in a fresh process without this package."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image

from ..configuration_cssfe import CSSFEConfig
from .round_trip import KEPT_FROM_THE_CHILD, RoundTripError


EXAMPLE_IMAGE = "photograph.jpg"


def build_snippet(config: CSSFEConfig, model_id: str = ".") -> str:
    """Python that classifies `photograph.jpg`, with the thresholds if the model has some.

    Args:
        config: The model's configuration.
        model_id: Repository, or folder.
    """
    if config.thresholds is None:
        use = [
            f'for answer in classify("{EXAMPLE_IMAGE}", top_k=5):  # probabilities, which do not add up to one',
            "    print(f\"{answer['score']:.3f}  {answer['label']}\")",
        ]
    else:
        use = [
            f'answers = classify("{EXAMPLE_IMAGE}", top_k={config.num_labels})'
            "  # probabilities, which do not add up to one",
            "config = classify.model.config",
            "thresholds = dict(zip(config.label_names, config.thresholds))",
            "for answer in answers[:5]:",
            '    decision = "yes" if answer["score"] >= thresholds[answer["label"]] else "no"',
            "    print(f\"{answer['score']:.3f}  {answer['label']}: {decision}\")",
        ]
    load = f'classify = pipeline("image-classification", model={json.dumps(model_id)}, trust_remote_code=True)'
    return "\n".join(["from transformers import pipeline", "", load, *use])


def run_snippet(folder: str | os.PathLike, config: CSSFEConfig, image: Path, *, timeout: float = 600.0) -> str:
    """Run the snippet of a model's card on an image.

    Args:
        folder: The model's folder.
        config: Its configuration.
        image: JPEG file that stands for the photograph.
        timeout: Seconds that it may take.

    Returns:
        What it printed.

    Raises:
        RoundTripError: The snippet fails.
    """
    with tempfile.TemporaryDirectory(prefix="cssfe-card-") as temporary:
        work = Path(temporary)
        with Image.open(image) as opened:
            opened.verify()
        (work / EXAMPLE_IMAGE).write_bytes(Path(image).read_bytes())
        kept = {key: value for key, value in os.environ.items() if not key.startswith(KEPT_FROM_THE_CHILD)}
        offline = {"HF_HOME": str(work / "home"), "HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
        code = build_snippet(config, str(Path(folder).resolve()))
        try:
            done = subprocess.run(
                [sys.executable, "-I", "-c", code],
                cwd=work, env=kept | offline, capture_output=True, text=True, timeout=timeout, check=False,
            )  # fmt: skip
        except subprocess.TimeoutExpired as error:
            raise RoundTripError(f"the card's snippet did not end within {timeout:g} s.") from error
    if done.returncode:
        lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        raise RoundTripError(f"the card's snippet fails: {lines[-1][:500] if lines else done.returncode}")
    return done.stdout.strip()


__all__ = ["EXAMPLE_IMAGE", "build_snippet", "run_snippet"]
