"""Runs of recipes one after the other in each of the processes that torchrun started: rank_runs.py CASES.json.

The file maps a run's folder to its overrides, and to whether its weights are spread over the processes (FSDP2). In a
case with `kill_at` the second process kills itself before that update, unless torchrun has started the processes again.
One with `command` is a command line, whose output goes to a file of each process beside that folder.
"""

import contextlib
import json
import os
import signal
import sys
import time
import traceback
from pathlib import Path

import torch
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin

from modeling_cssfe import cli
from modeling_cssfe.common.environment import build_accelerator
from modeling_cssfe.training import engine, load_recipe, loop, train


def sharding_accelerator(*arguments, **options):
    """Accelerate reads its FSDP settings on GPUs alone; with gloo its code runs on CPUs just as well."""
    accelerator = build_accelerator(*arguments, **options)
    plugin = FullyShardedDataParallelPlugin(
        fsdp_version=2, auto_wrap_policy="transformer_based_wrap", cpu_ram_efficient_loading=False
    )
    accelerator.state.fsdp_plugin = plugin
    accelerator.state.distributed_type = DistributedType.FSDP
    return accelerator


def kill_before(number):
    inner = loop._update

    def update(run, group):
        if run.updates + 1 == number and run.accelerator.process_index == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        inner(run, group)

    loop._update = update


def note_noise():
    """Leave the state of each process's generator before a run's first update beside its folder."""
    inner = loop._update

    def update(run, group):
        if run.updates == 0:
            Path(f"{run.folder.path}.noise.{os.environ['RANK']}").write_bytes(bytes(torch.get_rng_state().tolist()))
        inner(run, group)

    loop._update = update


def main():
    torch.set_num_threads(1)
    note_noise()
    if os.environ["TORCHELASTIC_RESTART_COUNT"] != "0" and os.environ["RANK"] == "0":
        # The other one then finds the address of before the restart, if there is one to be found. Which of the two
        # connects to the other hangs on their ports, so that only every other run or so fails by it.
        time.sleep(1)
    for folder, case in json.loads(Path(sys.argv[1]).read_text()).items():
        if "kill_at" in case and os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
            kill_before(case["kill_at"])
        if "command" in case:
            with open(f"{folder}.{os.environ['RANK']}.txt", "w") as output, contextlib.redirect_stdout(output):
                print("exit code", cli.main(case["command"]))
            continue
        engine.build_accelerator = sharding_accelerator if case.get("sharded") else build_accelerator
        try:
            train(load_recipe(None, case["overrides"]), folder, quiet=True, resume="auto")
        except Exception:
            if not case.get("may_fail"):
                raise
            Path(f"{folder}.error").write_text(traceback.format_exc())
    Path(sys.argv[1]).with_name("restarts").write_text(os.environ["TORCHELASTIC_RESTART_COUNT"])


if __name__ == "__main__":
    main()
