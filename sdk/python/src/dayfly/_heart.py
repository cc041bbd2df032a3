"""Heartbeats: one coroutine for all tasks of the process.

It holds tasks weakly. A task that nobody holds any more, because whoever worked on it is gone, gets no heartbeat, and
the broker ends it.
"""

from __future__ import annotations

import asyncio
import random
import time
import weakref
from typing import TYPE_CHECKING

from ._worker import Worker, worker

if TYPE_CHECKING:
    from ._core import Core
    from ._transport import Transport

_AT_ONCE = 16
"""How many heartbeats of one broker are under way at the same time."""


class Heart:
    """The heartbeats of one worker."""

    def __init__(self, owner: Worker) -> None:
        self._owner = owner
        self._due: dict[object, tuple[float, weakref.ref[Core]]] = {}
        self._beating: set[object] = set()
        self._changed = asyncio.Event()
        # A broker that hangs takes no place from another.
        self._places: weakref.WeakKeyDictionary[Transport, asyncio.Semaphore] = weakref.WeakKeyDictionary()
        self._runs = False

    def tend(self, core: Core) -> None:
        """Beat for this task at a third of its heartbeat, while it is open and somebody holds it."""
        if core.heartbeat is None:
            return
        mark = object()
        weak = weakref.ref(core, lambda _: self._due.pop(mark, None))
        self._owner.loop.call_soon_threadsafe(self._add, mark, weak, core.heartbeat)

    def _add(self, mark: object, weak: weakref.ref[Core], heartbeat: int) -> None:
        if weak() is None:
            return
        self._due[mark] = (time.monotonic() + _interval(heartbeat), weak)
        self._changed.set()
        if not self._runs:
            self._runs = True
            self._owner.spawn(self._run())

    async def _run(self) -> None:
        while True:
            at = time.monotonic()
            for mark, (due, weak) in list(self._due.items()):
                if due > at:
                    continue
                core = weak()
                if core is None or core.state == "ended" or core.heartbeat is None:
                    self._due.pop(mark, None)
                    continue
                self._due[mark] = (at + _interval(core.heartbeat), weak)
                if core.state == "open" and mark not in self._beating:
                    self._beating.add(mark)
                    self._owner.spawn(self._beat(mark, weak))
                del core
            first = min((due for due, _ in list(self._due.values())), default=None)
            self._changed.clear()
            try:
                pause = None if first is None else max(0.0, first - time.monotonic())
                await asyncio.wait_for(self._changed.wait(), pause)
            except asyncio.TimeoutError:
                pass

    async def _beat(self, mark: object, weak: weakref.ref[Core]) -> None:
        try:
            async with self._place(weak):
                core = weak()
                if core is not None and core.state == "open":
                    await core.beat()
        finally:
            self._beating.discard(mark)

    def _place(self, weak: weakref.ref[Core]) -> asyncio.Semaphore:
        core = weak()
        if core is None:
            return asyncio.Semaphore(1)
        return self._places.setdefault(core.transport, asyncio.Semaphore(_AT_ONCE))


def _interval(heartbeat: int) -> float:
    """A third, or a little less, so that the heartbeats of many tasks spread."""
    return heartbeat / 3 * random.uniform(0.85, 1.0)  # noqa: S311 - spreads load, guards nothing


_hearts: weakref.WeakKeyDictionary[Worker, Heart] = weakref.WeakKeyDictionary()


def heart() -> Heart:
    """Give the heart of this process's worker."""
    owner = worker()
    found = _hearts.get(owner)
    if found is None:
        found = _hearts.setdefault(owner, Heart(owner))
    return found
