# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""Every sampler by name, and how to build one."""

import inspect
from dataclasses import dataclass
from typing import Any

from ..common.names import suggest
from ._base import ResumableSampler
from .class_aware import ClassAwareSampler
from .inverse_frequency import InverseFrequencySampler
from .repeat_factor import RepeatFactorSampler
from .two_branch import TwoBranchBatchSampler
from .uniform import UniformSampler


@dataclass(frozen=True)
class SamplerEntry:
    """One sampler of the registry.

    Attributes:
        name: What `build_sampler` calls it.
        cls: Its class.
        description: One line: what it draws, and where it comes from.
        streams: Whether `resample_stream` can do the same for data without random access.
        yields_batches: Whether it is a batch sampler.
    """

    name: str
    cls: type[ResumableSampler]
    description: str
    streams: bool = False
    yields_batches: bool = False

    @property
    def defaults(self) -> dict[str, Any]:
        """Every option with its default."""
        parameters = inspect.signature(self.cls).parameters.items()
        return {name: parameter.default for name, parameter in parameters if name not in ("labels", "seed")}


_ENTRIES = (
    SamplerEntry("uniform", UniformSampler, "Every image once an epoch, shuffled.", streams=True),
    SamplerEntry(
        "class_aware",
        ClassAwareSampler,
        "Classes take turns in random order, three random images each (Wu et al., ECCV 2020).",
    ),
    SamplerEntry(
        "repeat_factor",
        RepeatFactorSampler,
        "Images of rare classes are repeated, by their rarest class (Gupta et al., CVPR 2019).",
        streams=True,
    ),
    SamplerEntry(
        "inverse_frequency",
        InverseFrequencySampler,
        "Images are drawn with replacement, in inverse proportion to their rarest class's frequency.",
    ),
    SamplerEntry(
        "two_branch",
        TwoBranchBatchSampler,
        "Batches of a uniform and a re-balanced half, for two-branch models (Zhou et al., CVPR 2020).",
        yields_batches=True,
    ),
)


def list_samplers() -> list[str]:
    """Return the names of all samplers."""
    return [entry.name for entry in _ENTRIES]


def get_sampler_entry(name: str) -> SamplerEntry:
    """Return the registry entry of a sampler.

    Args:
        name: One of `list_samplers()`.

    Returns:
        The entry: class, one-line description, defaults.

    Raises:
        ValueError: Unknown name; the message lists what exists and suggests the nearest.
    """
    for entry in _ENTRIES:
        if entry.name == name:
            return entry
    raise ValueError(f"unknown sampler {name!r}; {suggest(name, list_samplers())}")


def build_sampler(name: str, labels: Any, seed: int = 0, **overrides: Any) -> ResumableSampler:
    """Build a sampler by name.

    Args:
        name: One of `list_samplers()`.
        labels: `(images, classes)` multi-hot labels, array, tensor or nested sequence; unknown labels (`-1` or `NaN`)
            count as absent.
        seed: Seed of all orders, >= 0.
        **overrides: Options of the sampler, see `get_sampler_entry(name).defaults`. All have `num_replicas`, `rank` and
            `drop_uneven`.

    Returns:
        A torch `Sampler` with `set_epoch`, `state_dict`, `load_state_dict` and `effective_counts`; `two_branch` is a
        batch sampler.

    Raises:
        ValueError: Unknown name or option, the labels are no matrix, or an option is out of range.
        TypeError: The seed or a number that counts something is no whole number.

    Example:
        >>> sampler = build_sampler("class_aware", labels=[[1, 0], [1, 0], [1, 0], [1, 1]])
        >>> sampler.effective_counts().tolist()
        [2.0, 1.25]
    """
    entry = get_sampler_entry(name)
    for option in overrides:
        if option not in entry.defaults:
            raise ValueError(f"sampler {name!r} has no option {option!r}; {suggest(option, list(entry.defaults))}")
    return entry.cls(labels, seed, **overrides)


__all__ = ["SamplerEntry", "build_sampler", "get_sampler_entry", "list_samplers"]
