"""A TCP proxy in front of the real broker, with faults on demand."""

from __future__ import annotations

import contextlib
import select
import socket
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import TracebackType


class Gate:
    """Passes on what comes, or does what `mode` says.

    `pass`, `refuse` (connections are closed at once), `hang` (nothing is ever answered), `swallow` (the request is
    passed on, and the answer is not passed back), or `answer` with the bytes of an answer.
    """

    def __init__(self, target: tuple[str, int]) -> None:
        self._target = target
        self._server = socket.create_server(("127.0.0.1", 0))
        self._open: set[socket.socket] = set()
        self._mode = "pass"
        self._times: int | None = None
        self._answer = b""
        self._lock = threading.Lock()
        self.requests = 0
        self.seen = threading.Event()
        """Set when a request came since the mode was set."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.getsockname()[1]}"

    def set(self, mode: str, *, times: int | None = None, answer: bytes = b"") -> None:
        """Change what happens, for so many requests; connections of before are closed."""
        with self._lock:
            self._mode, self._times, self._answer = mode, times, answer
            self.requests = 0
            self.seen.clear()
            closing, self._open = self._open, set()
        for each in closing:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def problem(self, status: int, slug: str, *, times: int | None = None, more: str = "") -> None:
        """Answer with a problem."""
        body = f'{{"type":"https://dayfly.dev/problems/{slug}","title":"","status":{status},"detail":"not now"{more}}}'
        head = f"HTTP/1.1 {status} X\r\ncontent-type: application/problem+json\r\ncontent-length: {len(body)}\r\n\r\n"
        self.set("answer", times=times, answer=(head + body).encode())

    def _take(self) -> str:
        with self._lock:
            self.requests += 1
            self.seen.set()
            mode = self._mode
            if self._times is not None:
                self._times -= 1
                if self._times == 0:
                    self._mode, self._times = "pass", None
            return mode

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self._server.accept()
            except OSError:
                return
            with self._lock:
                self._open.add(client)
            threading.Thread(target=self._connection, args=(client,), daemon=True).start()

    def _connection(self, client: socket.socket) -> None:
        try:
            with client, socket.create_connection(self._target) as broker, self._lock_open(broker):
                while self._request(client, broker):
                    pass
        except OSError:
            pass

    @contextlib.contextmanager
    def _lock_open(self, broker: socket.socket):  # type: ignore[no-untyped-def]
        with self._lock:
            self._open.add(broker)
        try:
            yield
        finally:
            with self._lock:
                self._open.discard(broker)

    def _request(self, client: socket.socket, broker: socket.socket) -> bool:
        data = _message(client)
        if data is None:
            return False
        mode = self._take()
        if mode == "refuse":
            return False
        if mode == "hang":
            select.select([client], [], [])
            return False
        if mode == "answer":
            client.sendall(self._answer)
            return True
        broker.sendall(data)
        answer = _message(broker)
        if mode == "swallow" or answer is None:
            return False
        client.sendall(answer)
        return True

    def __enter__(self) -> Gate:
        threading.Thread(target=self._serve, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.set("refuse")
        self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()


def _message(source: socket.socket) -> bytes | None:
    """Read one request or answer with a length."""
    data = b""
    while b"\r\n\r\n" not in data:
        chunk = source.recv(65536)
        if not chunk:
            return None
        data += chunk
    head, _, body = data.partition(b"\r\n\r\n")
    length = 0
    for line in head.split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            length = int(value)
    while len(body) < length:
        chunk = source.recv(65536)
        if not chunk:
            return None
        body += chunk
    return head + b"\r\n\r\n" + body
