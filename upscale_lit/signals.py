"""SIGTERM, Ctrl-C and a closed terminal: a run ends at its next step, with a checkpoint."""

import signal
import threading
from types import FrameType
from typing import Any, Self

SIGNALS = [getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGHUP") if hasattr(signal, name)]


class Stopped(BaseException):
    """A signal asks the run to end. code: what a shell expects as exit code."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.code = 128 + number


class Signals:
    """While it is entered, a signal raises Stopped: at once, or where `patient` only by `check`, when it suits.

    Patience is for one signal; the next one does not wait. Signals that are ignored (nohup) stay so.
    """

    def __init__(self) -> None:
        self.patient = False
        self.received: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():  # Python allows handlers nowhere else
            self._before = {
                number: signal.getsignal(number) for number in SIGNALS if signal.getsignal(number) != signal.SIG_IGN
            }
        self.claim()
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def claim(self) -> None:
        """Take the signals; once more where something else has taken them since."""
        for number in self._before:
            signal.signal(number, self._receive)

    def check(self) -> None:
        """Raises Stopped when a signal has come."""
        if self.received is not None:
            raise Stopped(self.received)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        waits, self.received = self.patient and self.received is None, number
        if not waits:
            raise Stopped(number)
