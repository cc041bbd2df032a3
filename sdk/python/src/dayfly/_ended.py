"""Flags that say that a task is over, for threads and for coroutines."""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING

from ._worker import waker

if TYPE_CHECKING:
    from collections.abc import Callable


log = logging.getLogger("dayfly")


class Signal:
    """Is set once, by any thread, and calls whoever wants to know, once each."""

    def __init__(self) -> None:
        self.event = threading.Event()
        self._lock = threading.Lock()
        self._wanted: dict[object, Callable[[], None]] = {}

    def set(self) -> None:
        with self._lock:
            self.event.set()
            wanted, self._wanted = self._wanted, {}
        for call in wanted.values():
            _tell(call)

    def add(self, call: Callable[[], None]) -> object:
        """Have this called; at once where it is set already. It has to be quick, and may run in any thread."""
        mark = object()
        with self._lock:
            if not self.event.is_set():
                self._wanted[mark] = call
                return mark
        _tell(call)
        return mark

    def remove(self, mark: object) -> None:
        with self._lock:
            self._wanted.pop(mark, None)


def _tell(call: Callable[[], None]) -> None:
    """Call somebody who wants to know. What that raises is kept from the others, and from what ends the task."""
    try:
        call()
    except BaseException as error:  # noqa: BLE001 - somebody else's
        log.warning("what was to be called at the end of a task raised a %s", type(error).__name__)


class Ended:
    """Is set once the task is over, whoever ended it. For threads."""

    def __init__(self, signal: Signal) -> None:
        self._signal = signal

    def is_set(self) -> bool:
        """Whether the task is over, as far as this process knows."""
        return self._signal.event.is_set()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until it is over, or for so many seconds. Answers whether it is."""
        return self._signal.event.wait(timeout)

    def call(self, function: Callable[[], None]) -> None:
        """Have a function called when it is over. It runs in a thread of this package, and has to be quick.

        What it raises is logged by its kind, and goes no further.
        """
        self._signal.add(function)


class AsyncEnded(Ended):
    """Is set once the task is over, whoever ended it. For coroutines of asyncio and trio."""

    async def wait(self) -> None:  # type: ignore[override]
        """Wait until it is over."""
        wake, woken = waker()
        mark = self._signal.add(wake)
        try:
            await woken()
        finally:
            self._signal.remove(mark)
