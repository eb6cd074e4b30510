# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""Embed label names and write them to a safetensors file: the same as `cssfe data embed`."""

import sys

from modeling_cssfe.cli import main


if __name__ == "__main__":
    sys.exit(main(["data", "embed", *sys.argv[1:]]))
