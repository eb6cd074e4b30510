# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""From a builder to a folder of Parquet files with a card: all of it, or nothing.

    DIR/README.md
    DIR/data/train-00000-of-00002.parquet ...

`load_images(DIR)` and `datasets.load_dataset(DIR)` read it. It grows beside its place as `.DIR.incomplete` and is
renamed when it is whole; what an interrupted preparation left there is removed by the next.
"""

import argparse
import os
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING


if TYPE_CHECKING:
    from .record_builder import RecordBuilder


def prepare_parquet(builder: "RecordBuilder", output_dir: str | os.PathLike) -> dict[str, int]:
    """Prepare a set as Parquet files with a card.

    Args:
        builder: Its set is prepared anew, whatever is in the cache.
        output_dir: Folder to make; it must not exist.

    Returns:
        Images of each split.

    Raises:
        FileExistsError: The folder exists.
        ValueError: Something in the source is wrong.
        FileNotFoundError: Something is missing from it.
        ConnectionError: Something cannot be downloaded.
    """
    from .dataset_card import render_dataset_card
    from .record_builder import presence

    target = Path(output_dir).expanduser().absolute()
    if os.path.lexists(target):
        raise FileExistsError(f"{str(output_dir)!r} exists; remove it, or name another folder.")
    growing = target.parent / f".{target.name}.incomplete"
    shutil.rmtree(growing, ignore_errors=True)
    growing.mkdir(parents=True)
    try:
        builder.download_and_prepare(str(growing / "parts"), file_format="parquet")
        if builder.plan is None:
            raise RuntimeError("datasets took the set from its cache although the folder is new; clear the cache.")
        whole = growing / "whole"
        (whole / "data").mkdir(parents=True)
        files: dict[str, list[Path]] = {split: [] for split in builder.plan.rows}
        for split, members in files.items():
            prefix = f"{builder.dataset_name}-{split}"
            for part in sorted((growing / "parts").glob(f"{prefix}*.parquet")):
                name = part.name.removeprefix(f"{builder.dataset_name}-")
                members.append(part.rename(whole / "data" / name))
        classes = len(builder.label_names())
        counts = {split: presence(rows, classes).sum(axis=0).tolist() for split, rows in builder.plan.rows.items()}
        (whole / "README.md").write_text(render_dataset_card(builder, files, counts, whole), encoding="utf-8")
        if os.path.lexists(target):
            raise FileExistsError(f"{str(output_dir)!r} appeared in the meantime; name another folder.")
        os.replace(whole, target)
        return {split: len(rows) for split, rows in builder.plan.rows.items()}
    finally:
        shutil.rmtree(growing, ignore_errors=True)


class ScriptParser(argparse.ArgumentParser):
    """Arguments of a script that fills a folder: those of all are there, and a wrong one is reported in one line."""

    def __init__(self, description: str | None):
        super().__init__(description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
        self.add_argument("--output_dir", required=True, metavar="DIR", help="folder to make")
        self.add_argument("--debug", action="store_true", help="show the traceback of an error")

    def error(self, message: str):
        """Report a wrong argument and leave with exit code 2."""
        self.exit(2, f"{self.prog}: error: {message} (see {self.prog} --help)\n")


class PreparationParser(ScriptParser):
    """Arguments of a script that draws splits."""

    def __init__(self, description: str | None):
        super().__init__(description)
        self.add_argument("--seed", type=int, default=0, help="of the drawing of splits")


def run_preparation(
    parser: PreparationParser,
    make_builder: Callable[[argparse.Namespace], "RecordBuilder"],
    arguments: Sequence[str] | None = None,
) -> int:
    """Parse, build and prepare; see `run_script` for the exit code."""

    def prepare(options: argparse.Namespace) -> None:
        images = prepare_parquet(make_builder(options), options.output_dir)
        print(f"{options.output_dir}: " + ", ".join(f"{count} {split}" for split, count in images.items()) + " images")

    return run_script(parser, prepare, arguments)


def run_script(
    parser: ScriptParser, work: Callable[[argparse.Namespace], None], arguments: Sequence[str] | None = None
) -> int:
    """Parse the arguments and do the work, which leaves nothing in `output_dir` if it fails.

    Returns:
        The exit code: 0; 1 if something failed; 2 if the arguments or the data are wrong. Errors are one line.
    """
    try:
        options = parser.parse_args(arguments)
    except SystemExit as leave:
        return int(leave.code or 0)
    try:
        work(options)
    except KeyboardInterrupt:
        print(f"{parser.prog}: interrupted; nothing was left in {options.output_dir}", file=sys.stderr)
        return 1
    except Exception as error:
        if options.debug:
            raise
        print(f"{parser.prog}: error: {' '.join(str(error).split()) or type(error).__name__}", file=sys.stderr)
        wrong_input = ValueError | TypeError | FileNotFoundError | FileExistsError | NotADirectoryError
        return 2 if isinstance(error, wrong_input) else 1
    return 0


__all__ = ["PreparationParser", "ScriptParser", "prepare_parquet", "run_preparation", "run_script"]
