"""Runs of a recipe that are killed at random points and resumed, each in a process forked after the imports.

Usage: kill_supervisor.py CASE.json. The case says: `overrides` of the recipe, `folder` of the runs, `kills`, `seed`,
`processes`, and `timed` (kill from outside, at a random time, instead of at a random event). Only kills that landed
count: a run that ended before its kill is put beside, as `broken-0` and so on, and another one is begun and killed.
Prints a line of JSON: the number of events of an unbroken run, and where runs were killed.
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
    """Train in forked processes. Returns the exit code of the first, what it noted, and the seconds it took."""
    started = time.monotonic()
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
    ended, status = 0, 0
    while seconds is not None and not ended and time.monotonic() < started + seconds:
        time.sleep(0.01)
        ended, status = os.waitpid(children[0], os.WNOHANG)
    if not ended:
        if seconds is not None:
            os.kill(children[0], signal.SIGKILL)
        _, status = os.waitpid(children[0], 0)
    for child in children[1:]:
        if status:  # what a launcher does
            os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    with os.fdopen(reader) as notes:
        return os.waitstatus_to_exitcode(status), notes.read(), time.monotonic() - started


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
    code, notes, seconds = run_once(case["overrides"], folder / "whole", "never", None, processes)
    if code:
        raise SystemExit(f"the unbroken run ended with {code}")
    total = int(notes.split()[-1])
    points = sorted(rng.sample(range(1, total + 1), case["kills"]))
    killed, before, ended = [], 0, 0
    while points:
        if ended > 5 * case["kills"]:
            raise SystemExit(f"{ended} runs ended before they could be killed")
        # A resumed run begins at its checkpoint, at or before the last kill, so this many events are left to come.
        wait = rng.uniform(0.1, 0.8) * seconds if case["timed"] else None
        kill_at = None if case["timed"] else max(1, points[0] - before)
        is_new = not (folder / "broken").exists()
        code, notes, took = run_once(case["overrides"], folder / "broken", "auto", kill_at, processes, wait)
        # From outside, a run that has its results was only about to leave.
        if code == -signal.SIGKILL and not (case["timed"] and (folder / "broken" / "results.json").exists()):
            before = points.pop(0)
            killed.append(notes.strip() or f"after {wait:.2f} s")
            continue
        if code not in (0, -signal.SIGKILL):
            raise SystemExit(f"a resumed run ended with {code}")
        if is_new:
            seconds = took  # the machine has less to do than before
        finish(case, folder, ended)
        before, ended = 0, ended + 1
        points[0] = rng.randint(1, total)
        points.sort()
    finish(case, folder, ended)
    print(json.dumps({"events": total, "killed": killed}))


def finish(case, folder, number):
    """Let the broken run end, and put it beside."""
    code, _, _ = run_once(case["overrides"], folder / "broken", "auto", None, case["processes"])
    if code:
        raise SystemExit(f"the last run ended with {code}")
    (folder / "broken").rename(folder / f"broken-{number}")


if __name__ == "__main__":
    main()
