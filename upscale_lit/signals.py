"""SIGTERM, Ctrl-C and a closed terminal: a run ends at its next step, with a checkpoint."""

import os
import signal
import socket
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Any, Self

SIGNALS = [getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGHUP") if hasattr(signal, name)]
GRACE = 5.0  # seconds that the main thread has to notice a signal


class Stopped(BaseException):
    """A signal asks the run to end. code: what a shell expects as exit code."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.code = 128 + number


class Signals:
    """While it is entered, a signal raises Stopped: at once, or where `patient` only by `check`, when it suits.

    Patience is for one signal; the next one does not wait. Signals that are ignored (nohup) stay so.

    Python runs signal handlers in the main thread, and only between two of its instructions: not while that thread
    waits inside PyTorch, for another machine or process. So a second thread sees all signals, too (see
    `signal.set_wakeup_fd`). If the main thread does not notice one that must not wait within GRACE seconds, this
    thread calls what is in `farewells` with the Stopped, and ends the process.
    """

    def __init__(self) -> None:
        self.patient = False
        self.received: int | None = None
        self.farewells: list[Callable[[Stopped], None]] = []
        self._before: dict[int, Any] = {}
        self._arrived = self._noticed = 0

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():  # Python allows handlers nowhere else
            handlers = {number: signal.getsignal(number) for number in SIGNALS}
            self._before = {number: handler for number, handler in handlers.items() if handler != signal.SIG_IGN}
        if self._before:
            self._ours, self._theirs = socket.socketpair()
            self._theirs.setblocking(False)
            self._fd_before = signal.set_wakeup_fd(self._theirs.fileno(), warn_on_full_buffer=False)
            threading.Thread(target=self._watch, daemon=True).start()
        self.claim()
        return self

    def __exit__(self, *error: object) -> None:
        if self._before:
            signal.set_wakeup_fd(self._fd_before)
            self._theirs.close()  # ends the thread
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def claim(self) -> None:
        """Take the signals; again if something else has taken them since."""
        for number in self._before:
            signal.signal(number, self._receive)

    def check(self) -> None:
        """Raises Stopped when a signal has come."""
        if self.received is not None:
            raise Stopped(self.received)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self._noticed = max(self._noticed + 1, self._arrived)  # one call serves equal signals that came together
        waits, self.received = self.patient and self.received is None, number
        if not waits:
            raise Stopped(number)

    def _watch(self) -> None:
        """The second thread: Python's C handler writes the number of each signal into the socket as it arrives."""
        with self._ours:
            while numbers := self._ours.recv(1):
                if numbers[0] not in self._before:
                    continue
                self._arrived += 1
                if self._arrived == 1 and self.patient:
                    continue  # a step may take longer than GRACE
                end = time.monotonic() + GRACE
                while self._noticed < self._arrived and time.monotonic() < end:
                    time.sleep(0.05)
                if self._noticed < self._arrived:
                    stopped = Stopped(numbers[0])
                    try:
                        for farewell in self.farewells:
                            farewell(stopped)
                    finally:
                        os._exit(stopped.code)
