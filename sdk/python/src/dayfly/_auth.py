"""Tokens on requests: one for each request, to the tool's own origins alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import httpx

from ._errors import InvalidRequest, OriginRefused
from ._worker import wait, wait_async, worker

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Generator, Iterable

    from ._access import Access
    from ._core import Core
    from ._credential import Credential

_PORTS = {"http": 80, "https": 443}


class SyncTokens:
    """Where a thread gets credentials of a task from."""

    def __init__(self, core: Core) -> None:
        self.core = core

    def get(self, access: Access, instead_of: Credential | None = None) -> Credential:
        kept = self.core.cached(access) if instead_of is None else None
        if kept is not None:
            return kept
        return wait(worker().submit(self.core.credential(access, None, cache=True, instead_of=instead_of)))


class AsyncTokens(SyncTokens):
    """Where a coroutine gets them from, too."""

    async def aget(self, access: Access, instead_of: Credential | None = None) -> Credential:
        kept = self.core.cached(access) if instead_of is None else None
        if kept is not None:
            return kept
        return await wait_async(
            worker().submit(self.core.credential(access, None, cache=True, instead_of=instead_of))
        )


class Auth(httpx.Auth):
    """Puts a token of a task on each request: ``httpx.AsyncClient(auth=task.auth("crm:read"))``.

    It asks the task for each request, so a client may live longer than a token. The token is put on only where the
    origin of the request (scheme, host and port) is one of the tool's; otherwise the request is not sent, and
    :class:`~dayfly.OriginRefused` is raised. A redirect to another origin goes there without it. When the tool answers
    401, a token is minted anew once, and the request sent again once, where its body can be and nothing redirected it.
    """

    def __init__(self, tokens: SyncTokens, access: Access, origins: Iterable[str] | None) -> None:
        self._tokens = tokens
        self._access = access
        self._origins = None if origins is None else frozenset(origin_of(each) for each in origins)

    def sync_auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        """Attach a token, and once more after a 401."""
        self._refuse_early(request)
        credential = self._tokens.get(self._access)
        self._attach(request, credential)
        _keep_to_origin(request, coroutine=False)
        response = yield request
        if _again(request, response):
            self._attach(request, self._tokens.get(self._access, credential))
            yield request

    async def async_auth_flow(self, request: httpx.Request) -> AsyncGenerator[httpx.Request, httpx.Response]:
        """Attach a token, and once more after a 401."""
        tokens = AsyncTokens(self._tokens.core)
        self._refuse_early(request)
        credential = await tokens.aget(self._access)
        self._attach(request, credential)
        _keep_to_origin(request, coroutine=True)
        response = yield request
        if _again(request, response):
            self._attach(request, await tokens.aget(self._access, credential))
            yield request

    def _refuse_early(self, request: httpx.Request) -> None:
        """Refuse before anything is minted where the caller's own list says no."""
        if self._origins is not None:
            _check(request, self._origins, self._access)

    def _attach(self, request: httpx.Request, credential: Credential) -> None:
        if credential.kind != "bearer_token":
            raise InvalidRequest(
                f"the tool `{credential.tool}` gives a credential of the kind `{credential.kind}`, which is no token: "
                "take it from task.credential(…)"
            )
        _check(request, frozenset(map(origin_of, credential.origins)) or self._origins, self._access)
        request.headers["authorization"] = f"Bearer {credential.token.reveal()}"

    def __repr__(self) -> str:
        return f"Auth({str(self._access)!r})"


def _check(request: httpx.Request, allowed: frozenset[str] | None, access: Access) -> None:
    origin = origin_of(request.url)
    if not allowed:
        raise OriginRefused(
            f"no token for {origin}: the broker names no origins for `{access.tool}`, so name them with origins=[…]",
            origin=origin,
        )
    if origin not in allowed:
        raise OriginRefused(
            f"no token for {origin}: `{access.tool}` is at {', '.join(sorted(allowed))}", origin=origin
        )


def _keep_to_origin(request: httpx.Request, *, coroutine: bool) -> None:
    """Have the token taken off on a redirect from `http` to `https`, where httpx leaves it on.

    It does so at the usual ports of a host, and beneath what an `Auth` sees. What the transport tells as it sends is
    said before it does.
    """
    if request.url.scheme != "http":
        return
    theirs = request.extensions.get("trace")

    def watch(event: str, info: Any) -> Any:
        sent = info.get("request") if event.endswith(".send_request_headers.started") else None
        if sent is not None and sent.url.scheme == b"https":
            sent.headers[:] = [each for each in sent.headers if each[0].lower() != b"authorization"]
        return theirs(event, info) if theirs is not None else None

    async def awatch(event: str, info: Any) -> None:
        answer = watch(event, info)
        if answer is not None:
            await answer

    request.extensions = {**request.extensions, "trace": awatch if coroutine else watch}


def _again(request: httpx.Request, response: httpx.Response) -> bool:
    """Whether it was this request that was refused, and not one that it was redirected to, and can be sent again.

    What was redirected was done, and the body of a request may have been dropped on the way.
    """
    if response.status_code != 401 or response.history:
        return False
    try:
        _ = request.content
    except RuntimeError:  # it was streamed, and is gone
        return False
    return True


def origin_of(url: Any) -> str:
    """Give the scheme, the host and the port of an address, each written one way."""
    parts = urlsplit(str(url))
    scheme = parts.scheme.lower()
    if scheme not in _PORTS or not parts.hostname:
        raise InvalidRequest(f"{str(url)[:100]!r} has no origin: write it like `https://crm.example.org`")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname.lower().rstrip(".")
    port = "" if parts.port in (None, _PORTS[scheme]) else f":{parts.port}"
    return f"{scheme}://{host}{port}"
