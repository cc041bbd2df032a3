"""A CRM that speaks MCP over HTTP and takes Dayfly's tokens, with the MCP SDK and Dayfly's own for Python.

usage: server.py BROKER EVIDENCE

Prints where it is, and serves until it is killed.
"""

import asyncio
import hashlib
import socket
import sys

import uvicorn
from mcp.server.auth.settings import AuthSettings
from mcp.server.mcpserver import Context, MCPServer

from dayfly.mcp import TokenVerifier, demand
from dayfly.resource import Verifier

broker, evidence = sys.argv[1:]
verifier = Verifier(broker, "https://crm.example.org", evidence=evidence)
listener = socket.create_server(("127.0.0.1", 0))
url = f"http://127.0.0.1:{listener.getsockname()[1]}/mcp"
settings = AuthSettings(issuer_url=broker, resource_server_url=url, validate_token_resource=False)
crm = MCPServer("CRM", token_verifier=TokenVerifier(verifier), auth=settings)


@crm.tool()
def show(customer: int) -> str:
    """Show a customer."""
    claims = demand("read", f"customers/{customer}")
    return f"{claims.agent} reads {customer}"


@crm.tool()
def which() -> str:
    """Say which token came, without saying it, and of which task it is."""
    from mcp.server.auth.middleware.auth_context import get_access_token

    token = get_access_token()
    assert token is not None
    return hashlib.sha256(token.token.encode()).hexdigest() + " " + token.claims["txn"]


@crm.tool()
async def learn(ctx: Context) -> str:
    """Get another tool, and say so: to whoever asked, and to whoever listens."""
    await ctx.report_progress(1, 2, "half")
    await ctx.session.send_tool_list_changed()
    await ctx.notify_tools_changed()
    return "learnt"


print(url, flush=True)
server = uvicorn.Server(uvicorn.Config(crm.streamable_http_app(), log_level="warning"))
asyncio.run(server.serve([listener]))
