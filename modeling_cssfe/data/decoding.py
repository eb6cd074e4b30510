# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""Image files to 8-bit RGB, the same way in training, evaluation and prediction.

Decisions, each tested:

| in the file | becomes |
|---|---|
| EXIF orientation | applied, so that pixels stand as a viewer shows them; damaged EXIF is ignored |
| alpha channel, or a transparent palette entry or colour | laid over white, as a page or a print would show it |
| CMYK, YCbCr, Lab, palette, greyscale, 1 bit | converted to RGB; colour profiles are not applied |
| 16-bit greyscale or colour | its upper 8 bits |
| 32-bit integer or floating-point pixels | refused: their range is not in the file, so any scaling would be a guess |
| several frames (GIF, APNG, animated WebP, multi-page TIFF) | the first frame |
| more than `max_pixels` pixels | refused before the pixels are decompressed |
| empty, truncated, not an image, a format outside `IMAGE_FORMATS` | refused |
| a missing file, a folder, a cell with neither bytes nor path | refused |

Refused is an `ImageDecodingError` of one line that names the image.

Draft mode, off unless `draft_size` asks for it, lets the JPEG decoder skip detail that a later reduction throws away:

| condition | what is decoded |
|---|---|
| not a JPEG, or less than 2 times `draft_size` in width or height | every pixel, as without draft mode |
| at least s times `draft_size` in both, s = 2, 4 or 8 the largest that holds | (width / s, height / s), rounded up |

