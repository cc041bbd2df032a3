"""Evidence: what proves to the broker which workload this is, a JWT from whoever vouches for it.

Where it comes from is found by itself (:func:`find`), or said: ``Broker(evidence=…)`` takes one of the sources here,
the path of a file, or a function or coroutine function that gives the text. A coroutine function runs on a loop of
this package, not on the caller's.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import inspect
import json
import os
import re
import time
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, runtime_checkable
from urllib.parse import urlsplit

import httpx

from ._errors import AttestationFailed, InvalidRequest
from ._secret import Secret
from ._transport import check_url, is_loopback

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = [
    "Callback",
    "Environment",
    "Evidence",
    "EvidenceLike",
    "File",
    "Found",
    "GitHubActions",
    "Spiffe",
    "find",
]

_KUBERNETES = "/var/run/secrets/dayfly/token"
_LONGEST = 16 << 10
_AT_ONCE = 8
"""How many calls of one function for evidence are under way at the same time."""


@runtime_checkable
class Evidence(Protocol):
    """A source of evidence."""

    async def get(self, *, fresh: bool = False) -> Secret:
        """Give evidence that holds now; with `fresh`, none that was given before.

        Raises :class:`~dayfly.AttestationFailed` when there is none to be had.
        """


EvidenceLike: TypeAlias = (
    Evidence | str | os.PathLike[str] | Callable[[], "str | Secret | Awaitable[str | Secret]"]
)
"""A source, the path of a file, or a function or coroutine function that gives the text."""


class File:
    """A file that somebody keeps fresh. It is read anew for each request."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        if _looks_like_token(os.fspath(path)):  # a path is named in errors and shown
            path = ""
            raise InvalidRequest(
                "this is a token, and no path: give the path of a file, or a function that gives it"
            )
        self.path = Path(path)

    async def get(self, *, fresh: bool = False) -> Secret:
        try:
            token = self._read()
        except OSError as error:
            reason = error.strerror
        else:
            return _found(token, f"the file {self.path}")
        raise AttestationFailed(f"the evidence in {self.path} cannot be read: {reason}")

    def _read(self) -> Secret | None:
        with self.path.open("rb") as file:
            return _token(file.read(_LONGEST + 1).decode("ascii", "replace"))

    def __repr__(self) -> str:
        return f"File({str(self.path)!r})"


class Environment:
    """A variable of the environment that holds the token itself, as CI systems do it. It is read once."""

    def __init__(self, name: str = "DAYFLY_EVIDENCE") -> None:
        self.name = name
        self._token = _found(_token(os.environ.get(name)), f"the variable {name}")

    async def get(self, *, fresh: bool = False) -> Secret:
        return self._token

    def __repr__(self) -> str:
        return f"Environment({self.name!r})"


class Callback:
    """A function or a coroutine function that gives the text, asked for each request."""

    def __init__(self, function: Callable[[], str | Secret | Awaitable[str | Secret]]) -> None:
        self._function = function
        self._places: tuple[asyncio.AbstractEventLoop, asyncio.Semaphore] | None = None

    async def get(self, *, fresh: bool = False) -> Secret:
        return _found(await self._ask(), "the function for evidence")

    async def _ask(self) -> Secret | None:
        if inspect.iscoroutinefunction(self._function):
            given = await self._function()
        else:
            given, problem = await self._in_thread()
            if problem is not None:
                raise AttestationFailed(f"the function for evidence failed ({problem})")
            if inspect.isawaitable(given):
                given = await given
        return _token(given)

    async def _in_thread(self) -> tuple[Any, str | None]:
        """Call it where it may take its time. One that hangs holds a place until it returns, whoever still waits."""
        loop = asyncio.get_running_loop()
        if self._places is None or self._places[0] is not loop:  # a forked process has a loop of its own
            self._places = (loop, asyncio.Semaphore(_AT_ONCE))
        places = self._places[1]

        def call() -> tuple[Any, str | None]:
            try:
                return self._function(), None
            except BaseException as failure:  # noqa: BLE001 - a SystemExit, too: the thread is none of the caller's
                return None, type(failure).__name__
            finally:
                loop.call_soon_threadsafe(places.release)

        await places.acquire()
        return await asyncio.to_thread(call)

    def __repr__(self) -> str:
        return "Callback(…)"


class _Cached:
    """A source that keeps what it got until a part of its life is over."""

    def __init__(self) -> None:
        self._kept: tuple[Secret, float] | None = None
        self._asking: tuple[asyncio.AbstractEventLoop, asyncio.Lock] | None = None

    async def get(self, *, fresh: bool = False) -> Secret:
        loop = asyncio.get_running_loop()
        if self._asking is None or self._asking[0] is not loop:  # a forked process has a loop of its own
            self._asking = (loop, asyncio.Lock())
        before = self._kept
        async with self._asking[1]:
            # Whoever waited meanwhile takes what the one before got.
            if (
                self._kept is not None
                and time.time() < self._kept[1]
                and (not fresh or self._kept is not before)
            ):
                return self._kept[0]
            token = await self._fetch()
            self._kept = (token, self._until(_times(token)))
            return token

    async def _fetch(self) -> Secret:
        raise NotImplementedError

    def _until(self, times: tuple[float, float]) -> float:
        raise NotImplementedError


