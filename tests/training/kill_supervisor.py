"""Runs of a recipe that are killed at random points and resumed, each in a process forked after the imports.

Usage: kill_supervisor.py CASE.json. The case says: `overrides` of the recipe, `folder` of the runs, `kills`, `seed`,
`processes`, and `timed` (kill from outside, at a random time, instead of at a random event). Prints a line of JSON: the
number of events of an unbroken run, and the events at which the broken run was killed.
"""

import json
import os
import random
import signal
import socket
import sys
import time
from pathlib import Path


def count_events(kill_at, note):
    """Wrap what a run does; at event number `kill_at` this process kills itself with SIGKILL."""
    import accelerate

    from modeling_cssfe.training import checkpoint, loop, monitor, run_folder

    seen = 0

    def event(name):
        nonlocal seen
        seen += 1
        if seen == kill_at:
            note(name, seen)
            os.kill(os.getpid(), signal.SIGKILL)

    def wrap(owner, name):
        inner = getattr(owner, name)

        def outer(*args, **kwargs):
            event(f"before {name}")
            result = inner(*args, **kwargs)
            event(f"after {name}")
            return result

        setattr(owner, name, outer)

    inner_save = checkpoint.save_file

    def save_file(tensors, path):
        inner_save(tensors, path)
        whole = Path(path).read_bytes()
        Path(path).write_bytes(whole[: len(whole) // 2])
        event("half of a file of tensors")
        Path(path).write_bytes(whole)

    checkpoint.save_file = save_file
    wrap(checkpoint, "_to_disk")
    wrap(checkpoint, "remove_folder")
    wrap(loop, "_update")
    wrap(accelerate.Accelerator, "backward")
    wrap(accelerate.Accelerator, "gather_for_metrics")
    wrap(monitor.RunMonitor, "on_step_end")
    for name in ("append_log", "save_files", "write_text", "write_json", "rewind"):
        wrap(run_folder.RunFolder, name)
    return lambda: seen


def run_once(overrides, folder, resume, kill_at, processes, seconds=None):
    """Train in forked processes. Returns the exit code of the first, and what it noted."""
    reader, writer = os.pipe()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    children = []
    for rank in range(processes):
        child = os.fork()
        if child == 0:
            os.close(reader)
            if processes > 1:
                os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(processes),
                               "LOCAL_WORLD_SIZE": str(processes), "MASTER_ADDR": "127.0.0.1",
                               "MASTER_PORT": str(port), "ACCELERATE_USE_CPU": "true"}  # fmt: skip
            code = 1
            try:
                train_here(overrides, folder, resume, kill_at if rank == 0 else None, writer if rank == 0 else None)
                code = 0
            finally:
                sys.stderr.flush()
                os._exit(code)
        children.append(child)
    os.close(writer)
    if seconds is not None:
        time.sleep(seconds)
        os.kill(children[0], signal.SIGKILL)
    _, status = os.waitpid(children[0], 0)
    for child in children[1:]:
        if status:  # what a launcher does
            os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    with os.fdopen(reader) as notes:
        return os.waitstatus_to_exitcode(status), notes.read()


def train_here(overrides, folder, resume, kill_at, writer):
    from modeling_cssfe.training import load_recipe, train

    def note(*words):
        if writer is not None:
            os.write(writer, (" ".join(map(str, words)) + "\n").encode())

    seen = count_events(kill_at, note)
    train(load_recipe(None, overrides), folder, quiet=True, resume=resume)
    note("all", seen())


def main():
    import torch

    import modeling_cssfe.training  # noqa: F401  (what each forked process would take seconds to import)

    torch.set_num_threads(1)
    case = json.loads(Path(sys.argv[1]).read_text())
    folder, processes = Path(case["folder"]), case["processes"]
    rng = random.Random(case["seed"])
    started = time.monotonic()
    code, notes = run_once(case["overrides"], folder / "whole", "never", None, processes)
    seconds = time.monotonic() - started
    if code:
        raise SystemExit(f"the unbroken run ended with {code}")
    total = int(notes.split()[-1])
    points = sorted(rng.sample(range(1, total + 1), case["kills"]))
    killed = []
    for before, point in zip([0, *points], points, strict=False):
        # A resumed run begins at its checkpoint, at or before the last kill: it cannot end before this many events.
        wait = rng.uniform(0.2, 0.9) * seconds if case["timed"] else None
        kill_at = None if case["timed"] else max(1, point - before)
        code, notes = run_once(case["overrides"], folder / "broken", "auto", kill_at, processes, wait)
        if code == -signal.SIGKILL:
            killed.append(notes.strip() or f"after {wait:.2f} s")
        elif code:
            raise SystemExit(f"a resumed run ended with {code}")
    code, _ = run_once(case["overrides"], folder / "broken", "auto", None, processes)
    if code:
        raise SystemExit(f"the last run ended with {code}")
    print(json.dumps({"events": total, "killed": killed}))


if __name__ == "__main__":
    main()
