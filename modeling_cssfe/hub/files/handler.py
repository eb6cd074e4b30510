# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""Handler of Hugging Face Inference Endpoints for a CSSFE model. It lies beside the weights and needs no package.

Request, as JSON or as the bytes of one image file:

| key | value |
|---|---|
| `inputs` | an image, or a list of up to `MAX_IMAGES`: base64 text of the file, a data URI, bytes, or a Pillow image |
| `parameters.top_k` | labels given for each image, >= 1; by default all |
| `parameters.thresholds` | a probability for all labels, a list with one a label, or `{label: probability}` |

Where no threshold is given, the model's own decides, or .5 if it has none.

The answer for one image is a list of `{"label", "score", "above_threshold"}`, highest score first, and for a list of
images a list of such lists. Scores are sigmoid probabilities, the same as those of the stock pipeline. A calibrated
model adds `"probability"`.

Addresses are not opened: a server that fetches what strangers name can be sent to its own network.
"""

import base64
import binascii
from pathlib import Path
from typing import Any

import torch
from image_decoding import ImageDecodingError, decode_image  # the endpoint puts this folder on the path
from PIL import Image
from transformers import AutoImageProcessor, AutoModelForImageClassification


MAX_IMAGES = 32
MAX_BYTES = 20_000_000  # of one image file
MAX_PIXELS = 50_000_000  # of one image
BATCH_SIZE = 8
PARAMETERS = ("top_k", "thresholds")


class EndpointHandler:
    """Answers requests with the labels of images; see the module for their form.

    Args:
        path: Folder of the model; by default the one in which this file lies.
    """

    def __init__(self, path: str = ""):
        folder = path or str(Path(__file__).resolve().parent)
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        model = AutoModelForImageClassification.from_pretrained(folder, trust_remote_code=True)
        self.model = model.eval().to(self.device)
        self.processor = AutoImageProcessor.from_pretrained(folder, trust_remote_code=True)
        self.names = self.model.config.label_names

    def __call__(self, data: dict[str, Any]) -> list:
        """Classify the images of one request.

        Args:
            data: `{"inputs": ..., "parameters": {...}}`.

        Returns:
            See the module.

        Raises:
            ValueError: Something about the request is wrong; one line says what.
        """
        if not isinstance(data, dict) or data.get("inputs") is None:
            raise ValueError("the request has no 'inputs'; send {'inputs': base64 text of an image file}.")
        top_k, limits = self._parameters(data.get("parameters") or {})
        inputs = data["inputs"]
        several = isinstance(inputs, list | tuple)
        if several and not 1 <= len(inputs) <= MAX_IMAGES:
            raise ValueError(f"'inputs' holds {len(inputs)} images; send 1 to {MAX_IMAGES} a request.")
        images = [_decode(item, f"image {n}") for n, item in enumerate(inputs if several else [inputs], start=1)]
        answers: list[list[dict[str, Any]]] = []
        for start in range(0, len(images), BATCH_SIZE):
            answers += self._classify(images[start : start + BATCH_SIZE], top_k, limits)
        return answers if several else answers[0]

    def _classify(self, images: list[Image.Image], top_k: int, limits: list[float]) -> list[list[dict[str, Any]]]:
        pixels = self.processor(images, return_tensors="pt")["pixel_values"]
        with torch.inference_mode():
            logits = self.model(pixels.to(self.device, self.model.dtype)).logits.float().cpu()
        scores = logits.sigmoid()
        pairs = self.model.config.class_calibration
        probabilities = None
        if pairs is not None:
            temperature, bias = torch.tensor(pairs, dtype=torch.float64).T
            probabilities = (logits.double() / temperature + bias).sigmoid()
        answers = []
        for row, values in enumerate(scores.tolist()):
            order = sorted(range(len(values)), key=lambda index: -values[index])[:top_k]
            entries = [
                {"label": self.names[n], "score": values[n], "above_threshold": values[n] >= limits[n]} for n in order
            ]
            if probabilities is not None:
                entries = [
                    entry | {"probability": probabilities[row, n].item()}
                    for entry, n in zip(entries, order, strict=True)
                ]
            answers.append(entries)
        return answers

    def _parameters(self, parameters: dict[str, Any]) -> tuple[int, list[float]]:
        if not isinstance(parameters, dict):
            raise ValueError(f"'parameters' must be an object with {' and '.join(PARAMETERS)}.")
        unknown = sorted(set(parameters) - set(PARAMETERS))
        if unknown:
            raise ValueError(f"unknown parameter {unknown[0]!r}; there are {' and '.join(PARAMETERS)}.")
        top_k = parameters.get("top_k")
        if top_k is not None and (not isinstance(top_k, int) or isinstance(top_k, bool) or top_k < 1):
            raise ValueError(f"'top_k' is {top_k!r}; send a whole number >= 1, or leave it out for all labels.")
        limits = list(self.model.config.thresholds or [0.5] * len(self.names))
        wanted = parameters.get("thresholds")
        if isinstance(wanted, dict):
            strange = sorted(set(wanted) - set(self.names))
            if strange:
                raise ValueError(f"'thresholds' names {strange[0]!r}, which is no label of this model.")
            limits = [wanted.get(name, limit) for name, limit in zip(self.names, limits, strict=True)]
        elif isinstance(wanted, list):
            limits = wanted
        elif wanted is not None:
            limits = [wanted] * len(self.names)
        if len(limits) != len(self.names):
            raise ValueError(f"'thresholds' has {len(limits)} entries for {len(self.names)} labels: send one a label.")
        for limit in limits:
            if isinstance(limit, bool) or not isinstance(limit, int | float) or not 0 <= limit <= 1:
                raise ValueError(f"'thresholds' holds {limit!r}; send probabilities from 0 to 1.")
        return top_k or len(self.names), limits


def _decode(item: Any, name: str) -> Image.Image:
    if isinstance(item, Image.Image):
        if item.width * item.height > MAX_PIXELS:
            raise ValueError(f"{name} has {item.width} x {item.height} pixels; the limit is {MAX_PIXELS:,}.")
        try:
            item.load()  # Pillow reads a file's pixels when they are asked for, and finds then that it is damaged
        except Exception as error:
            reason = " ".join(str(error).split())
            raise ValueError(f"{name} cannot be decoded ({type(error).__name__}: {reason}); send it again.") from error
    else:
        item = _file_of(item, name)
    try:
        return decode_image(item, image_id=name, max_pixels=MAX_PIXELS)
    except ImageDecodingError as error:
        raise ValueError(str(error)) from error


def _file_of(item: Any, name: str) -> bytes:
    if isinstance(item, str):
        if item.startswith("data:"):
            item = item.partition(",")[2]
        elif "://" in item[:32]:
            raise ValueError(f"{name} is an address, which is not opened; send the file itself as base64 text.")
        if len(item) > MAX_BYTES * 4 // 3 + 4:
            raise ValueError(f"{name} is larger than {MAX_BYTES // 10**6} MB; shrink it.")
        try:
            item = base64.b64decode("".join(item.split()), validate=True)
        except (binascii.Error, ValueError) as error:
            raise ValueError(f"{name} is no base64 text of an image file.") from error
    if not isinstance(item, bytes | bytearray):
        raise ValueError(f"{name} is a {type(item).__name__}; send base64 text, bytes or a Pillow image.")
    if len(item) > MAX_BYTES:
        raise ValueError(f"{name} is larger than {MAX_BYTES // 10**6} MB; shrink it.")
    return bytes(item)
