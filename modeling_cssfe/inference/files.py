# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""Image files from what stands on the command line: files, folders and patterns, never addresses."""

import glob
import os
import re
from collections.abc import Sequence

from ..data.readers.records import IMAGE_SUFFIXES


_ADDRESS = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]*://")


def find_images(paths: Sequence[str | os.PathLike]) -> list[str]:
    """Image files among paths, in an order that is the same each time.

    Args:
        paths: Files, which are taken as they are; folders, which stand for the images in them and below (by their
            ending); and patterns with `*`, `?`, `[...]` or `**`, which stand for the files and folders that fit.

    Returns:
        The files, folders and patterns sorted by their parts. A file that is named twice is there twice.

    Raises:
        FileNotFoundError: A path does not exist.
        OSError: A folder below cannot be read.
        ValueError: A folder without images, a pattern that nothing fits, or an address of the web, which is never
            opened.
    """
    found: list[str] = []
    for path in [os.fspath(path) for path in paths]:
        if _ADDRESS.match(path):
            raise ValueError(f"{path!r} is an address of the web, which is not opened; download it and give the file.")
        if os.path.isdir(path):
            files = _images_below(path)
            if not files:
                raise ValueError(f"folder {path!r} holds no images ({', '.join(sorted(IMAGE_SUFFIXES))}).")
            found += files
        elif os.path.exists(path):
            found.append(path)
        elif glob.has_magic(path):
            found += _fitting(path)
        else:
            raise FileNotFoundError(f"there is no image {path!r}; check the path.")
    return found


def printable(path: str) -> str:
    """The path as text that every encoding of files takes: bytes of a name that are no UTF-8 become `\\xNN`."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def _images_below(folder: str) -> list[str]:
    files: list[str] = []
    seen: set[str] = set()
    for place, folders, names in os.walk(folder, onerror=_raise, followlinks=True):
        seen.add(os.path.realpath(place))
        # A link to a folder that holds it would lead round in circles.
        folders[:] = [name for name in folders if os.path.realpath(os.path.join(place, name)) not in seen]
        files += [os.path.join(place, name) for name in names if os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES]
    return sorted(files, key=_parts)


def _raise(error: OSError) -> None:
    # By default os.walk passes over a folder that it may not read, and its images would be missing without a word.
    raise error


def _fitting(pattern: str) -> list[str]:
    files: list[str] = []
    for path in sorted(glob.iglob(pattern, recursive=True), key=_parts):
        if not os.path.isdir(path):
            files.append(path)
        elif "**" not in pattern:  # where `**` has named the files in the folder already
            files += _images_below(path)
    if not files:
        raise ValueError(f"no image fits the pattern {pattern!r}; check it, and that the shell passes it on as it is.")
    return files


def _parts(path: str) -> list[str]:
    return path.split(os.sep)


__all__ = ["find_images", "printable"]
