"""End a run on SIGTERM, Ctrl-C or a closed terminal. A training then ends after a step, with a checkpoint."""

import os
import signal
import socket
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Any, Self

SIGNALS = [getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGHUP") if hasattr(signal, name)]
GRACE = 5.0  # seconds within which the main thread must notice a signal


class Stopped(BaseException):
    """A signal asks the run to end. `code` is the exit code that a shell expects: 128 plus the number of the signal."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.code = 128 + number


class Signals:
    """A context manager within which signals raise Stopped.

    While `patient` is false, a signal raises Stopped immediately. While `patient` is true, the first signal raises
    Stopped only when the run calls `check`, and the second signal raises Stopped immediately. Signals that are ignored,
    as under nohup, stay ignored.

    Python runs signal handlers only in the main thread, between two Python instructions. No handler runs while the main
    thread waits inside PyTorch for another machine or process. Therefore a second thread receives all signals, too
    (see `signal.set_wakeup_fd`). If the main thread does not run the handler of a signal within GRACE seconds, the
    second thread calls each function in `farewells` with a Stopped and ends the process. While `patient` is true, the
    second thread ignores the first signal.
    """

    def __init__(self) -> None:
        self.patient = False
        self.received: int | None = None
        self.farewells: list[Callable[[Stopped], None]] = []
        self._before: dict[int, Any] = {}
        self._arrived = self._noticed = 0

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():  # Python allows no handlers in other threads
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
            self._theirs.close()  # ends the second thread
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def claim(self) -> None:
        """Install the signal handlers. Call this again after other code, such as Lightning, has replaced them."""
        for number in self._before:
            signal.signal(number, self._receive)

    def check(self) -> None:
        """Raise Stopped if a signal has been received."""
        if self.received is not None:
            raise Stopped(self.received)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self._noticed = max(self._noticed + 1, self._arrived)  # equal signals may share one call
        waits, self.received = self.patient and self.received is None, number
        if not waits:
            raise Stopped(number)

    def _watch(self) -> None:
        """Read from the socket which signals have arrived, in the second thread.

        Python's C handler writes the number of each signal into the socket as it arrives.
        """
        with self._ours:
            while numbers := self._ours.recv(1):
                if numbers[0] not in self._before:
                    continue
                self._arrived += 1
                if self._arrived == 1 and self.patient:
                    continue  # the current step may take longer than GRACE
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