class Spiffe(_Cached):
    """The SPIFFE Workload API, which gives JWT-SVIDs (``FetchJWTSVID``). Takes ``dayfly[spiffe]``.

    `socket` is ``unix:///path`` or ``tcp://ip:port``. A token is kept until half of its life is over.
    """

    def __init__(self, socket: str, audience: str) -> None:
        super().__init__()
        self.socket = socket
        self.audience = audience

    async def _fetch(self) -> Secret:
        try:
            import grpc
        except ImportError:
            raise AttestationFailed(
                "the SPIFFE Workload API takes a package more: pip install 'dayfly[spiffe]'"
            ) from None
        token, problem = None, "it gave no token"
        try:
            token = await self._ask(grpc)
        except grpc.RpcError as error:
            problem = f"it answered {error.code().name}"
        except ValueError:
            pass
        if token is None:
            raise AttestationFailed(f"the SPIFFE Workload API at {self.socket} cannot help: {problem}")
        return token

    async def _ask(self, grpc: Any) -> Secret | None:
        target = self.socket.removeprefix("tcp://")
        question = b"\x0a" + _varint(len(self.audience.encode())) + self.audience.encode()
        metadata = (("workload.spiffe.io", "true"),)
        async with grpc.aio.insecure_channel(target, options=(("grpc.enable_http_proxy", 0),)) as channel:
            ask = channel.unary_unary("/SpiffeWorkloadAPI/FetchJWTSVID")
            return _token(_first_svid(await ask(question, metadata=metadata, timeout=10)))

    def _until(self, times: tuple[float, float]) -> float:
        issued, expires = times
        return issued + (expires - issued) / 2

    def __repr__(self) -> str:
        return f"Spiffe({self.socket!r}, audience={self.audience!r})"


class GitHubActions(_Cached):
    """The identity of a GitHub Actions job. The job takes ``permissions: id-token: write``.

    A token is kept until a minute before its expiry.
    """

    def __init__(self, url: str, request_token: str | Secret, audience: str) -> None:
        super().__init__()
        self._url = url
        self.audience = audience
        held, request_token = _token(request_token), ""  # no frame that raises holds its text
        self._request_token = _found(held, "the job")
        check_url(url.partition("?")[0], "the address for ID tokens", plain_http=False)

    async def _fetch(self) -> Secret:
        status, token = await self._ask()
        if token is None:
            raise AttestationFailed(
                f"GitHub gave no ID token (status {status}): give the job `permissions: id-token: write`"
            )
        return token

    async def _ask(self) -> tuple[int, Secret | None]:
        status, token = 0, None
        loopback = is_loopback(urlsplit(self._url).hostname or "")
        # Nothing of the exchange may be left in an exception: it would hold the token of the job.
        with contextlib.suppress(httpx.HTTPError, ValueError, AttributeError):
            async with httpx.AsyncClient(timeout=10, trust_env=not loopback) as client:
                asked = httpx.URL(self._url).copy_merge_params({"audience": self.audience})
                headers = {"authorization": f"Bearer {self._request_token.reveal()}"}
                answer = await client.get(asked, headers=headers)
            status = answer.status_code
            token = _token(answer.json().get("value")) if status == 200 else None
        return status, token

    def _until(self, times: tuple[float, float]) -> float:
        return times[1] - 60

    def __repr__(self) -> str:
        return f"GitHubActions(audience={self.audience!r})"


class Found:
    """The source that is found by itself, looked for at the first request. See :func:`find`."""

    def __init__(self, broker: str) -> None:
        self._broker = broker
        self._found: Evidence | None = None

    async def get(self, *, fresh: bool = False) -> Secret:
        if self._found is None:
            self._found = find(self._broker)
        return await self._found.get(fresh=fresh)

    def __repr__(self) -> str:
        return f"Found({self._found!r})"


def find(broker: str, environ: Mapping[str, str] | None = None) -> Evidence:
    """Find where evidence comes from here: the first of these that there is.

    1. ``DAYFLY_EVIDENCE_FILE``: a file, read anew for each request
    2. ``DAYFLY_EVIDENCE``: the token itself
    3. ``SPIFFE_ENDPOINT_SOCKET``: the SPIFFE Workload API
    4. ``/var/run/secrets/dayfly/token``: a projected token of Kubernetes
    5. ``ACTIONS_ID_TOKEN_REQUEST_URL`` and ``…_TOKEN``: a job of GitHub Actions
    6. ``DAYFLY_AGENT``, and a broker on loopback: what ``dayfly dev`` writes

    3 and 5 ask for the audience ``DAYFLY_AUDIENCE``, or the broker's address. Raises
    :class:`~dayfly.AttestationFailed`, which lists all of them, where there is none.
    """
    make = _look(broker, os.environ if environ is None else environ)
    if make is not None:
        return make()
    loopback = is_loopback(urlsplit(broker).hostname or "")
    looked_at = [
        "DAYFLY_EVIDENCE_FILE (not set)",
        "DAYFLY_EVIDENCE (not set)",
        "SPIFFE_ENDPOINT_SOCKET (not set)",
        f"{_KUBERNETES} (not there)",
        "ACTIONS_ID_TOKEN_REQUEST_URL and ACTIONS_ID_TOKEN_REQUEST_TOKEN (not set)",
        "DAYFLY_AGENT, for `dayfly dev` (not set)"
        if loopback
        else "DAYFLY_AGENT (for a broker on loopback only)",
    ]
    raise AttestationFailed("there is no evidence of who this is; looked at: " + ", ".join(looked_at))


