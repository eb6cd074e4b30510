# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""Feature maps of a frozen backbone, computed once and kept on disk, so that a head trains in seconds.

A view is one way of looking at every image of a split: `plain` as in evaluation, `flip` its mirror image, and `crop0`,
`crop1`, ... random crops, flipped and recoloured as the recipe says. Views stand in for augmentation: an epoch shows
one view of each image. There is one safetensors file a split and view. Its name carries a hash of all that its maps
depend on (images, weights, architecture, size, view, precision); its header says the same in words, with a checksum.
"""

import contextlib
import hashlib
import json
import logging
import os
import shutil
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import torch
from safetensors import safe_open

from ..backbone_cssfe import CSSFEBackbone
from ..configuration_cssfe import CSSFEConfig
from ..data import EvaluationTransform, build_data_loader, build_train_transform
from ..data.decoding import read_encoded
from ..data.transforms import ImageTransform
from ..image_processing_cssfe import CSSFEImageProcessor


if TYPE_CHECKING:
    import datasets

logger = logging.getLogger(__name__)

FEATURE_PRECISIONS = {"bf16": torch.bfloat16, "fp32": torch.float32}
_FORMAT = 1
_NAMES = {"bf16": "BF16", "fp32": "F32"}  # safetensors' own
_NO_CHECKSUM = "0" * 8
_ROOM_LEFT = 1 << 26  # 64 MiB that a cache leaves free on the disk
_ROWS = 256  # images whose files are hashed at a time


@dataclass(frozen=True)
class FeatureViews:
    """The views of a training split.

    Crops are the same for every seed of a run, so that a grid of seeds shares one cache; the seed chooses which view an
    epoch shows.

    Args:
        number: How many, >= 1, in the order plain, flip, crops.
        crop_scale: As for `build_train_transform`.
        horizontal_flip: Probability in crops; without it (0) there is no view `flip` either.
        augmentation: Policy in crops, as for `build_train_transform`.
        random_erasing: Probability in crops.
    """

    number: int = 6
    crop_scale: tuple[float, float] = (0.5, 1.0)
    horizontal_flip: float = 0.5
    augmentation: str = "none"
    random_erasing: float = 0.0

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the views."""
        first = ("plain", "flip") if self.horizontal_flip else ("plain",)
        return (*first, *(f"crop{number}" for number in range(self.number - len(first))))[: self.number]

    def transform(self, name: str, processor: CSSFEImageProcessor) -> ImageTransform:
        """Return what brings an image to a view."""
        from torchvision.transforms import v2

        plain = EvaluationTransform(processor)
        if not name.startswith("crop"):
            return plain if name == "plain" else v2.Compose([v2.RandomHorizontalFlip(1.0), plain])
        return build_train_transform(
            [processor.size["height"], processor.size["width"]],
            processor.image_mean,
            processor.image_std,
            augmentation=self.augmentation,
            crop_scale=self.crop_scale,
            horizontal_flip=self.horizontal_flip,
            random_erasing=self.random_erasing,
        )

    def settings(self, name: str) -> dict[str, Any]:
        """Return what a view's maps depend on, as plain values."""
        if not name.startswith("crop"):
            return {"name": name}
        return {
            "name": name,
            "crop_scale": [float(share) for share in self.crop_scale],
            "horizontal_flip": self.horizontal_flip,
            "augmentation": self.augmentation,
            "random_erasing": self.random_erasing,
        }


