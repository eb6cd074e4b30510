# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""Command line: `cssfe VERB`.

Each verb declares its arguments in `commands/` and calls the package. Exit code 0: done. 1: failed. 2: something
about the arguments or the data is wrong; one line says what and how to mend it. 128 + n: signal n ended it;
a training run is saved.
"""

import argparse
import os
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

from .commands import (
    analyze,
    card,
    data,
    data_embed,
    demo,
    evaluate,
    explain,
    export,
    info,
    predict,
    push,
    thresholds,
    train,
)


DESCRIPTION = "Long-tailed multi-label image classification with CSSFE."

# Verbs that have actions of their own, such as `cssfe data inspect`.
FAMILIES = {
    "analyze": "Measure where maps lie, and what a long tail does to them.",
    "data": "Look at a data set, and prepare one.",
}


class _Parser(argparse.ArgumentParser):
    """Reports a wrong argument in one line."""

    def error(self, message: str):
        self.exit(2, f"{self.prog}: error: {message} (see {self.prog} --help)\n")


def build_parser() -> argparse.ArgumentParser:
    """The parser of all verbs."""
    common = _Parser(add_help=False)
    common.add_argument("--debug", action="store_true", help="show the traceback of an error")
    parser = _Parser(prog="cssfe", description=DESCRIPTION)
    parser.add_argument("--version", action="store_true", help="print the version and leave")
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", parser_class=_Parser)

    families: dict[str, argparse._SubParsersAction] = {}

    def add(name: str, function: Callable[[argparse.Namespace], None], summary: str) -> argparse.ArgumentParser:
        family, _, last = name.rpartition(" ")
        if family and family not in families:
            described = FAMILIES[family]
            parent = verbs.add_parser(family, help=described, description=described)
            families[family] = parent.add_subparsers(
                dest="action", metavar="ACTION", parser_class=_Parser, required=True
            )
        verb = (families[family] if family else verbs).add_parser(
            last,
            help=summary,
            description=summary,
            parents=[common],
            formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        )
        verb.set_defaults(function=function)
        return verb

    for verb in (
        train,
        evaluate,
        thresholds,
        predict,
        explain,
        analyze,
        export,
        demo,
        card,
        push,
        data,
        data_embed,
        info,
    ):
        verb.register(add)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a verb and return its exit code (0, 1, 2, or 128 + the number of a signal)."""
    parser = build_parser()
    try:
        options = parser.parse_args(arguments)
    except SystemExit as leave:
        return int(leave.code or 0)
    if options.version:
        from .version import __version__

        print(__version__)
        return 0
    if options.verb is None:
        print("cssfe: error: which verb? `cssfe --help` lists them.", file=sys.stderr)
        return 2
    return _run(options.verb, options)


def _run(verb: str, options: argparse.Namespace) -> int:
    from huggingface_hub.errors import StrictDataclassError

    try:
        _check_outputs(options)
        options.function(options)
        return 0
    except KeyboardInterrupt:
        mend = "; go on by the same command with --resume" if verb == "predict" and options.output else ""
        print(f"cssfe {verb}: interrupted{mend}", file=sys.stderr)
        return 128 + signal.SIGINT
    except BrokenPipeError:
        # The reader of our output (head, less) has left; that is no error of ours.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        message = " ".join(str(error).split()) or type(error).__name__
        own_code = getattr(error, "exit_code", None)
        if own_code is not None:  # a run that a signal has ended, as it should
            print(f"cssfe {verb}: {message}", file=sys.stderr)
            return own_code
        if options.debug:
            traceback.print_exc()
        wrong_input = ValueError | TypeError | FileNotFoundError | NotADirectoryError | StrictDataclassError
        print(f"cssfe {verb}: error: {message}", file=sys.stderr)
        return 2 if isinstance(error, wrong_input) else 1


def _check_outputs(options: argparse.Namespace) -> None:
    """Refuse to work, perhaps for hours, for an output that has no place, as a file lies where its folder would."""
    for name in ("output", "output_dir", "report", "save_scores", "json", "overlays"):
        value = getattr(options, name, None)
        parents = Path(value).parents if isinstance(value, str) else ()
        for parent in parents:
            if parent.exists() and not parent.is_dir():
                raise ValueError(f"--{name} is {value!r}, but {os.fspath(parent)!r} is a file; choose another place.")


if __name__ == "__main__":
    sys.exit(main())
