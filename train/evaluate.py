"""Judge trained models: the same as `cssfe evaluate`, for `accelerate launch train/evaluate.py`."""

import sys

from modeling_cssfe.cli import main


if __name__ == "__main__":
    sys.exit(main(["evaluate", *sys.argv[1:]]))
