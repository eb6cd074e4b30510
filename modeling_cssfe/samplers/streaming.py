# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""Re-balancing of data that is streamed, for the rules that need to look at one example at a time only."""

import operator
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

import numpy as np

from .registry import get_sampler_entry, list_samplers
from .repeat_factor import class_repeat_factors


Example = TypeVar("Example")


def resample_stream(
    name: str,
    examples: Iterable[Example],
    class_counts: Any,
    num_samples: int,
    labels_of: Callable[[Any], Any] = operator.itemgetter("labels"),
    seed: int = 0,
    epoch: int = 0,
    threshold: float | None = None,
) -> Iterator[Example]:
    """Sample a stream as a sampler would sample the data set.

    `uniform` passes the examples on, in the order of the stream. `repeat_factor` passes each on as often as its factor
    says, the fraction by chance; repeats come one after another, so shuffle behind it (`datasets` does with
    `IterableDataset.shuffle(buffer_size=...)`). The other samplers choose which example comes next, or need the
    probability of all others first, and so cannot work on a stream.

    Args:
        name: `"uniform"` or `"repeat_factor"`.
        examples: The stream, one pass.
        class_counts: Images of each class in the whole data set.
        num_samples: Images in the whole data set.
        labels_of: Gives an example's multi-hot vector; by default its field `labels`.
        seed: Seed of the fractions.
        epoch: The epoch, which changes them.
        threshold: As for the repeat-factor sampler.

    Returns:
        The examples to train on.

    Raises:
        ValueError: Unknown sampler, one that cannot work on a stream, or a threshold out of range.
    """
    if not get_sampler_entry(name).streams:
        possible = ", ".join(other for other in list_samplers() if get_sampler_entry(other).streams)
        raise ValueError(
            f"sampler {name!r} needs random access to the data set and cannot work on a stream; "
            f"choose one of {possible}, or load the data set."
        )
    if name == "uniform":
        return iter(examples)
    factors = class_repeat_factors(class_counts, num_samples, threshold)
    return _repeat(examples, factors, labels_of, np.random.default_rng([seed, epoch]))


def _repeat(
    examples: Iterable[Example],
    factors: np.ndarray,
    labels_of: Callable[[Any], Any],
    generator: np.random.Generator,
) -> Iterator[Example]:
    for example in examples:
        factor = factors[np.asarray(labels_of(example)) > 0].max(initial=1.0)
        for _ in range(int(factor + generator.random())):
            yield example


__all__ = ["resample_stream"]
