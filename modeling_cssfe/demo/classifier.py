# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""A model that many threads ask at once: one forward pass at a time, of all images that wait for it."""

import io
import os
import threading
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.nn import functional as F

from ..common.model_loading import load_trained_model
from ..data.decoding import decode_image, known_formats
from ..explain import LabelMaps


MAX_TOGETHER = 8  # images of one forward pass


@dataclass(frozen=True)
class Reading:
    """What the model says about one photograph.

    Args:
        logits: `(classes,)` fp32.
        before: `(classes, h, w)` class activation maps at the model's own size, fp32.
        after: The same after enhancement; `None` for net0 and net1, which do not enhance.
    """

    logits: torch.Tensor
    before: torch.Tensor
    after: torch.Tensor | None

    @property
    def scores(self) -> list[float]:
        """Probability of each label, in [0, 1]."""
        return self.logits.sigmoid().tolist()


@dataclass(eq=False)
class _Job:
    pixels: torch.Tensor
    answer: Reading | Exception | None = None


@dataclass(eq=False)
class _Queue:
    jobs: list[_Job] = field(default_factory=list)
    guard: threading.Lock = field(default_factory=threading.Lock)


class Classifier:
    """Decodes image files and asks the model about them; every method may be called from many threads.

    Whoever comes while a forward pass runs waits for it to end; the first of them then takes all who wait, up to
    `MAX_TOGETHER`, into the next one. So load makes larger batches instead of more passes side by side.

    Args:
        path: Folder or Hub repository of a trained model.
        max_pixels: Largest width x height of an image, checked before its pixels are decompressed.
        max_bytes: Largest image file.

    Attributes:
        model: On a GPU if there is one.
        names: Labels.
        groups: head, medium or tail for each label.
        thresholds: The configuration's, or .5.

    Raises:
        ValueError: There is no CSSFE model, or a limit is not positive.
    """

    def __init__(self, path: str | os.PathLike, max_pixels: int, max_bytes: int):
        for name, limit in (("max_pixels", max_pixels), ("max_bytes", max_bytes)):
            if limit < 1:
                raise ValueError(f"{name} is {limit!r}; give a number >= 1.")
        model, self.processor = load_trained_model(path)
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.model = model.eval().to(self.device)
        self.max_pixels, self.max_bytes = max_pixels, max_bytes
        self.names = list(model.config.label_names)
        self.groups = list(model.config.groups)
        self.thresholds = list(model.config.thresholds or [0.5] * len(self.names))
        self._waiting = _Queue()
        self._model_lock = threading.Lock()

    def decode(self, file: str | os.PathLike, name: str) -> Image.Image:
        """An uploaded file as an RGB image.

        Args:
            file: Where it lies.
            name: What the user calls it, for errors.

        Raises:
            ValueError: It is too large, broken or no image; one line says which.
        """
        size = os.path.getsize(file)
        if size > self.max_bytes:
            raise ValueError(
                f"image {name!r} has {size:,} bytes, more than the limit of {self.max_bytes:,}; shrink it."
            )
        content = Path(file).read_bytes()  # decoded from memory, so that no error shows a path of this machine
        width = height = 0
        with suppress(Exception):  # of any kind where a file is damaged, which decode_image words
            width, height = Image.open(io.BytesIO(content), formats=known_formats()).size
        if width * height > self.max_pixels:
            raise ValueError(
                f"image {name!r} has {width:,} x {height:,} pixels, more than the limit of {self.max_pixels:,}; "
                "shrink it."
            )
        return decode_image(content, image_id=name, max_pixels=self.max_pixels)

    def read(self, image: Image.Image) -> Reading:
        """Logits and maps of one RGB image.

        Raises:
            RuntimeError: The forward pass failed, for this image or for the batch that it was in.
        """
        job = _Job(self.processor(images=image, return_tensors="pt")["pixel_values"])
        with self._waiting.guard:
            self._waiting.jobs.append(job)
        while job.answer is None:
            with self._model_lock:
                if job.answer is not None:
                    break
                with self._waiting.guard:
                    batch = self._waiting.jobs[:MAX_TOGETHER]
                    del self._waiting.jobs[:MAX_TOGETHER]
                self._run(batch)
        if isinstance(job.answer, Exception):
            raise RuntimeError(f"the model failed: {' '.join(str(job.answer).split())}") from job.answer
        return job.answer

    def _run(self, batch: list[_Job]) -> None:
        try:
            pixels = torch.cat([job.pixels for job in batch]).to(self.device, self.model.dtype)
            with torch.inference_mode():
                output = self.model(pixels)
            logits, before = output.logits.float().cpu(), output.class_activation_maps.float().cpu()
            enhanced = output.enhanced_activation_maps
            after = None if enhanced is None else enhanced.float().cpu()
            for row, job in enumerate(batch):
                # Copies: a view would keep the maps of the whole batch in memory.
                job.answer = Reading(
                    logits[row].clone(), before[row].clone(), None if after is None else after[row].clone()
                )
        except Exception as error:  # everybody in the batch waits for an answer
            for job in batch:
                job.answer = error

    def describe(self, reading: Reading) -> list[dict[str, Any]]:
        """All labels of a photograph, highest score first.

        Returns:
            `{"label", "score", "group", "threshold", "above_threshold"}`, with the same scores as the stock
            `image-classification` pipeline; a model with a calibration adds `"probability"`.
        """
        scores = reading.scores
        calibration = self.model.config.class_calibration
        probabilities: list[float] | None = None
        if calibration is not None:
            # From the logits: a confident label's score is rounded to 1.
            temperature, bias = torch.tensor(calibration, dtype=torch.float64).T
            probabilities = (reading.logits.double() / temperature + bias).sigmoid().tolist()
        entries = []
        for index in sorted(range(len(scores)), key=lambda index: -scores[index]):
            entry = {
                "label": self.names[index],
                "score": scores[index],
                "group": self.groups[index],
                "threshold": self.thresholds[index],
                "above_threshold": scores[index] >= self.thresholds[index],
            }
            if probabilities is not None:
                entry["probability"] = probabilities[index]
            entries.append(entry)
        return entries

    def label_maps(self, reading: Reading, index: int, width: int, height: int) -> LabelMaps:
        """Maps of one label, resized to `width` x `height` pixels as `compute_label_maps` does it."""
        after = reading.after
        return LabelMaps(
            label=self.names[index],
            score=reading.scores[index],
            before=_resize(reading.before[index], width, height),
            after=None if after is None else _resize(after[index], width, height),
        )


def _resize(values: torch.Tensor, width: int, height: int) -> np.ndarray:
    # (h, w) -> (height, width)
    return F.interpolate(values[None, None], size=(height, width), mode="bilinear", align_corners=False)[0, 0].numpy()


__all__ = ["MAX_TOGETHER", "Classifier", "Reading"]
