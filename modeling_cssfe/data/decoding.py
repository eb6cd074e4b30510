# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""Image files to 8-bit RGB, the same way in training, evaluation and prediction.

Decisions, each tested:

| in the file | becomes |
|---|---|
| EXIF orientation | applied, so that pixels stand as a viewer shows them |
| alpha channel, or a transparent palette entry or colour | laid over white, as a page or a print would show it |
| CMYK, YCbCr, Lab, palette, greyscale, 1 bit | converted to RGB; colour profiles are not applied |
| 16-bit greyscale | its upper 8 bits, as PNG readers reduce 16-bit colour |
| 32-bit integer or floating-point pixels | refused: their range is not in the file, so any scaling would be a guess |
| several frames (GIF, APNG, animated WebP, multi-page TIFF) | the first frame |
| more than `max_pixels` pixels | refused before the pixels are decompressed |
| empty, truncated, not an image, a format outside `IMAGE_FORMATS` | refused |
"""

import io
import logging
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageOps


if TYPE_CHECKING:
    import datasets

logger = logging.getLogger(__name__)

# Raster formats that need no helper program. Pillow would hand PostScript to Ghostscript, which images from strangers
# must not reach.
IMAGE_FORMATS = ("JPEG", "PNG", "WEBP", "AVIF", "GIF", "BMP", "TIFF", "JPEG2000", "PPM")

# Pillow's own threshold for a likely decompression bomb (a quarter of a gigabyte as RGB). It stops by itself at twice
# that number, so a larger limit also needs `PIL.Image.MAX_IMAGE_PIXELS` raised.
MAX_PIXELS = 89_478_485

_ORIENTATION_TAG = 0x0112
_CHUNK = 64  # images read at a time by verify_images


class ImageDecodingError(ValueError):
    """An image that cannot be decoded; the message is one line and names the image.

    A data loader's worker process sends an exception back as its traceback text. The error then keeps its own one line
    as the message and the rest in `worker_traceback`.
    """

    def __init__(self, message: str):
        self.worker_traceback: str | None = None
        marker = f"{type(self).__name__}: "
        if "\n" in message and marker in message:
            self.worker_traceback = message
            message = message.rsplit(marker, 1)[1].strip()
        super().__init__(message)


@dataclass(frozen=True)
class ImageVerification:
    """What `verify_images` found.

    Attributes:
        num_checked: Images decoded.
        broken: `(index, image id, reason)` of each image that cannot be decoded, in the order of the data set.
    """

    num_checked: int
    broken: tuple[tuple[int, str, str], ...]


def decode_image(
    image: bytes | str | os.PathLike | Mapping[str, Any] | Image.Image,
    *,
    image_id: str | None = None,
    max_pixels: int = MAX_PIXELS,
) -> Image.Image:
    """Decode one image to 8-bit RGB; the module's table says how unusual files are treated.

    Args:
        image: Encoded bytes, a path, the `{"bytes": ..., "path": ...}` of an undecoded `datasets.Image`, or a Pillow
            image, which is converted by the same rules.
        image_id: Names the image in errors; by default its path.
        max_pixels: Largest width x height accepted.

    Returns:
        A Pillow image of mode `RGB`, loaded, holding no file open.

    Raises:
        ImageDecodingError: The image cannot be decoded, is too large, or has pixels without a known range.
    """
    source: Any = image
    if isinstance(image, Mapping):
        source = image.get("bytes")
        if source is None:
            source = image.get("path")
    path = image.get("path") if isinstance(image, Mapping) else image if isinstance(image, str | os.PathLike) else None
    name = _describe(image_id, path)
    if source is None:
        raise ImageDecodingError(f"{name} has neither bytes nor a path; give it one of the two.")
    if isinstance(source, Image.Image):
        return _to_rgb(_upright(source), name)
    if isinstance(source, bytes | bytearray | memoryview):
        if len(source) == 0:
            raise ImageDecodingError(f"{name} is empty (0 bytes); replace or remove it.")
        source = io.BytesIO(source)
    try:
        # Pillow raises a dozen kinds of exception on malformed files, down to KeyError and struct.error.
        with Image.open(source, formats=_known_formats()) as opened:
            width, height = opened.size
            if width * height > max_pixels:
                raise ImageDecodingError(
                    f"{name} has {width} x {height} pixels, more than the limit of {max_pixels:,}; shrink it, or raise "
                    "max_pixels if you trust its source."
                )
            opened.load()
            return _to_rgb(_upright(opened), name)
    except (ImageDecodingError, MemoryError):
        raise
    except FileNotFoundError:
        raise ImageDecodingError(f"{name} does not exist; restore the file or remove it from the data set.") from None
    except IsADirectoryError:
        raise ImageDecodingError(f"{name} is a folder; pass the path of an image file.") from None
    except Exception as error:
        if isinstance(source, str | os.PathLike) and os.path.isfile(source) and os.path.getsize(source) == 0:
            raise ImageDecodingError(f"{name} is empty (0 bytes); replace or remove it.") from error
        raise ImageDecodingError(f"{name} cannot be decoded ({_reason(error)}); replace or remove it.") from error


def verify_images(
    dataset: "datasets.Dataset",
    *,
    on_error: str = "raise",
    max_pixels: int = MAX_PIXELS,
    num_threads: int = 1,
    progress: bool = True,
) -> tuple["datasets.Dataset", ImageVerification]:
    """Decode every image of a data set once, so that training does not stop at a broken one hours later.

    Args:
        dataset: With the columns `image_id` and `image` as `load_images` gives them.
        on_error: `"raise"` raises one error that counts and names the broken images; `"skip"` leaves them out, and
            says so in a warning.
        max_pixels: As in `decode_image`.
        num_threads: Images decoded at a time; Pillow decodes outside Python's global lock.
        progress: Show a progress bar.

    Returns:
        The data set without its broken images, and the list of them.

    Raises:
        ImageDecodingError: With `on_error="raise"`, if an image cannot be decoded; with `"skip"`, if none can.
        ValueError: `on_error` is neither of the two.
    """
    from tqdm.auto import tqdm

    if on_error not in ("raise", "skip"):
        raise ValueError(f"on_error must be 'raise' or 'skip', got {on_error!r}.")

    def check(start: int) -> list[tuple[int, str, str]]:
        rows = dataset[start : start + _CHUNK]
        found = []
        for offset, (image_id, image) in enumerate(zip(rows["image_id"], rows["image"], strict=True)):
            try:
                decode_image(image, image_id=image_id, max_pixels=max_pixels)
            except ImageDecodingError as error:
                found.append((start + offset, image_id, str(error)))
        return found

    broken: tuple[tuple[int, str, str], ...] = ()
    pool = ThreadPoolExecutor(max(1, num_threads))
    try:
        with tqdm(total=len(dataset), desc="Checking images", unit="image", disable=not progress) as bar:
            for start, found in zip(
                range(0, len(dataset), _CHUNK), pool.map(check, range(0, len(dataset), _CHUNK)), strict=True
            ):
                broken += tuple(found)
                bar.update(min(_CHUNK, len(dataset) - start))
    finally:
        pool.shutdown(cancel_futures=True)
    report = ImageVerification(len(dataset), broken)
    if not broken:
        return dataset, report
    names = ", ".join(repr(image_id) for _, image_id, _ in broken[:5]) + (", ..." if len(broken) > 5 else "")
    summary = f"{len(broken):,} of {len(dataset):,} images cannot be decoded: {names}"
    if on_error == "raise":
        raise ImageDecodingError(f"{summary}; the first: {broken[0][2]} Or leave them all out with on_error='skip'.")
    if len(broken) == len(dataset):
        raise ImageDecodingError(f"none of the {len(dataset):,} images can be decoded; the first: {broken[0][2]}")
    logger.warning("%s; they are left out.", summary)
    left_out = {index for index, _, _ in broken}
    return dataset.select([index for index in range(len(dataset)) if index not in left_out]), report


def _known_formats() -> list[str]:
    # A Pillow built without some codec does not know its name and would fail on it with a KeyError.
    if not set(IMAGE_FORMATS) <= Image.OPEN.keys():
        Image.init()
    return [name for name in IMAGE_FORMATS if name in Image.OPEN]


def _upright(image: Image.Image) -> Image.Image:
    try:
        orientation = image.getexif().get(_ORIENTATION_TAG, 1)
        return image if orientation == 1 else ImageOps.exif_transpose(image)
    except Exception:
        # Damaged metadata say nothing of the pixels, which were read in full: the image stays as it is stored.
        return image


def _to_rgb(image: Image.Image, name: str) -> Image.Image:
    if image.mode == "RGB" and "transparency" not in image.info:
        return image.copy() if image.readonly else image  # a read-only one is a map of the file
    # Pillow opens 16-bit PPM, and in older versions 16-bit PNG, as 32-bit integers.
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM")):
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
    if image.mode == "I":
        raise ImageDecodingError(f"{name} has 32-bit integer pixels; store it with 8 or 16 bits.")
    if image.mode == "F":
        raise ImageDecodingError(f"{name} has floating-point pixels; store it with 8 or 16 bits.")
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        page = Image.new("RGBA", layer.size, (255, 255, 255, 255))
        return Image.alpha_composite(page, layer).convert("RGB")
    return image.convert("RGB")


def _describe(image_id: str | None, path: Any) -> str:
    if image_id is not None and path is not None:
        return f"image {image_id!r} ({os.fspath(path)})"
    if image_id is not None or path is not None:
        return f"image {(image_id if image_id is not None else os.fspath(path))!r}"
    return "an image without id or path"


def _reason(error: Exception) -> str:
    if isinstance(error, Image.DecompressionBombError):
        return "more pixels than Pillow's own limit, PIL.Image.MAX_IMAGE_PIXELS x 2"
    if isinstance(error, Image.UnidentifiedImageError):
        return f"not an image in one of the formats {', '.join(IMAGE_FORMATS)}"
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


__all__ = ["IMAGE_FORMATS", "MAX_PIXELS", "ImageDecodingError", "ImageVerification", "decode_image", "verify_images"]
