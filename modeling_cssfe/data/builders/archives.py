# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""Files by name, whether they lie in a folder, in a tar or zip file, or spread over several of these.

Archives are read where they are and never unpacked, so a name in one cannot make a file anywhere. An archive that tries
is refused as a whole all the same, because nothing else in it can be trusted: names that are absolute or climb out with
`..`, links of either kind, devices, pipes, and two files of one name. Truncated archives are found when they are opened
(tar: the closing block of zeros is missing; zip: the directory at the end is), damaged zip members when they are read.
"""

import os
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Protocol

from ..readers.records import path_inside


# The largest file that is wanted out of an archive is COCO's instances_train2017.json, 0.45 GB.
MAX_MEMBER_BYTES = 1 << 30
_TAR_BLOCK = 512


class FileTree(Protocol):
    """Files by relative names with `/`."""

    def __contains__(self, name: str) -> bool:
        """Whether there is a file of that name."""

    def read(self, name: str) -> bytes:
        """Return a file's content.

        Raises:
            FileNotFoundError: There is no such file.
            ValueError: The name leads out of the tree, or the file is damaged.
        """


class FolderTree:
    """The files below a folder.

    Args:
        folder: The folder; links in it may not lead out of it.
        prefix: Beginning that names have and paths below the folder lack, such as `"VOCdevkit/VOC2012/"`.
    """

    def __init__(self, folder: Path, prefix: str = ""):
        self.folder = folder.resolve()
        self.prefix = prefix

    def __contains__(self, name: str) -> bool:
        return name.startswith(self.prefix) and self._path(name).is_file()

    def read(self, name: str) -> bytes:
        """Return a file's content; see `FileTree.read`."""
        if name not in self:
            raise FileNotFoundError(f"{self.folder} has no file {name.removeprefix(self.prefix)!r}; add it.")
        return self._path(name).read_bytes()

    def _path(self, name: str) -> Path:
        return path_inside(self.folder, name.removeprefix(self.prefix), str(self.folder))


class ArchiveTree:
    """The files of a tar (not compressed) or zip file.

    The archive stays open; use it in a `with` statement, or call `close`.

    Args:
        file: The archive.

    Raises:
        ValueError: It is no such archive, truncated, encrypted, or holds something that it must not; see the module.
    """

    def __init__(self, file: Path):
        self.file = file
        self._members: dict[str, tarfile.TarInfo | zipfile.ZipInfo] = {}
        self._archive = _open_zip(file) if zipfile.is_zipfile(file) else _open_tar(file)
        try:
            # Only `_archive`'s own kind of member comes from it.
            found = (
                _zip_files(self._archive)
                if isinstance(self._archive, zipfile.ZipFile)
                else _tar_files(self._archive, file)
            )
            for name, member in found:
                name = _safe_name(name, file)
                if name in self._members:
                    raise ValueError(f"{file} holds two files named {name!r}; download it again.")
                self._members[name] = member
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> "ArchiveTree":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._archive.close()

    def __contains__(self, name: str) -> bool:
        return name in self._members

    def __iter__(self) -> Iterator[str]:
        return iter(self._members)

    def read(self, name: str) -> bytes:
        """Return a file's content; see `FileTree.read`."""
        if name not in self._members:
            raise FileNotFoundError(f"{self.file} has no file {name!r}; download the archive again.")
        member = self._members[name]
        size = member.size if isinstance(member, tarfile.TarInfo) else member.file_size
        if size > MAX_MEMBER_BYTES:
            raise ValueError(
                f"{self.file}: {name!r} has {size} bytes unpacked, more than the {MAX_MEMBER_BYTES} that any file of a "
                "known data set has; download the archive again."
            )
        try:
            if isinstance(self._archive, zipfile.ZipFile):
                data = self._archive.read(member)  # type: ignore[arg-type]
            else:
                content = self._archive.extractfile(member)  # type: ignore[arg-type]
                data = content.read() if content is not None else b""
        except (zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError, NotImplementedError) as error:
            raise ValueError(f"{self.file}: {name!r} is damaged ({error}); download the archive again.") from None
        if len(data) != size:
            raise ValueError(f"{self.file}: {name!r} ends early; download the archive again.")
        return data


