"""The one thread behind everything: an event loop of our own that makes every request of the process.

Whether the caller is a thread or a coroutine of asyncio or trio, its call becomes a coroutine here, and the caller
waits for what comes of it. So there is one implementation for all callers, heartbeats go on while a caller computes,
and what was begun is not torn apart when a caller is cancelled.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import contextvars
import logging
import os
import sys
import threading
from concurrent import futures
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine

T = TypeVar("T")

log = logging.getLogger("dayfly")

_FAREWELL = 6.0
"""Seconds for which the end of the process waits for tasks that are being completed."""


class _Threads(futures.ThreadPoolExecutor):
    """What the loop cannot do itself, such as look-ups of names, each in a daemon thread of its own.

    One that hangs keeps no other waiting, nor the end of the process; and the farewell can look up names still when
    the interpreter takes nothing more for its pools.
    """

    def submit(self, call: Callable[..., T], /, *args: Any, **more: Any) -> futures.Future[T]:
        future: futures.Future[T] = futures.Future()
        future.set_running_or_notify_cancel()  # it is called, whoever still waits for it

        def run() -> None:
            try:
                future.set_result(call(*args, **more))
            except BaseException as error:  # noqa: BLE001 - whoever waits raises it
                future.set_exception(error)

        try:
            threading.Thread(target=run, name="dayfly call", daemon=True).start()
        except RuntimeError:  # the process ends, and begins no thread more
            run()
        return future


class Worker:
    """A daemon thread with an event loop."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.loop.set_default_executor(_Threads())
        self._tasks: set[asyncio.Task[Any]] = set()
        self._awaited: set[futures.Future[Any]] = set()
        threading.Thread(target=self._run, name="dayfly", daemon=True).start()

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        # The loop lets SystemExit and KeyboardInterrupt through. Whoever waits for what raised it hears of it; it is no
        # reason to leave all others waiting.
        while self._broke_off():
            pass

    def _broke_off(self) -> bool:
        try:
            self.loop.run_forever()
        except BaseException as error:  # noqa: BLE001
            log.error("the loop of dayfly goes on after a %s", type(error).__name__)  # noqa: TRY400 - no frames
            return True
        return False

    def submit(self, work: Coroutine[Any, Any, T], *, last: bool = False) -> futures.Future[T]:
        """Begin some work. The end of the process waits a little for what is said to be the last of something."""
        future: futures.Future[T] = futures.Future()
        if last:
            self._awaited.add(future)
            future.add_done_callback(self._awaited.discard)
        # In a context of its own: in the caller's it may stand that this is trio.
        self.loop.call_soon_threadsafe(self.spawn, _settle(work, future), context=contextvars.Context())
        return future

    def spawn(self, work: Coroutine[Any, Any, Any]) -> None:
        """Begin some work on this loop, from this loop, that nobody waits for."""
        task = self.loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def farewell(self) -> None:
        """Wait for what has to be done before the process ends."""
        futures.wait(set(self._awaited), timeout=_FAREWELL)


async def _settle(work: Coroutine[Any, Any, T], future: futures.Future[T]) -> None:
    try:
        future.set_result(await work)
    except BaseException as error:  # noqa: BLE001 - whoever waits raises it
        future.set_exception(error)


_lock = threading.Lock()
_worker: Worker | None = None


def worker() -> Worker:
    """Give the worker of this process; it begins with the first call."""
    global _worker
    with _lock:
        if _worker is None:
            _worker = Worker()
        return _worker


def wait(future: futures.Future[T]) -> T:
    """Wait in a thread. When the wait is interrupted, the work goes on."""
    return future.result()


async def wait_async(future: futures.Future[T]) -> T:
    """Wait in a coroutine of asyncio or trio. When it is cancelled, the work goes on."""
    if not future.done():
        wake, woken = waker()
        future.add_done_callback(lambda _: wake())
        await woken()
    return future.result()


def waker() -> tuple[Callable[[], None], Callable[[], Awaitable[Any]]]:
    """Give a way for any thread to wake this coroutine, and what this coroutine awaits until then."""
    trio: Any = sys.modules.get("trio")
    if trio is not None and trio.lowlevel.in_trio_run():
        flag, token = trio.Event(), trio.lowlevel.current_trio_token()

        def wake_trio() -> None:
            # Whoever was waiting is gone with its loop.
            with contextlib.suppress(trio.RunFinishedError):
                token.run_sync_soon(flag.set)

        return wake_trio, flag.wait
    event, loop = asyncio.Event(), asyncio.get_running_loop()

    def wake() -> None:
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(event.set)

    return wake, event.wait


def _forget() -> None:
    # A forked child has the memory and not the thread, nor the right to beat for its parent.
    global _worker, _lock
    _worker, _lock = None, threading.Lock()


def _farewell() -> None:
    if _worker is not None:
        _worker.farewell()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
atexit.register(_farewell)
