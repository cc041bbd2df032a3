"""A tool that accepts Dayfly's tokens: a CRM in thirty lines of ASGI.

    DAYFLY_AGENT=crm-server uvicorn crm_tool:app --port 8442

with `dayfly dev` running. Its tokens are those of the CRM: `dayfly task issue … --tool crm`.
"""

from __future__ import annotations

import json
import os
from typing import Any

from dayfly.resource import Claims, Middleware, Receive, Scope, Send, Verifier

CUSTOMERS = {"/customers/42": "Harbour Books", "/customers/43": "Mill Street Bakery"}


async def crm(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer who has passed the middleware."""
    if scope["type"] != "http":
        return
    claims: Claims = scope["dayfly"]
    name = CUSTOMERS.get(scope["path"])
    answer = {"name": name, "read_by": claims.agent, "for": claims.user}
    headers = [(b"content-type", b"application/json")]
    await send({"type": "http.response.start", "status": 200 if name else 404, "headers": headers})
    await send({"type": "http.response.body", "body": json.dumps(answer).encode()})


def needs(scope: Any) -> tuple[str, str | None]:
    """Say what a request takes: to read the customer that its path names."""
    return "read", scope["path"].strip("/")


broker = os.environ.get("DAYFLY_BROKER", "http://127.0.0.1:8440")
app = Middleware(crm, Verifier(broker, "https://crm.example.org"), needs)
