#!/usr/bin/env python3
"""Writes the dashboards for Grafana beside this file: operations, security, providers.

usage: generate.py           writes them
       generate.py --check   fails when what is there is not what would be written

What is in them is held to the metrics that there are, to Grafana's schema and to a real Prometheus by
integration/observe.
`https://docs.example.org/dayfly/guides/alerts/` in their links stands for wherever you serve docs/guides/alerts.md.
"""

import json
import sys
from pathlib import Path

from operations import operations
from providers import providers
from security import security

FOLDER = Path(__file__).resolve().parent


def main() -> int:
    stale = []
    for board in (operations(), security(), providers()):
        file = FOLDER / f"{board.name}.json"
        text = json.dumps(board.json(), indent=2, ensure_ascii=False) + "\n"
        if "--check" not in sys.argv[1:]:
            file.write_text(text)
        elif not file.exists() or file.read_text() != text:
            stale.append(file.name)
    if stale:
        print(f"not what generate.py writes: {', '.join(stale)}: run it", file=sys.stderr)
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
