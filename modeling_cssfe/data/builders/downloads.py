# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""The parts that a benchmark's images come in: unpacked below a user's folder, as archives there, or downloaded."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from ..readers.records import folder_inside
from .archives import FileTree, FolderTree, open_archive


if TYPE_CHECKING:
    import datasets


class Part(NamedTuple):
    """One official archive.

    Attributes:
        prefix: Beginning of the names of all files in it.
        folders: Where its content may lie unpacked below a user's folder, in the order in which they are tried.
        archive: The archive's file name.
        urls: Official address first, then mirrors.
        md5: Publicly known MD5 of the archive. It guards against damage, not against malice.
    """

    prefix: str
    folders: tuple[str, ...]
    archive: str
    urls: tuple[str, ...]
    md5: str


def file_digest(file: Path, algorithm: str = "sha256") -> str:
    """Return the hexadecimal digest of a file, with a progress bar if it is large."""
    from tqdm import tqdm

    digest, size = hashlib.new(algorithm), file.stat().st_size
    with (
        file.open("rb") as content,
        tqdm(total=size, unit="B", unit_scale=True, desc=f"checking {file.name}", disable=size < 1 << 28) as bar,
    ):
        while block := content.read(1 << 22):
            digest.update(block)
            bar.update(len(block))
    return digest.hexdigest()


def check_digest(file: Path, name: str, expected: str, algorithm: str, mend: str) -> None:
    """Compare a file's digest.

    Raises:
        ValueError: It is another; the message names both.
    """
    found = file_digest(file, algorithm)
    if found != expected:
        raise ValueError(f"{name} ({file}) has the {algorithm} {found}, expected {expected}; {mend}")


def download(dl_manager: "datasets.DownloadManager", urls: Sequence[str], mend: str) -> Path:
    """Fetch a file from the first of its addresses that answers, into the cache of `datasets`.

    Raises:
        ConnectionError: None does; the message names the first address and the mend.
    """
    import datasets

    reasons = []
    for url in urls:
        try:
            return Path(dl_manager.download(url))
        except (OSError, datasets.exceptions.DatasetsError) as error:
            reasons.append(" ".join(str(error).split())[:200] or type(error).__name__)
    raise ConnectionError(f"cannot download {urls[0]} ({reasons[0]}); {mend}")


def check_download(file: Path, name: str, expected: str, algorithm: str, mend: str) -> None:
    """Compare a downloaded file's digest, and remove the file from the cache if it is wrong.

    Otherwise the next attempt would find it there and fail in the same way, however often it is made.

    Raises:
        ValueError: As for `check_digest`.
    """
    try:
        check_digest(file, name, expected, algorithm, mend)
    except ValueError:
        file.unlink(missing_ok=True)
        raise


def open_part(
    part: Part,
    root: Path | None,
    dl_manager: "datasets.DownloadManager",
    *,
    root_option: str,
    probe: str | None = None,
    verify: bool = True,
) -> tuple[FileTree, str]:
    """Open one part of a benchmark.

    Args:
        part: The part.
        root: The user's folder, resolved, or None to download.
        dl_manager: Of the builder that asks.
        root_option: Name of the option that gives `root`, for errors.
        probe: Name of a file that the part must have. An unpacked folder without it (VOC2007 of which only trainval was
            unpacked) gives way to the archive, if that lies there.
        verify: Whether archives must have the known MD5.

    Returns:
        The files, and in words where they come from.

    Raises:
        FileNotFoundError: The folder has neither form of the part.
        ValueError: The archive is damaged or another one.
        ConnectionError: It cannot be downloaded.
    """
    if root is None:
        file = download(
            dl_manager, part.urls, f"download {part.archive} by other means and name its folder with {root_option}=...."
        )
    else:
        unpacked = [root / name for name in part.folders if (root / name).is_dir()]
        trees = [FolderTree(folder_inside(root, folder), part.prefix) for folder in unpacked]
        complete = [tree for tree in trees if probe is None or probe in tree]
        file = root / part.archive
        if complete or (trees and not file.is_file()):
            chosen = (complete or trees)[0]
            return chosen, f"the unpacked folder {chosen.folder.relative_to(root)}"
        if not file.is_file():
            raise FileNotFoundError(
                f"{root} has neither a folder {' nor '.join(part.folders)} nor the file {part.archive}; download "
                f"{part.urls[0]} into it."
            )
    if verify:
        mend = "download it again, or pass verify_archives=False if it is meant to differ."
        (check_download if root is None else check_digest)(file, part.archive, part.md5, "md5", mend)
    return open_archive(file), f"{part.archive} (MD5 {part.md5})" if verify else part.archive


__all__ = ["Part", "check_digest", "check_download", "download", "file_digest", "open_part"]