def _look(broker: str, env: Mapping[str, str]) -> Callable[[], Evidence] | None:
    """Say how to make the source that there is; whatever goes wrong with it is raised without the environment."""
    audience = env.get("DAYFLY_AUDIENCE") or broker
    if path := env.get("DAYFLY_EVIDENCE_FILE"):
        return _misplaced if _looks_like_token(path) else partial(File, path)
    if env.get("DAYFLY_EVIDENCE"):
        return Environment
    if socket := env.get("SPIFFE_ENDPOINT_SOCKET"):
        return partial(Spiffe, socket, audience)
    if Path(_KUBERNETES).exists():
        return partial(File, _KUBERNETES)
    url, token = env.get("ACTIONS_ID_TOKEN_REQUEST_URL"), env.get("ACTIONS_ID_TOKEN_REQUEST_TOKEN")
    if url and token:
        return partial(GitHubActions, url, Secret(token), audience)
    agent = env.get("DAYFLY_AGENT")
    if agent and is_loopback(urlsplit(broker).hostname or ""):
        return partial(File, Path(env.get("DAYFLY_DEV_FOLDER") or ".dayfly") / "evidence" / f"{agent}.jwt")
    return None


def _misplaced() -> Evidence:
    raise AttestationFailed("DAYFLY_EVIDENCE_FILE holds a token, and no path: put it into DAYFLY_EVIDENCE")


def source_of(given: EvidenceLike | None, broker: str) -> Evidence:
    """Read what was given as a source."""
    if given is None:
        return Found(broker)
    if isinstance(given, str | os.PathLike):
        return File(given)
    if isinstance(given, Evidence):
        return given
    return Callback(given)


# What shows the variables of the frames of a traceback would show the text of a token that is refused, or that came
# with an answer. So who reads one gives a secret, or nothing, and it is whoever called that raises.


def _token(given: Any) -> Secret | None:
    """Read what was given as a token; nothing where it is none."""
    text = given.reveal() if isinstance(given, Secret) else given
    token = text.strip() if isinstance(text, str) else ""
    if not 0 < len(token) <= _LONGEST or not all("!" <= letter <= "~" for letter in token):
        return None
    return Secret(token)


def _looks_like_token(text: str | bytes) -> bool:
    """Whether a text is a JWT by its looks: its first part is the header, a JSON object."""
    parts = (text if isinstance(text, str) else "").strip().split(".")
    if len(parts) < 3 or not all(re.fullmatch("[A-Za-z0-9_-]*", part) for part in parts):
        return False
    try:
        header = json.loads(base64.urlsafe_b64decode(parts[0] + "=" * (-len(parts[0]) % 4)))
    except (ValueError, RecursionError):
        return False
    return isinstance(header, dict)


def _found(token: Secret | None, whose: str) -> Secret:
    if token is None:
        raise AttestationFailed(f"{whose} holds no token")
    return token


def _times(token: Secret) -> tuple[float, float]:
    """Read when a token was issued and when it ends, on the word of whoever gave it; otherwise it is kept no time."""
    now = time.time()
    try:
        part = token.reveal().split(".")[1]
        claims = json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
        return float(claims.get("iat", now)), float(claims["exp"])
    except (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError):
        return now, now


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*out, number])


def _fields(message: bytes) -> dict[int, bytes]:
    """Read the first field of each number that holds bytes (Protocol Buffers encoding)."""
    found: dict[int, bytes] = {}
    at = 0

    def number() -> int:
        nonlocal at
        value, shift = 0, 0
        while True:
            if at >= len(message) or shift > 63:
                raise ValueError
            byte = message[at]
            at += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    while at < len(message):
        tag = number()
        if tag & 7 == 0:
            number()
        elif tag & 7 == 2:
            length = number()
            if at + length > len(message):
                raise ValueError
            found.setdefault(tag >> 3, message[at : at + length])
            at += length
        else:
            raise ValueError
    return found


def _first_svid(answer: bytes) -> str:
    """Read the first token of a `JWTSVIDResponse`: field 1 of it is a `JWTSVID`, field 2 of that the token."""
    return _fields(_fields(answer).get(1, b"")).get(2, b"").decode("ascii")
