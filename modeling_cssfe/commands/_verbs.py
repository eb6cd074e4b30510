# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""What a verb is given to declare itself with."""

import argparse
from collections.abc import Callable
from typing import Protocol


class AddVerb(Protocol):
    """Adds a verb, such as `train`, or an action of one, such as `data inspect`.

    Returns its parser, on which it declares its arguments.
    """

    def __call__(
        self, name: str, function: Callable[[argparse.Namespace], None], summary: str
    ) -> argparse.ArgumentParser: ...


__all__ = ["AddVerb"]