class FeatureCache:
    """A folder of cached feature maps of one backbone.

    Args:
        folder: Where the files lie; made if needed. Several backbones, sizes and data sets may share it.
        backbone: Frozen, with its weights; it is put into evaluation mode and moved to the device.
        config: The model's configuration, which says how the backbone is built and images are normalised.
        precision: `"bf16"` or `"fp32"`, of the maps on disk.
        device: Where the backbone runs.
        autocast: Makes the context in which it runs; `None` for the precision of its weights.
        computed_in: A word for that context, such as `"bf16"`; maps of another one are not used.
        batch_size: Images a step.
        num_workers: Loader processes.
        progress: Show progress bars.

    Raises:
        ValueError: Unknown precision.
    """

    def __init__(
        self,
        folder: str | os.PathLike,
        backbone: CSSFEBackbone,
        config: CSSFEConfig,
        *,
        precision: str = "bf16",
        device: torch.device | str = "cpu",
        autocast: Callable[[], contextlib.AbstractContextManager] | None = None,
        computed_in: str = "no",
        batch_size: int = 32,
        num_workers: int = 0,
        progress: bool = False,
    ):
        if precision not in FEATURE_PRECISIONS:
            raise ValueError(f"unknown precision {precision!r}; choose one of {', '.join(FEATURE_PRECISIONS)}.")
        self.folder = Path(folder)
        self.backbone = backbone
        self.processor = CSSFEImageProcessor.from_model_config(config)
        self.precision = precision
        self.device = torch.device(device)
        self.autocast = autocast or contextlib.nullcontext
        self.batch_size = batch_size
        self.num_workers = num_workers
        self.progress = progress
        self._backbone_settings = {
            "backbone": config.backbone,
            "backbone_kwargs": config.backbone_kwargs or {},
            "stride_in_first_convolution": config.stride_in_first_convolution,
            "weights": _hash_weights(backbone),
            "image_size": list(config.image_height_and_width),
            "image_mean": list(config.image_mean),
            "image_std": list(config.image_std),
            "computed_in": computed_in,
            "precision": precision,
        }

    def maps(self, dataset: "datasets.Dataset", split: str, views: FeatureViews) -> dict[str, torch.Tensor]:
        """Open the maps of a split, computing what is not there or not whole.

        Args:
            dataset: The split, as `load_images` gives it.
            split: Its name, for files and messages.
            views: Which views.

        Returns:
            For each view `(N, D, H, W)` maps, mapped from the file rather than read into memory.

        Raises:
            ValueError: The disk has not enough room.
            OSError: The folder cannot be written.
        """
        from filelock import FileLock

        images = {"images": _hash_images(dataset), "num_images": len(dataset)}
        opened = {}
        self.folder.mkdir(parents=True, exist_ok=True)
        for name in views.names:
            parts = {"format": _FORMAT, **images, **self._backbone_settings, "view": views.settings(name)}
            key = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]
            file = self.folder / f"{split}-{name}-{key}.safetensors"
            with FileLock(file.with_name(f".{file.name}.lock")):  # of several processes one computes
                maps = self._open(file, parts)
                if maps is None:
                    self._say_what_differs(f"{split}-{name}", parts)
                    number = int(name[4:]) if name.startswith("crop") else 0
                    transform = views.transform(name, self.processor)
                    self._write(file, parts, self._compute(dataset, transform, number, f"{split} {name}"))
                    maps = self._open(file, parts)
                    if maps is None:
                        raise ValueError(f"the feature maps {file} changed while they were written; run again.")
            opened[name] = maps
        return opened

    def _open(self, file: Path, parts: dict[str, Any]) -> torch.Tensor | None:
        """Open a file that is there and whole; name and remove one that is not."""
        if not file.is_file():
            return None
        try:
            with safe_open(file, "pt") as opened:
                metadata, maps = opened.metadata() or {}, opened.get_tensor("maps")
            if json.loads(metadata.get("parts", "null")) != parts:
                raise ValueError("its header is of other maps")
            if maps.dtype != FEATURE_PRECISIONS[self.precision] or len(maps) != parts["num_images"]:
                raise ValueError("its tensor is of another shape or precision than its header says")
            if _checksum(maps) != metadata.get("crc32"):
                raise ValueError("its maps do not have their checksum")
        except Exception as error:  # safetensors raises its own untyped error
            logger.warning(
                "The cached feature maps %s are not whole (%s). They are computed again now.",
                file,
                " ".join(str(error).split()),
            )
            file.unlink()
            return None
        return maps

    def _say_what_differs(self, label: str, parts: dict[str, Any]) -> None:
        for other in sorted(self.folder.glob(f"{label}-*.safetensors")):
            try:
                with safe_open(other, "pt") as opened:
                    theirs = json.loads((opened.metadata() or {})["parts"])
            except Exception:
                continue  # not ours to judge
            differing = [key for key in parts if theirs.get(key) != parts[key]]
            logger.warning(
                "The cached feature maps %s are of other %s and are not used; remove them if they are stale.",
                other,
                ", ".join(differing),
            )

    @torch.no_grad()
    def _compute(
        self, dataset: "datasets.Dataset", transform: ImageTransform, number: int, title: str
    ) -> Iterator[torch.Tensor]:
        from tqdm.auto import tqdm

        loader: Any = build_data_loader(
            dataset,
            transform,
            batch_size=self.batch_size,
            num_workers=self.num_workers,
            pin_memory=self.device.type == "cuda",
        )
        loader.sampler.set_epoch(number)  # crops of their own for each view
        self.backbone.eval().to(self.device)
        for batch in tqdm(loader, desc=title, leave=False, disable=not self.progress):
            pixels = batch["pixel_values"].to(self.device, non_blocking=True)
            with self.autocast():
                maps = self.backbone(pixels.contiguous(memory_format=torch.channels_last))
            yield maps.to(FEATURE_PRECISIONS[self.precision]).cpu().contiguous()

    def _write(self, file: Path, parts: dict[str, Any], batches: Iterator[torch.Tensor]) -> None:
        """Write batch by batch, so that the maps of a split need not fit into memory."""
        # Nobody else writes this name under the lock: a file that has it was left by a killed process.
        temporary = file.with_name(f".saving-{file.name}")
        try:
            with temporary.open("wb") as opened:
                self._write_batches(opened, parts, batches)
                opened.flush()
                os.fsync(opened.fileno())
            os.replace(temporary, file)
        finally:
            temporary.unlink(missing_ok=True)

    def _write_batches(self, opened: BinaryIO, parts: dict[str, Any], batches: Iterator[torch.Tensor]) -> None:
        checksum, header = 0, b""
        for batch in batches:
            if not header:
                shape = (parts["num_images"], *batch.shape[1:])
                header = self._header(shape, parts, _NO_CHECKSUM)
                opened.write(header)
            block = memoryview(batch.view(torch.uint8).numpy()).cast("B")
            checksum = zlib.crc32(block, checksum)
            opened.write(block)
        opened.seek(0)
        opened.write(self._header(shape, parts, f"{checksum:08x}"))

    def _header(self, shape: tuple[int, ...], parts: dict[str, Any], checksum: str) -> bytes:
        """The start of a safetensors file: length of the description, then the description in JSON."""
        num_bytes = torch.Size(shape).numel() * FEATURE_PRECISIONS[self.precision].itemsize
        free = shutil.disk_usage(self.folder).free
        if checksum == _NO_CHECKSUM and num_bytes + _ROOM_LEFT > free:
            raise ValueError(
                f"feature maps of these {shape[0]:,} images take {num_bytes / 2**30:.2f} GiB a view, but {self.folder} "
                f"has {free / 2**30:.2f} GiB free; choose another cache_features folder or fewer feature_views."
            )
        description = {
            "__metadata__": {"parts": json.dumps(parts, sort_keys=True), "crc32": checksum},
            "maps": {"dtype": _NAMES[self.precision], "shape": list(shape), "data_offsets": [0, num_bytes]},
        }
        text = json.dumps(description).encode()
        text += b" " * (-len(text) % 64)  # maps begin at a multiple of 8 bytes
        return len(text).to_bytes(8, "little") + text


def _checksum(maps: torch.Tensor) -> str:
    return f"{zlib.crc32(memoryview(maps.reshape(-1).view(torch.uint8).numpy())):08x}"


def _hash_weights(backbone: torch.nn.Module) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(backbone.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def _hash_images(dataset: "datasets.Dataset") -> str:
    """Hash the encoded images in their order; labels and ids do not matter to maps."""
    digest = hashlib.sha256()
    rows = dataset.select_columns(["image"]).with_format("arrow")
    for start in range(0, len(dataset), _ROWS):
        for cell in rows[start : start + _ROWS]["image"].to_pylist():
            digest.update(hashlib.sha256(read_encoded(cell)).digest())
    return digest.hexdigest()


__all__ = ["FEATURE_PRECISIONS", "FeatureCache", "FeatureViews"]
