# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""SIGTERM (a cluster takes the machine back) and SIGINT (Ctrl-C) as a wish to stop, not as a crash."""

import mmap
import os
import signal
import threading
import types


SIGNALS = (signal.SIGTERM, signal.SIGINT)
# A cluster signals all processes of a job. Those that load images are needed for as long as the step under way takes.
_SECONDS_FOR_LOADERS = 10


class TrainingInterruptedError(RuntimeError):
    """A signal ended the run, which has saved where it was; the message is one line.

    Args:
        message: What happened and how to go on.
        signal_number: The signal.
    """

    def __init__(self, message: str, signal_number: int):
        super().__init__(message)
        self.exit_code = 128 + signal_number  # what a shell reports: 143 for SIGTERM, 130 for SIGINT


class Interruption:
    """Takes SIGTERM and SIGINT down as a wish while the `with` block runs; a second SIGINT stops at once.

    Outside of a process's main thread, where Python allows no handlers, signals do what they did before.
    """

    def __init__(self) -> None:
        self.signal: int | None = None
        self._owner = os.getpid()
        self._before: dict[int, object] = {}
        self._over = mmap.mmap(-1, 1)  # shared with the processes that load images

    @property
    def wanted(self) -> bool:
        """Whether a signal has come to this process."""
        return self.signal is not None

    def __enter__(self) -> "Interruption":
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                self._before[number] = signal.signal(number, self._take)
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)  # type: ignore[arg-type]
        self._before = {}
        self._over[0] = 1

    def _take(self, number: int, frame: types.FrameType | None) -> None:
        if os.getpid() != self._owner:  # a process that loads images, which has inherited this handler
            if number == signal.SIGTERM and self._over[0]:
                signal.signal(number, signal.SIG_DFL)
                os.kill(os.getpid(), number)
            elif number == signal.SIGTERM:
                signal.signal(signal.SIGALRM, signal.SIG_DFL)
                signal.alarm(_SECONDS_FOR_LOADERS)
            return  # Ctrl-C too reaches all processes; its parent ends this one
        if self.signal is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.signal = number


__all__ = ["SIGNALS", "Interruption", "TrainingInterruptedError"]
