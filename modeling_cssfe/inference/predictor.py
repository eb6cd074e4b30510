# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""Any number of image files to scores, batch by batch, with what cannot be read named and left behind."""

import contextlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils.data import Dataset, default_collate
from tqdm.auto import tqdm

from ..common.model_loading import load_trained_model
from ..configuration_cssfe import CSSFEConfig
from ..data import ImageDecodingError, decode_image
from ..data.decoding import MAX_PIXELS
from ..data.loading import WatchedDataLoader
from .boxes import OTSU, Box, check_box_threshold, find_box, map_evidence
from .views import Views, build_views


PRECISIONS = ("no", "bf16", "fp16")


@dataclass(frozen=True)
class PredictedBatch:
    """What is known of some images.

    Attributes:
        images: Their files, as they were given.
        errors: For each, why it cannot be read, or `None`.
        sizes: `(N, 2)` int32, width and height of the upright image in pixels; 0 where it cannot be read.
        scores: `(N, C)` fp32 sigmoid probabilities, as of the stock pipeline; NaN where it cannot be read.
        probabilities: `(N, C)` fp64 calibrated probabilities; `None` for a model without calibration.
        boxes: For each, label -> box of the labels above their threshold (`None` for a map without evidence); `None`
            where boxes were not asked for.
    """

    images: list[str]
    errors: list[str | None]
    sizes: np.ndarray
    scores: np.ndarray
    probabilities: np.ndarray | None
    boxes: list[dict[str, Box | None]] | None


