"""Fifty agents at once, and half of them come to grief in the middle of their work.

Ten are processes of their own and five of those die without a word (`os._exit`); forty are coroutines, of which some
raise and some are cancelled. Whoever ends in a way that Python notices has its credentials ended before the program
goes on; whoever just dies is found out by the missing heartbeats. Then nothing is left alive.

    DAYFLY_AGENT=support-bot python fifty_agents.py

prints one line of JSON: each task with how its agent ended.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import sys
from typing import Any

from dayfly import Broker

SCOPE = "crm:read,comment@customers/42"
HEARTBEAT = 9


async def work(broker: Broker, number: int, fate: str) -> dict[str, Any]:
    """Do a little, and then what fate says."""
    note: dict[str, Any] = {"agent": number, "fate": fate}
    try:
        async with broker.task(f"ticket {number}", SCOPE, heartbeat=HEARTBEAT) as task:
            note["task"] = task.id
            read, comment = await asyncio.gather(
                task.credential("crm:read@customers/42"), task.credential("crm:comment@customers/42")
            )
            note["leases"] = [read.lease_id, comment.lease_id]
            if fate == "dies":
                print(json.dumps(note), flush=True)
                os._exit(1)
            if fate == "raises":
                raise RuntimeError("the model said something odd")
            if fate == "cancelled":
                asyncio.get_running_loop().call_soon(asyncio.current_task().cancel)  # type: ignore[union-attr]
                await asyncio.sleep(3600)
            await asyncio.sleep(random.uniform(0, 0.2))
    except (RuntimeError, asyncio.CancelledError):
        pass
    return note


async def process(number: int, fate: str) -> dict[str, Any]:
    """Do the same in a process of its own."""
    child = await asyncio.create_subprocess_exec(
        sys.executable, __file__, str(number), fate, stdout=asyncio.subprocess.PIPE
    )
    out, _ = await child.communicate()
    note: dict[str, Any] = json.loads(out)
    return note


async def main() -> None:
    """Send them all."""
    broker = Broker()
    if len(sys.argv) == 3:
        print(json.dumps(await work(broker, int(sys.argv[1]), sys.argv[2])))
        return
    # One works, one dies, and so on; the rest as it comes.
    children = ["works", "dies"] * 5
    fates = [random.choice(["works", "raises", "cancelled"]) for _ in range(37)] + [
        "works",
        "raises",
        "cancelled",
    ]
    notes = await asyncio.gather(
        *(process(number, fate) for number, fate in enumerate(children)),
        *(work(broker, number, fate) for number, fate in enumerate(fates, len(children))),
    )
    print(json.dumps(notes))


if __name__ == "__main__":
    asyncio.run(main())
