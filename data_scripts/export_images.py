# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""Write images of a data set to files and print their labels: something to predict on, or to look at."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from modeling_cssfe.data import decode_image, label_names_of, load_images
from modeling_cssfe.data.builders.preparation import ScriptParser, run_script


def run(options: argparse.Namespace) -> None:
    splits = load_images(options.data)
    if options.split not in splits:
        raise ValueError(f"{options.data!r} has no split {options.split!r}; it has {', '.join(splits)}.")
    dataset = splits[options.split]
    wrong = [index for index in options.indices if not 0 <= index < len(dataset)]
    if wrong:
        raise ValueError(f"the split {options.split!r} has no row {wrong[0]}; rows run from 0 to {len(dataset) - 1}.")
    names = label_names_of(dataset)
    folder = Path(options.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    for index in options.indices:
        row = dataset[index]
        file = folder / f"{index:04d}.png"
        decode_image(row["image"], image_id=row["image_id"]).save(file)
        print(f"{file}: {', '.join(names[label] for label in row['labels']) or 'no label'}")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = ScriptParser(__doc__)
    parser.add_argument("data", help="lt_digits, folder, file or `datasets` name")
    parser.add_argument("--split", default="test", help="split to take images from")
    parser.add_argument("--indices", type=int, nargs="+", default=[0], help="rows of the split")
    return run_script(parser, run, arguments)


if __name__ == "__main__":
    sys.exit(main())
