"""Train a model: the same as `cssfe train`, for `accelerate launch train/train.py` and torchrun."""

import sys

from modeling_cssfe.cli import main


if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