class Predictor:
    """A model with all that is needed to classify files.

    Args:
        model: A CSSFE model; put into evaluation mode and moved to the device.
        processor: Its image processor.
        batch_size: Images a step. With `tta`, all views of an image come on top.
        num_workers: Processes that read and resize images; 0 does it in this one.
        device: Such as `"cuda"` or `"cpu"`; by default the GPU if there is one.
        tta: Test-time augmentations, see `modeling_cssfe.inference.views`.
        boxes: Whether to box labels above their threshold, see `modeling_cssfe.inference.boxes`; on the whole image,
            whatever `tta` adds.
        box_threshold: `"otsu"`, or a share of a map's peak in (0, 1).
        max_pixels: Largest image accepted, width x height.
        mixed_precision: `"no"`, `"bf16"` or `"fp16"` (not on a CPU) for autocast; scores are fp32 all the same.

    Raises:
        ValueError: An option is out of range, or the model does not take the sizes of `multi_scale`.
    """

    def __init__(
        self,
        model: Any,
        processor: Any,
        *,
        batch_size: int = 32,
        num_workers: int = 0,
        device: str | torch.device | None = None,
        tta: Sequence[str] = (),
        boxes: bool = False,
        box_threshold: str | float = OTSU,
        max_pixels: int = MAX_PIXELS,
        mixed_precision: str = "no",
    ):
        check_options(batch_size, num_workers, max_pixels, mixed_precision)
        self.device = resolve_device(device)
        if mixed_precision == "fp16" and self.device.type == "cpu":
            raise ValueError("mixed_precision 'fp16' needs a GPU; choose bf16 or no on a CPU.")
        self.box_threshold = check_box_threshold(box_threshold) if boxes else None
        self.model = model.eval().to(self.device)
        self.config: CSSFEConfig = model.config
        self.views: Views = build_views(tta, model, processor)
        self.batch_size = batch_size
        self.num_workers = num_workers
        self.max_pixels = max_pixels
        self.mixed_precision = mixed_precision
        self.label_names = self.config.label_names
        self.thresholds = np.array(self.config.thresholds or [0.5] * len(self.label_names))

    @classmethod
    def from_pretrained(cls, path: str | os.PathLike, **options: Any) -> "Predictor":
        """The predictor of a folder or Hub repository.

        Args:
            path: Of a trained model.
            **options: As of the class.

        Raises:
            ValueError: There is no model, or an option is out of range.
        """
        return cls(*load_trained_model(path), **options)

    def stream(self, images: Sequence[str], progress: bool = False, done: int = 0) -> Iterator[PredictedBatch]:
        """Classify files, a batch at a time.

        Memory holds the batches under way (one, and two for each worker), however many files there are.

        Args:
            images: Files.
            progress: Show a progress bar.
            done: Files that went before, for the progress bar.

        Yields:
            Batches in the order of the files, unreadable ones included.

        Raises:
            DataLoadingError: A worker process has died.
            RuntimeError: The model's logits are not finite.
        """
        loader = WatchedDataLoader(
            _Files(images, self.views, self.max_pixels),
            batch_size=self.batch_size,
            num_workers=self.num_workers,
            collate_fn=_collate,
            pin_memory=self.device.type == "cuda",
        )
        with tqdm(total=done + len(images), initial=done, desc="predicting", unit="image", disable=not progress) as bar:
            # One batch behind: a GPU computes the next one while the results of the last are put in order.
            waiting: tuple[_Batch, _Computed | None] | None = None
            for batch in loader:
                launched = (batch, self._launch(batch))
                if waiting is not None:
                    yield self._finish(*waiting)
                    bar.update(len(waiting[0].images))
                waiting = launched
            if waiting is not None:
                yield self._finish(*waiting)
                bar.update(len(waiting[0].images))

    @torch.inference_mode()
    def _launch(self, batch: "_Batch") -> "_Computed | None":
        if not batch.views:
            return None
        logits, maps = [], None
        for views in batch.views:
            # (images, views, 3, height, width) -> (images * views, 3, height, width)
            pixels = views.flatten(0, 1).to(self.device, non_blocking=True)
            for mirrored in (False, True) if self.views.flip else (False,):
                with self._autocast():
                    output = self.model(pixel_values=pixels.flip(-1) if mirrored else pixels)
                logits.append(output.logits.float().unflatten(0, views.shape[:2]))
                if maps is None and self.box_threshold is not None:
                    own, enhanced = output.class_activation_maps, output.enhanced_activation_maps
                    # The first view, the whole image: what follows it are crops.
                    maps = (own if enhanced is None else enhanced)[:: views.shape[1]]
        return _fetch(torch.cat(logits, dim=1), maps)

    def _autocast(self) -> contextlib.AbstractContextManager:
        if self.mixed_precision == "no":
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, torch.bfloat16 if self.mixed_precision == "bf16" else torch.float16)

    def _finish(self, batch: "_Batch", computed: "_Computed | None") -> PredictedBatch:
        count, classes = len(batch.images), len(self.label_names)
        whole = [row for row, error in enumerate(batch.errors) if error is None]
        scores = np.full((count, classes), np.nan, dtype=np.float32)
        probabilities = np.full((count, classes), np.nan) if self.config.calibration is not None else None
        boxes: list[dict[str, Box | None]] | None = (
            [{} for _ in range(count)] if self.box_threshold is not None else None
        )
        if computed is not None:
            if computed.arrived is not None:
                computed.arrived.synchronize()
            logits = computed.logits.numpy()
            broken = ~np.isfinite(logits).all(axis=(1, 2))
            if broken.any():
                image = batch.images[whole[int(broken.argmax())]]
                raise RuntimeError(
                    f"the model's logits for {image!r} are not finite: its weights are damaged, or mixed_precision "
                    f"{self.mixed_precision!r} is too narrow for it; choose no or bf16."
                )
            # The stock pipeline's own formula in fp32, so that the scores are its to the last bit.
            with np.errstate(over="ignore"):
                scores[whole] = (1 / (1 + np.exp(-logits))).mean(axis=1)
            if probabilities is not None:
                probabilities[whole] = _calibrate(computed.logits.double(), self.config.class_calibration)
            if boxes is not None and computed.maps is not None:
                for row, maps in zip(whole, computed.maps, strict=True):
                    boxes[row] = self._find_boxes(maps, scores[row], batch.sizes[row])
        return PredictedBatch(batch.images, batch.errors, batch.sizes, scores, probabilities, boxes)

    def _find_boxes(self, maps: torch.Tensor, scores: np.ndarray, size: np.ndarray) -> dict[str, Box | None]:
        found = {}
        for index in np.flatnonzero(scores >= self.thresholds):
            evidence = map_evidence(maps[index], self.config)
            width, height = size.tolist()
            found[self.label_names[index]] = find_box(evidence, (width, height), self.box_threshold or OTSU)
        return found


