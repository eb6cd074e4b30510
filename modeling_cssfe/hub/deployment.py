# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""What makes a model repository an Inference Endpoint, and a model a Space.

| target | files |
|---|---|
| Inference Endpoint | `handler.py`, `image_decoding.py` and `requirements.txt` beside the weights |
| Space | `app.py`, `README.md` with the header, `requirements.txt`, `model/`, and the source in `modeling_cssfe/` |

An endpoint needs nothing of this package but those files.

A Space carries the package's source rather than its name among the requirements: so it runs the version that made it,
also where that is no released one, and no package index decides what code it gets under that name.
"""

import importlib.metadata
import os
import re
import shutil
from pathlib import Path

from ..configuration_cssfe import CSSFEConfig


FILES = Path(__file__).parent / "files"
PACKAGE = Path(__file__).resolve().parents[1]
_SOURCE_SUFFIXES = (".py", ".css", ".html", ".js", ".json", ".md", ".txt", ".typed", ".yaml", ".npz", ".csv", ".gz")


def write_endpoint(folder: str | os.PathLike) -> list[Path]:
    """Write the handler of Inference Endpoints beside a model.

    Args:
        folder: The model's folder.

    Returns:
        The files written. `handler.py` says what a request looks like; images are decoded by the rules of
        `modeling_cssfe.data.decoding`, whose file goes along.
    """
    sources = {
        "handler.py": FILES / "handler.py",
        "image_decoding.py": PACKAGE / "data" / "decoding.py",
        "requirements.txt": FILES / "endpoint_requirements.txt",
    }
    for name, source in sources.items():
        shutil.copyfile(source, Path(folder) / name)
    return [Path(folder) / name for name in sources]


def write_space(folder: str | os.PathLike, config: CSSFEConfig, title: str) -> list[Path]:
    """Write a Space around a model that lies in `folder/model`.

    Args:
        folder: The Space's folder.
        config: The model's configuration.
        title: What the page is called, in one line.

    Returns:
        The files written.

    Raises:
        ValueError: There is no `model/config.json`, or the title has several lines.
    """
    root = Path(folder)
    if not (root / "model" / "config.json").is_file():
        raise ValueError(f"{os.fspath(root / 'model')!r} holds no model (no config.json); save the model there first.")
    if not title.strip() or "\n" in title:
        raise ValueError(f"the title of a Space is one line of text, got {title!r}.")
    shutil.copyfile(FILES / "space_app.py", root / "app.py")
    # The package's own requirements; the header in README.md names the version of gradio.
    shutil.copyfile(FILES / "space_requirements.txt", root / "requirements.txt")
    version = _version_of("gradio")
    readme = (FILES / "space_readme.md").read_text(encoding="utf-8")
    readme = readme.format(
        title=re.sub(r"[^\w .,()+/-]", "", title).strip(),
        num_labels=config.num_labels,
        sdk_version=f"sdk_version: {version}\n" if version else "",
    )
    (root / "README.md").write_text(readme, encoding="utf-8")
    written = [root / name for name in ("app.py", "requirements.txt", "README.md")]
    for source in sorted(PACKAGE.rglob("*")):
        inner = source.relative_to(PACKAGE)
        if "__pycache__" in inner.parts or not source.is_file() or source.suffix not in _SOURCE_SUFFIXES:
            continue
        target = root / "modeling_cssfe" / inner
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
        written.append(target)
    return written


def _version_of(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


__all__ = ["write_endpoint", "write_space"]
