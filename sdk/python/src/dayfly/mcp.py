"""The Model Context Protocol: tokens for each request of a client, and the verifier of a server.

Takes ``dayfly[mcp]``. A client:

    async with broker.task("answer ticket 4711", "crm:read") as task, Client(connect(URL, task, "crm:read")) as client:
        await client.call_tool("show", {"customer": 42})

A server, which takes version 2 of ``mcp``; :func:`demand` is what decides, because scopes know nothing of resources:

    server = MCPServer("CRM", token_verifier=TokenVerifier(verifier), auth=AuthSettings(…))

    @server.tool()
    def show(customer: int) -> str:
        demand("read", f"customers/{customer}")
"""

from __future__ import annotations

import importlib.metadata
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from ._errors import InvalidRequest
from ._transport import is_loopback
from .resource import Claims, InvalidToken, MissingToken, Stale, Verifier

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable

    from mcp.server.auth.provider import AccessToken

    from ._access import AccessLike
    from ._task import AsyncTask, Task

__all__ = ["TokenVerifier", "auth", "connect", "demand"]


def auth(
    task: AsyncTask | Task,
    tool: AccessLike,
    actions: str | Iterable[str] | None = None,
    resources: str | Iterable[str] = (),
    *,
    origins: Iterable[str] | None = None,
) -> Any:
    """Give the ``auth`` of a client for the streamable HTTP transport; see :meth:`dayfly.Task.auth`.

    It is an ``httpx2.Auth`` for version 2 of the package ``mcp``, and an ``httpx.Auth`` for version 1. A token is
    taken for each request, so a connection may outlive it.
    """
    own = task.auth(tool, actions, resources, origins=origins)
    if _major() < 2:
        return own
    import httpx2

    class Auth(httpx2.Auth):
        def sync_auth_flow(self, request: Any) -> Any:
            return own.sync_auth_flow(request)

        def async_auth_flow(self, request: Any) -> Any:
            return own.async_auth_flow(request)

        def __repr__(self) -> str:
            return repr(own)

    return Auth()


@asynccontextmanager
async def connect(
    url: str,
    task: AsyncTask,
    tool: AccessLike,
    actions: str | Iterable[str] | None = None,
    resources: str | Iterable[str] = (),
    *,
    origins: Iterable[str] | None = None,
) -> AsyncIterator[Any]:
    """Give a transport for ``mcp.Client`` that takes a token of the task for each request. For version 2 of ``mcp``."""
    import httpx2
    from mcp.client.streamable_http import streamable_http_client

    bound = auth(task, tool, actions, resources, origins=origins)
    # As the transport's own client: an answer may be a stream that stays open.
    patience = httpx2.Timeout(30, read=300)
    # What this machine serves is reached without a proxy of the environment, which would see the tokens.
    proxies = not is_loopback(urlsplit(url).hostname or "")
    async with (
        httpx2.AsyncClient(auth=bound, timeout=patience, trust_env=proxies) as client,
        streamable_http_client(url, http_client=client) as streams,
    ):
        yield streams


class TokenVerifier:
    """The ``token_verifier`` of an MCP server of version 2 of ``mcp``. Give ``AuthSettings(validate_token_resource=False, …)``: it checks ``aud``.

    A token that does not hold is answered with 401. Where revocations were not read lately enough, the request fails
    (:class:`~dayfly.resource.Stale`), and the server answers 500; put :class:`dayfly.resource.Middleware` in front of
    the application for a 503.
    """

    def __init__(self, verifier: Verifier) -> None:
        _demand_two()
        self._verifier = verifier

    async def verify_token(self, token: str) -> AccessToken | None:
        """Accept a token, or give nothing."""
        from mcp.server.auth.provider import AccessToken

        try:
            claims = await self._verifier.averify(token)
        except Stale:
            raise
        except InvalidToken:
            return None
        accepted: AccessToken = _Accepted.of(AccessToken)(
            token=token,
            client_id=claims.agent,
            scopes=str(claims.raw.get("scope", "")).split(),
            expires_at=int(claims.expires_at.timestamp()),
            resource=claims.audience,
            subject=claims.subject,
            claims=dict(claims.raw),
            dayfly=claims,
        )
        return accepted


class _Accepted:
    """The server's class for tokens, with our claims beside."""

    made: Any = None

    @classmethod
    def of(cls, base: Any) -> Any:
        if cls.made is None:
            from pydantic import ConfigDict

            class Accepted(base):  # type: ignore[misc]
                model_config = ConfigDict(arbitrary_types_allowed=True)
                dayfly: Any = None

                def __repr_args__(self) -> Any:
                    return [(name, value) for name, value in super().__repr_args__() if name != "token"]

            cls.made = Accepted
        return cls.made


def _major() -> int:
    return int(importlib.metadata.version("mcp").partition(".")[0])


def _demand_two() -> None:
    # Version 1 runs every call of a session in the context of the request that opened it, so the token to be judged
    # would be that one, and not the one that came with the call.
    if _major() < 2:
        raise InvalidRequest("a server takes version 2 of the package: pip install 'mcp>=2'")


def demand(action: str, resource: str | None = None) -> Claims:
    """Raise unless the token of the request permits this; in a tool of an MCP server. Gives the claims.

    Raises :class:`~dayfly.resource.NotPermitted`, or :class:`~dayfly.resource.MissingToken` outside of a request.
    """
    _demand_two()
    from mcp.server.auth.middleware.auth_context import get_access_token

    claims: Claims | None = getattr(get_access_token(), "dayfly", None)
    if claims is None:
        raise MissingToken("there is no request with a Dayfly token around this call")
    claims.demand(action, resource)
    return claims