def check_options(batch_size: int, num_workers: int, max_pixels: int, mixed_precision: str) -> None:
    """Check what needs no model.

    Raises:
        ValueError: An option is out of range.
    """
    for name, value, least in (
        ("batch_size", batch_size, 1),
        ("num_workers", num_workers, 0),
        ("max_pixels", max_pixels, 1),
    ):
        if value < least:
            raise ValueError(f"{name} is {value}; give a number >= {least}.")
    if mixed_precision not in PRECISIONS:
        raise ValueError(f"unknown mixed_precision {mixed_precision!r}; choose one of {', '.join(PRECISIONS)}.")


def resolve_device(device: str | torch.device | None) -> torch.device:
    """The device of a name, tried; the GPU if there is one for `None`.

    Raises:
        ValueError: There is no such device.
    """
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.zeros(1, device=device)
        return torch.device(device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(
            f"cannot compute on the device {str(device)!r} ({reason}); choose cpu, or leave it out."
        ) from error


class _Computed(NamedTuple):
    """On the CPU, or on its way there until `arrived`."""

    logits: torch.Tensor  # (images, views, C)
    maps: torch.Tensor | None  # (images, C, H, W)
    arrived: torch.cuda.Event | None


class _Item(NamedTuple):
    image: str
    error: str | None
    size: tuple[int, int]
    views: list[torch.Tensor]


class _Batch(NamedTuple):
    images: list[str]
    errors: list[str | None]
    sizes: np.ndarray
    views: list[torch.Tensor]  # a tensor (images, views, 3, height, width) for each size, of readable images


def _calibrate(logits: torch.Tensor, calibration: Any) -> np.ndarray:
    """Calibrated probabilities (images, C) of fp64 logits (images, views, C).

    From the logit itself where there is one view: a confident one has a score that is rounded to 1.
    """
    own = logits[:, 0] if logits.shape[1] == 1 else logits.sigmoid().mean(dim=1).logit(eps=1e-15)
    temperature, bias = torch.tensor(calibration, dtype=torch.float64).T
    return (own / temperature + bias).sigmoid().numpy()


def _fetch(logits: torch.Tensor, maps: torch.Tensor | None) -> _Computed:
    """Begin to copy results to the CPU."""
    if logits.device.type != "cuda":
        return _Computed(logits.cpu(), None if maps is None else maps.cpu(), None)
    # A copy that is asked for later would stand in the queue behind the next batch's forward pass.
    copies = [None if tensor is None else tensor.to("cpu", non_blocking=True) for tensor in (logits, maps)]
    arrived = torch.cuda.Event()
    arrived.record(torch.cuda.current_stream(logits.device))
    return _Computed(copies[0], copies[1], arrived)  # type: ignore[arg-type]


class _Files(Dataset):
    """Decodes a file and makes its views."""

    def __init__(self, images: Sequence[str], views: Views, max_pixels: int):
        self.images = images
        self.views = views
        self.max_pixels = max_pixels

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> _Item:
        name = self.images[index]
        try:
            image = decode_image(name, max_pixels=self.max_pixels)
        except ImageDecodingError as error:
            return _Item(name, str(error), (0, 0), [])
        return _Item(name, None, image.size, self.views(image))


def _collate(items: Sequence[_Item]) -> _Batch:
    sizes = np.array([item.size for item in items], dtype=np.int32)
    whole = [item.views for item in items if item.error is None]
    # `default_collate` stacks right into the memory that a worker shares with the main process.
    views = [default_collate(list(of_one_size)) for of_one_size in zip(*whole, strict=True)]
    return _Batch([item.image for item in items], [item.error for item in items], sizes, views)


__all__ = ["PRECISIONS", "PredictedBatch", "Predictor", "check_options", "resolve_device"]
