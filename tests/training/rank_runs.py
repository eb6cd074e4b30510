"""Runs of recipes one after the other in each of the processes that torchrun started: rank_runs.py CASES.json.

The file maps a run's folder to its overrides, and to whether its weights are spread over the processes (FSDP2).
"""

import json
import sys
import traceback
from pathlib import Path

import torch
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin

from modeling_cssfe.training import engine, load_recipe, train
from modeling_cssfe.training.environment import build_accelerator


def sharding_accelerator(*arguments, **options):
    """Accelerate reads its FSDP settings on GPUs alone; with gloo its code runs on CPUs just as well."""
    accelerator = build_accelerator(*arguments, **options)
    plugin = FullyShardedDataParallelPlugin(
        fsdp_version=2, auto_wrap_policy="transformer_based_wrap", cpu_ram_efficient_loading=False
    )
    accelerator.state.fsdp_plugin = plugin
    accelerator.state.distributed_type = DistributedType.FSDP
    return accelerator


def main():
    torch.set_num_threads(1)
    for folder, case in json.loads(Path(sys.argv[1]).read_text()).items():
        engine.build_accelerator = sharding_accelerator if case.get("sharded") else build_accelerator
        try:
            train(load_recipe(None, case["overrides"]), folder, quiet=True)
        except Exception:
            if not case.get("may_fail"):
                raise
            Path(f"{folder}.error").write_text(traceback.format_exc())


if __name__ == "__main__":
    main()
