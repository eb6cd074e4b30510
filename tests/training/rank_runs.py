"""Runs of recipes one after the other in each of the processes that torchrun started: rank_runs.py CASES.json.

The file maps a run's folder to its overrides, and to environment variables that are set for it.
"""

import json
import os
import sys
import traceback
from pathlib import Path

import torch

from modeling_cssfe.training import load_recipe, train


def main():
    torch.set_num_threads(1)
    for folder, case in json.loads(Path(sys.argv[1]).read_text()).items():
        before = dict(os.environ)
        os.environ |= case.get("environment", {})
        try:
            train(load_recipe(None, case["overrides"]), folder, quiet=True)
        except Exception:
            if not case.get("may_fail"):
                raise
            Path(f"{folder}.error").write_text(traceback.format_exc())
        os.environ.clear()
        os.environ |= before


if __name__ == "__main__":
    main()
