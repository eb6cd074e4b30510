# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""The samplers of long-tailed multi-label classification, one file each; `build_sampler(name, labels)` makes any.

Each epoch's order depends on the seed and `set_epoch` alone, is shared exactly among ranks, and can be resumed.
"""

from ._base import LabelIndex, ResumableSampler
from .class_aware import ClassAwareSampler
from .inverse_frequency import InverseFrequencySampler
from .registry import SamplerEntry, build_sampler, get_sampler_entry, list_samplers
from .repeat_factor import RepeatFactorSampler, class_repeat_factors
from .streaming import resample_stream
from .two_branch import TwoBranchBatchSampler
from .uniform import UniformSampler


__all__ = [
    "ClassAwareSampler",
    "InverseFrequencySampler",
    "LabelIndex",
    "RepeatFactorSampler",
    "ResumableSampler",
    "SamplerEntry",
    "TwoBranchBatchSampler",
    "UniformSampler",
    "build_sampler",
    "class_repeat_factors",
    "get_sampler_entry",
    "list_samplers",
    "resample_stream",
]