class JoinedTree:
    """Several trees, each for the names that begin with its prefix; the first that fits is asked."""

    def __init__(self, trees: Mapping[str, FileTree]):
        self.trees = dict(trees)

    def __contains__(self, name: str) -> bool:
        tree = self._tree(name)
        return tree is not None and name in tree

    def read(self, name: str) -> bytes:
        """Return a file's content; see `FileTree.read`."""
        tree = self._tree(name)
        if tree is None:
            raise FileNotFoundError(f"{name!r} begins with none of {', '.join(self.trees)}; correct the name.")
        return tree.read(name)

    def _tree(self, name: str) -> FileTree | None:
        return next((tree for prefix, tree in self.trees.items() if name.startswith(prefix)), None)


def _open_zip(file: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(file)
    except (zipfile.BadZipFile, EOFError) as error:
        raise ValueError(f"{file} is a damaged zip file ({error}); download it again.") from None


def _zip_files(archive: zipfile.ZipFile) -> Iterator[tuple[str, zipfile.ZipInfo]]:
    for member in archive.infolist():
        kind = stat.S_IFMT(member.external_attr >> 16)  # 0 where the zip was not made on a Unix system
        if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
            raise ValueError(f"{archive.filename} holds {member.filename!r}, {_REFUSED}")
        if member.flag_bits & 1:
            raise ValueError(f"{archive.filename}: {member.filename!r} is encrypted; unpack the archive yourself.")
        _safe_name(member.filename, Path(str(archive.filename)))
        if not member.is_dir():
            yield member.filename, member


def _open_tar(file: Path) -> tarfile.TarFile:
    try:
        size = file.stat().st_size
        archive = tarfile.open(file, "r:")  # noqa: SIM115 - the tree closes it
    except tarfile.TarError as error:
        raise ValueError(
            f"{file} is neither a tar nor a zip file ({error}); download it again, or unpack it if it is compressed "
            "otherwise."
        ) from None
    # Python takes a tar that ends between two files for a whole one; but every tar ends with blocks of zeros.
    with file.open("rb") as raw:
        raw.seek(max(0, size - _TAR_BLOCK))
        if size % _TAR_BLOCK or raw.read() != bytes(_TAR_BLOCK):
            archive.close()
            raise ValueError(f"{file} is truncated: its closing block is missing; download it again.")
    return archive


def _tar_files(archive: tarfile.TarFile, file: Path) -> Iterator[tuple[str, tarfile.TarInfo]]:
    try:
        for member in archive:
            if not (member.isreg() or member.isdir()):
                raise ValueError(f"{file} holds {member.name!r}, {_REFUSED}")
            _safe_name(member.name, file)
            if member.isreg():
                yield member.name, member
    except tarfile.TarError as error:
        raise ValueError(f"{file} is damaged ({error}); download it again.") from None


_REFUSED = "a link, device or pipe, which no data set needs; get the archive from its official place."


def _safe_name(name: str, file: Path) -> str:
    """Return the name without `./`.

    Raises:
        ValueError: It is absolute, has `..`, or is malformed.
    """
    parts = PurePosixPath(name).parts
    unsafe = (
        not name
        or "\0" in name
        or PurePosixPath(name).is_absolute()
        or PureWindowsPath(name).drive
        or PureWindowsPath(name).root
        or ".." in parts
        or ".." in PureWindowsPath(name).parts
    )
    if unsafe:
        raise ValueError(
            f"{file} holds the name {name!r}, which leads out of the archive; get it from its official place."
        )
    return "/".join(parts)


def open_archive(file: str | os.PathLike) -> ArchiveTree:
    """Open a tar or zip file; see `ArchiveTree`.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is no such archive, or a bad one.
    """
    path = Path(file)
    if not path.is_file():
        raise FileNotFoundError(f"there is no archive {str(path)!r}; check the path.")
    return ArchiveTree(path)


__all__ = ["MAX_MEMBER_BYTES", "ArchiveTree", "FileTree", "FolderTree", "JoinedTree", "open_archive"]
