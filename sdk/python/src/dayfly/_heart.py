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

_AT_ONCE = 16
"""How many heartbeats are under way at the same time."""


class Heart:
    """The heartbeats of one worker."""

    def __init__(self, owner: Worker) -> None:
        self._owner = owner
        self._due: dict[int, tuple[float, weakref.ref[Core]]] = {}
        self._changed = asyncio.Event()
        self._places = asyncio.Semaphore(_AT_ONCE)
        self._runs = False

    def tend(self, core: Core) -> None:
        """Beat for this task at a third of its heartbeat, while it is open and somebody holds it."""
        if core.heartbeat is None:
            return
        mark = id(core)
        weak = weakref.ref(core, lambda _: self._due.pop(mark, None))
        self._owner.loop.call_soon_threadsafe(self._add, mark, weak, core.heartbeat)

    def _add(self, mark: int, weak: weakref.ref[Core], heartbeat: int) -> None:
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
                if core.state == "open":
                    self._owner.spawn(self._beat(weak))
                del core
            first = min((due for due, _ in list(self._due.values())), default=None)
            self._changed.clear()
            try:
                pause = None if first is None else max(0.0, first - time.monotonic())
                await asyncio.wait_for(self._changed.wait(), pause)
            except asyncio.TimeoutError:
                pass

    async def _beat(self, weak: weakref.ref[Core]) -> None:
        async with self._places:
            core = weak()
            if core is not None and core.state == "open":
                await core.beat()


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
