# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""What a run ran on, and which precision the machine computes in."""

import importlib.metadata
import logging
import os
import platform
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, PartialState
from accelerate.state import AcceleratorState
from accelerate.utils import parse_flag_from_env

from ..version import __version__


logger = logging.getLogger(__name__)

# How long processes wait for each other: one of them reads and checks all images while the others wait, which torch's
# own ten minutes do not suffice for.
PATIENCE = timedelta(hours=6)

PACKAGES = ("torch", "torchvision", "timm", "transformers", "accelerate", "datasets", "huggingface_hub", "numpy")


def describe_environment() -> dict[str, str | int | None]:
    """Versions, processor and accelerator of this process, as plain values for JSON and CSV."""
    environment: dict[str, str | int | None] = {
        "cssfe": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "accelerator": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "git_commit": _git_commit(),
    }
    for package in PACKAGES:
        try:
            environment[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            environment[package] = None
    return environment


def computes_in_bf16(device: torch.device | str) -> bool:
    """Whether bf16 matrix products run in hardware on the device, rather than being emulated."""
    if torch.device(device).type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if torch.device(device).type == "cpu" and sys.platform.startswith("linux"):
        flags = Path("/proc/cpuinfo").read_text(errors="ignore") if Path("/proc/cpuinfo").is_file() else ""
        return "avx512_bf16" in flags or "amx_bf16" in flags
    return False


def warn_of_idle_cores(accelerator: Accelerator) -> None:
    """Say so if `accelerate launch` has left cores of a CPU idle: untold, it gives each process one thread."""
    launched = "ACCELERATE_MIXED_PRECISION" in os.environ  # anybody else has chosen the number of threads
    if accelerator.device.type != "cpu" or not launched or not accelerator.is_main_process:
        return
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    threads = torch.get_num_threads()
    if threads * accelerator.num_processes < cores:
        logger.warning(
            "This run computes with %d of %d cores; give accelerate launch --num_cpu_threads_per_process %d, or start "
            "it by `cssfe train`.",
            threads * accelerator.num_processes,
            cores,
            cores // accelerator.num_processes,
        )


def process_state() -> PartialState:
    """Which of how many processes this is, also of several on a CPU, which `PartialState()` takes for one each."""
    return PartialState(cpu=parse_flag_from_env("ACCELERATE_USE_CPU"), timeout=PATIENCE, **store_of_restart())


def build_accelerator(mixed_precision: str = "no", **options) -> Accelerator:
    """An `Accelerator`, also when this process made one of another precision before.

    Args:
        mixed_precision: `"no"`, `"bf16"`, `"fp16"`, or `"auto"` for bf16 where the device computes in it.
        **options: Further arguments of `Accelerator`.

    Raises:
        ValueError: fp16 on a CPU.
    """
    device = process_state().device
    if mixed_precision == "auto":
        mixed_precision = "bf16" if computes_in_bf16(device) else "no"
    if mixed_precision == "fp16" and device.type == "cpu":
        raise ValueError("mixed_precision 'fp16' needs a GPU; choose bf16, auto or no on a CPU.")
    # Accelerate keeps one state a process, which a second run (a grid, a notebook) could otherwise not change.
    AcceleratorState._reset_state()
    return Accelerator(mixed_precision=mixed_precision, **options)


def store_of_restart() -> dict[str, Any]:
    """Arguments of `init_process_group` for processes that torchrun has started again; empty for all others.

    torchrun keeps one store for all its starts (torch 2.15), in which processes leave their addresses. After a restart
    the one that is quicker finds what the other left before it died, and waits for a process that is gone.
    """
    restarts = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0))
    shared = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    if not restarts or not shared or torch.distributed.is_initialized():
        return {}
    if os.environ.get("GROUP_WORLD_SIZE") != "1":  # each machine counts its own restarts
        logger.warning(
            "torchrun started this process again on several machines, which may find each other's old addresses and "
            "hang; set TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 and --rdzv_backend c10d for torchrun on all of them."
        )
        return {}
    store, rank, world_size = next(torch.distributed.rendezvous("env://"))
    return {
        "store": torch.distributed.PrefixStore(f"restart_{restarts}", store),
        "rank": rank,
        "world_size": world_size,
    }


def _processor() -> str:
    if Path("/proc/cpuinfo").is_file():
        for line in Path("/proc/cpuinfo").read_text(errors="ignore").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def _git_commit() -> str | None:
    """Commit of the checkout that this file lies in, with `-dirty` when it has changes; `None` outside of one."""
    folder = Path(__file__).resolve().parent
    try:
        if subprocess.run(["git", "ls-files", "--error-unmatch", __file__], cwd=folder, capture_output=True).returncode:
            return None
        described = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=12"], cwd=folder, capture_output=True, text=True
        )
    except OSError:
        return None
    return described.stdout.strip() or None


__all__ = [
    "build_accelerator",
    "computes_in_bf16",
    "describe_environment",
    "process_state",
    "store_of_restart",
    "warn_of_idle_cores",
]
