"""Requests to the broker: with evidence, never elsewhere, tried again where that can help."""

from __future__ import annotations

import asyncio
import ipaddress
import json
import logging
import random
import time
import uuid
import weakref
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import httpx

from ._errors import AttestationFailed, BrokerUnavailable, DayflyError, InvalidRequest, from_answer
from ._worker import Worker, worker

if TYPE_CHECKING:
    import ssl
    from collections.abc import Mapping

    from ._secret import Secret
    from .evidence import Evidence

log = logging.getLogger("dayfly")

TIMEOUT = 30.0
CONNECT_TIMEOUT = 5.0
LONGEST_ANSWER = 8 << 20
TRIES = 4
ALL_TRIES = 10.0
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 5.0


@dataclass(frozen=True)
class Request:
    """One question to the broker. Every one may be repeated: some because they bear an idempotency key."""

    method: str
    path: str
    json: Mapping[str, Any] | None = None
    form: Mapping[str, Secret] | None = field(default=None, repr=False)
    query: Mapping[str, str] | None = None
    key: str | None = None
    authenticated: bool = True
    patience: float = TIMEOUT


@dataclass(frozen=True)
class _Answer:
    status: int
    headers: Mapping[str, str]
    body: Any = field(repr=False)


def new_key() -> str:
    """Draw an idempotency key."""
    return uuid.uuid4().hex


def is_loopback(host: str) -> bool:
    """Whether this host is the machine itself."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def check_url(url: str, what: str, *, plain_http: bool) -> str:
    """Read an address that evidence may be sent to, without a slash at its end."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise InvalidRequest(f"{what} {url!r} is no http or https URL")
    if parts.username or parts.password or parts.query or parts.fragment:
        raise InvalidRequest(f"{what} has a user, a query or a fragment: leave them out")
    if parts.scheme == "http" and not is_loopback(parts.hostname) and not plain_http:
        raise InvalidRequest(
            f"{what} {url!r} is plain HTTP, and evidence would be sent in clear: use https, or say allow_plain_http"
        )
    return url.rstrip("/")


class Transport:
    """The way to one broker, for the worker's loop."""

    def __init__(
        self, address: str, evidence: Evidence, *, verify: ssl.SSLContext | None, plain_http: bool
    ) -> None:
        self.address = check_url(address, "the broker's address", plain_http=plain_http)
        self.evidence = evidence
        self._verify = verify
        self._clients: dict[Worker, httpx.AsyncClient] = {}
        weakref.finalize(self, _abandon, self._clients).atexit = False

    def client(self) -> httpx.AsyncClient:
        """Give the client of this worker: a forked process begins with connections of its own."""
        current = worker()
        if current not in self._clients:
            loopback = is_loopback(urlsplit(self.address).hostname or "")
            self._clients.clear()  # those of the process that this was forked from are not ours to close
            self._clients[current] = httpx.AsyncClient(
                timeout=httpx.Timeout(TIMEOUT, connect=CONNECT_TIMEOUT),
                verify=True if self._verify is None else self._verify,
                follow_redirects=False,
                trust_env=not loopback,
            )
        return self._clients[current]

    async def close(self) -> None:
        """Close the connections. The next request opens new ones."""
        client = self._clients.pop(worker(), None)
        if client is not None:
            await client.aclose()

    async def call(self, request: Request) -> Any:
        """Ask, and give the answer's JSON. Raises the error that the answer stands for."""
        began, tries, fresh = time.monotonic(), 0, False
        while True:
            asked = time.monotonic()
            evidence = await self._attest(fresh, request.patience) if request.authenticated else None
            # What the evidence took is not there for the answer.
            answer = await self._send(request, evidence, request.patience - (time.monotonic() - asked))
            if isinstance(answer, _Answer) and 200 <= answer.status < 300:
                return answer.body
            error = answer if isinstance(answer, DayflyError) else from_answer(*_parts(answer))
            log.debug("%s %s: %s", request.method, request.path, error)
            if error.slug == "unidentified" and not fresh:
                fresh = True
                continue
            tries += 1
            pause = _pause(error, tries, ALL_TRIES - (time.monotonic() - began))
            if pause is None:
                raise error
            await asyncio.sleep(pause)

    async def _attest(self, fresh: bool, patience: float) -> Secret:
        try:
            given = await asyncio.wait_for(self._evidence(fresh), patience)
        except asyncio.TimeoutError:
            given = "it gave nothing in time"
        if isinstance(given, str):
            raise AttestationFailed(f"the source of evidence failed ({given})")
        return given

    async def _evidence(self, fresh: bool) -> Secret | str:
        """Give the evidence, or say what went wrong with a source that somebody else wrote."""
        try:
            return await self.evidence.get(fresh=fresh)
        except (DayflyError, asyncio.CancelledError, GeneratorExit):
            raise
        except BaseException as failure:  # noqa: BLE001 - a SystemExit, too: it would stop the loop of everybody
            # What it says or holds may be the evidence.
            return type(failure).__name__

    async def _send(
        self, request: Request, evidence: Secret | None, patience: float
    ) -> _Answer | DayflyError:
        # An exception of the HTTP client holds the request, and that the evidence: no such exception leaves here.
        try:
            return await asyncio.wait_for(self._exchange(request, evidence), patience)
        except (httpx.TimeoutException, asyncio.TimeoutError):
            problem = "it did not answer in time"
        except httpx.ConnectError:
            problem = "nobody listens there, or the way there is closed"
        except ValueError:
            problem = "its answer cannot be read"
        except Exception as failure:  # noqa: BLE001 - whatever it is, its frames hold the evidence
            problem = f"the connection failed ({type(failure).__name__})"
        return BrokerUnavailable(f"the broker at {self.address} cannot be reached: {problem}")

    async def _exchange(self, request: Request, evidence: Secret | None) -> _Answer:
        headers = {"accept": "application/json"}
        if evidence is not None:
            headers["authorization"] = f"Bearer {evidence.reveal()}"
        if request.key is not None:
            headers["idempotency-key"] = request.key
        form = {name: value.reveal() for name, value in request.form.items()} if request.form else None
        asked = self.client().stream(
            request.method,
            self.address + request.path,
            params=request.query,
            headers=headers,
            json=request.json,
            data=form,
        )
        async with asked as response:
            body = bytearray()
            async for chunk in response.aiter_bytes():
                body += chunk
                if len(body) > LONGEST_ANSWER:
                    raise ValueError
            is_json = response.headers.get("content-type", "").partition(";")[0].endswith("json")
            log.debug("%s %s: %s", request.method, request.path, response.status_code)
            return _Answer(
                response.status_code, dict(response.headers), json.loads(body) if is_json and body else None
            )


def _abandon(clients: dict[Worker, httpx.AsyncClient]) -> None:
    """Close the connections of a broker that nobody holds any more."""
    for owner, client in clients.items():
        if owner is worker():
            owner.submit(client.aclose())


def _parts(answer: _Answer) -> tuple[int, Any, Mapping[str, str]]:
    return answer.status, answer.body, answer.headers


def _pause(error: DayflyError, tries: int, left: float) -> float | None:
    """Say how long to wait before the next try; none where there is no sense or no time for one."""
    if not error.retryable or tries >= TRIES:
        return None
    most = min(LONGEST_PAUSE, FIRST_PAUSE * 2.0 ** (tries - 1))
    pause = max(random.uniform(0, most), error.retry_after or 0.0)  # noqa: S311 - spreads load, guards nothing
    return pause if pause < left else None