The size is that of the upright image: for a photograph that EXIF turns by 90 degrees, width and height are exchanged.
The result is never smaller than `draft_size`. It is sharper than what a filter over all pixels gives: on 100
photographs of 480 x 320 pixels, both then reduced to `draft_size`, the mean absolute difference was 1.5 of 255 at s = 2
and 3.7 at s = 8. So evaluation does not use it.
"""

import io
import logging
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageFile, ImageOps


if TYPE_CHECKING:
    import datasets
    import torch

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


EncodedImage = bytes | bytearray | memoryview | str | os.PathLike | Mapping[str, Any] | Image.Image


def decode_image(
    image: EncodedImage,
    *,
    image_id: str | None = None,
    max_pixels: int = MAX_PIXELS,
    draft_size: Sequence[int] | None = None,
) -> Image.Image:
    """Decode one image to 8-bit RGB; the module's tables say how unusual files and draft mode are treated.

    Args:
        image: Encoded bytes, a path, the `{"bytes": ..., "path": ...}` of an undecoded `datasets.Image`, or a Pillow
            image, which is read if it was only opened, and converted by the same rules.
        image_id: Names the image in errors; by default its path.
        max_pixels: Largest width x height accepted, of the file and not of a draft.
        draft_size: (width, height) in pixels that the caller will reduce the image to; `None` decodes every pixel.

    Returns:
        A Pillow image of mode `RGB`, loaded, holding no file open.

    Raises:
        ImageDecodingError: The image cannot be decoded, is too large, or has pixels without a known range.
        ValueError: `draft_size` is not two numbers >= 1.
    """
    decoded = _decode(image, image_id, max_pixels, check_draft_size(draft_size), as_tensor=False)
    return decoded  # type: ignore[return-value]


def decode_pixels(
    image: EncodedImage,
    *,
    image_id: str | None = None,
    max_pixels: int = MAX_PIXELS,
    draft_size: Sequence[int] | None = None,
) -> "torch.Tensor":
    """Decode one image to a tensor: the pixels of `decode_image`, without the way through a Pillow image.

    Ordinary JPEG files are decoded by torchvision, which spares a copy and, where it and Pillow bring the same libjpeg,
    is equal to the last bit. Everything else, every file that torchvision does not accept, and all files where a later
    torchvision has no JPEG decoder any more (it is deprecated since 0.29), goes the way of `decode_image`.

    Args:
        image: As for `decode_image`.
        image_id: As for `decode_image`.
        max_pixels: As for `decode_image`.
        draft_size: As for `decode_image`.

    Returns:
        `(3, height, width)` uint8.

    Raises:
        ImageDecodingError: As for `decode_image`.
        ValueError: As for `decode_image`.
    """
    from torchvision.transforms.v2.functional import pil_to_tensor

    decoded = _decode(image, image_id, max_pixels, check_draft_size(draft_size), as_tensor=True)
    return pil_to_tensor(decoded) if isinstance(decoded, Image.Image) else decoded


def check_draft_size(draft_size: Sequence[int] | None) -> tuple[int, int] | None:
    """Return (width, height) or `None`.

    Raises:
        ValueError: It is not two numbers >= 1.
    """
    if draft_size is None:
        return None
    if isinstance(draft_size, int) or len(draft_size) != 2 or min(draft_size) < 1:
        raise ValueError(f"draft_size must be (width, height) in pixels, >= 1, or None, got {draft_size!r}.")
    return int(draft_size[0]), int(draft_size[1])


def read_encoded(image: EncodedImage, *, image_id: str | None = None) -> bytes | bytearray | memoryview:
    """Return the bytes of an image file, from a cell or a path.

    Raises:
        ImageDecodingError: There is no such file, or the cell is empty.
        TypeError: A Pillow image, which has no file.
    """
    source, name = _locate(image, image_id)
    if isinstance(source, Image.Image):
        raise TypeError(f"{name} is a decoded Pillow image; pass its encoded bytes or its path.")
    try:
        return _read(source)
    except OSError as error:
        raise _unreadable(error, name, source) from error


def _locate(image: EncodedImage, image_id: str | None) -> tuple[Any, str]:
    """Return the bytes, path or Pillow image, and what errors call it."""
    source: Any = image
    path = None
    if isinstance(image, Mapping):
        source, path = image.get("bytes"), image.get("path")
        source = path if source is None else source
    elif isinstance(image, str | os.PathLike):
        path = image
    name = _describe(image_id, path)
    if source is None:
        raise ImageDecodingError(f"{name} has neither bytes nor a path; give it one of the two.")
    if isinstance(source, bytes | bytearray | memoryview) and len(source) == 0:
        raise ImageDecodingError(f"{name} is empty (0 bytes); replace or remove it.")
    return source, name


def _decode(
    image: EncodedImage, image_id: str | None, max_pixels: int, draft_size: tuple[int, int] | None, as_tensor: bool
) -> "Image.Image | torch.Tensor":
    source, name = _locate(image, image_id)
    try:
        if isinstance(source, Image.Image):
            if isinstance(source, ImageFile.ImageFile):  # opened, and perhaps not read yet
                _refuse_larger(source, name, max_pixels)
                source.load()
            return _to_rgb(_upright(source), name)
        encoded = _read(source) if as_tensor else source
        file = encoded if isinstance(encoded, str | os.PathLike) else io.BytesIO(encoded)
        # Pillow raises a dozen kinds of exception on malformed files, down to KeyError and struct.error.
        with Image.open(file, formats=known_formats()) as opened:
            _refuse_larger(opened, name, max_pixels)
            drafted = draft_size is not None and _draft(opened, draft_size)
            if as_tensor and not drafted and opened.format == "JPEG" and opened.mode == "RGB":
                pixels = _torchvision_jpeg(encoded) if _orientation(opened) == 1 else None
                if pixels is not None:
                    return pixels
            opened.load()
            return _to_rgb(_upright(opened), name)
    except (ImageDecodingError, MemoryError):
        raise
    except Exception as error:
        raise _unreadable(error, name, source) from error


def _refuse_larger(opened: Image.Image, name: str, max_pixels: int) -> None:
    width, height = opened.size
    if width * height > max_pixels:
        raise ImageDecodingError(
            f"{name} has {width} x {height} pixels, more than the limit of {max_pixels:,}; shrink it, or raise "
            "max_pixels if you trust its source."
        )


def _read(source: Any) -> bytes | bytearray | memoryview:
    if isinstance(source, bytes | bytearray | memoryview):
        return source
    with open(source, "rb") as file:
        return file.read()


def _draft(opened: Image.Image, size: tuple[int, int]) -> bool:
    """Let the decoder reduce the image, if it is large enough for that."""
    if opened.format != "JPEG":
        return False
    width, height = size if _orientation(opened) < 5 else size[::-1]  # 5 to 8 exchange rows and columns
    if min(opened.width // width, opened.height // height) < 2:
        return False
    opened.draft(opened.mode, (width, height))
    return True


def _torchvision_jpeg(encoded: bytes | bytearray | memoryview) -> "torch.Tensor | None":
    import torch

    try:
        from torchvision.io import ImageReadMode, decode_jpeg

        return decode_jpeg(torch.frombuffer(bytearray(encoded), dtype=torch.uint8), mode=ImageReadMode.RGB)
    except (ImportError, RuntimeError, DeprecationWarning):
        return None  # no decoder, or a damaged file: Pillow decodes it, or says what is wrong


def _unreadable(error: Exception, name: str, source: Any) -> "ImageDecodingError":
    if isinstance(error, FileNotFoundError):
        return ImageDecodingError(f"{name} does not exist; restore the file or remove it from the data set.")
    if isinstance(error, IsADirectoryError):
        return ImageDecodingError(f"{name} is a folder; pass the path of an image file.")
    if isinstance(source, str | os.PathLike) and os.path.isfile(source) and os.path.getsize(source) == 0:
        return ImageDecodingError(f"{name} is empty (0 bytes); replace or remove it.")
    return ImageDecodingError(f"{name} cannot be decoded ({_reason(error)}); replace or remove it.")


def verify_images(
    dataset: "datasets.Dataset",
    *,
    on_error: str = "raise",
    max_pixels: int = MAX_PIXELS,
    num_threads: int = 1,
    progress: bool = True,
    skip_option: str = "on_error='skip'",
) -> tuple["datasets.Dataset", ImageVerification]:
    """Decode every image of a data set once, so that training does not stop at a broken one hours later.

    Args:
        dataset: With the columns `image_id` and `image` as `load_images` gives them.
        on_error: `"raise"` raises one error that counts and names the broken images; `"skip"` leaves them out, and
            says so in a warning.
        max_pixels: As in `decode_image`.
        num_threads: Images decoded at a time; Pillow decodes outside Python's global lock.
        progress: Show a progress bar.
        skip_option: How the error calls `on_error="skip"`: what the caller's own user sets for it.

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
        raise ImageDecodingError(f"{summary}; the first: {broken[0][2]} Or leave them all out with {skip_option}.")
    if len(broken) == len(dataset):
        raise ImageDecodingError(f"none of the {len(dataset):,} images can be decoded; the first: {broken[0][2]}")
    logger.warning("%s; they are left out.", summary)
    left_out = {index for index, _, _ in broken}
    return dataset.select([index for index in range(len(dataset)) if index not in left_out]), report


def known_formats() -> list[str]:
    """Return those of `IMAGE_FORMATS` that the installed Pillow reads."""
    # A Pillow built without some codec does not know its name and would fail on it with a KeyError.
    if not set(IMAGE_FORMATS) <= Image.OPEN.keys():
        Image.init()
    return [name for name in IMAGE_FORMATS if name in Image.OPEN]


def _orientation(image: Image.Image) -> int:
    try:
        orientation = image.getexif().get(_ORIENTATION_TAG, 1)
    except Exception:
        # Damaged metadata say nothing of the pixels, which are whole: the image stays as it is stored.
        return 1
    return orientation if orientation in range(1, 9) else 1


def _upright(image: Image.Image) -> Image.Image:
    if _orientation(image) == 1:
        return image
    try:
        return ImageOps.exif_transpose(image)
    except Exception:
        return image  # likewise damaged: the tag could be read, but not be removed


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


__all__ = [
    "IMAGE_FORMATS",
    "MAX_PIXELS",
    "EncodedImage",
    "ImageDecodingError",
    "ImageVerification",
    "check_draft_size",
    "decode_image",
    "decode_pixels",
    "known_formats",
    "read_encoded",
    "verify_images",
]
