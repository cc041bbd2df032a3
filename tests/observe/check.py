"""What operators see, held to what there is.

usage: check.py DAYFLY FOLDER
"""

import sys
import time
from pathlib import Path

import live
import metrics
import rules

dayfly, state = sys.argv[1], Path(sys.argv[2]).resolve()
root = Path(__file__).resolve().parents[2]
chart = root / "charts/dayfly"
rules_path = chart / "rules/dayfly.yaml"
began = time.monotonic()


def say(text: str) -> None:
    print(f"{text} ({time.monotonic() - began:.0f} s)", flush=True)


known = metrics.reference(root / "docs/reference/metrics.md")
shipped = rules.load(rules_path)
rules.check_names(shipped, known)
rules.check_annotations(shipped, (root / "docs/guides/alerts.md").read_text())
cases = rules.check_cases(shipped, rules_path, root / "tests/observe/rules.yaml", state)
say(f"{len(shipped)} rules, {cases} cases: as told")

with live.World(dayfly, state, rules_path) as world:
    live.check_targets(world)
    world.work()
    live.until("a decision in Prometheus", lambda: world.value('dayfly_decisions_total{result="denied"}'))
    scraped = metrics.scraped(world.scrape())
    for name, metric in scraped.items():
        assert name in known, f"{name} is scraped, and docs/reference/metrics.md does not have it"
        assert metric.kind == known[name].kind, f"{name} is a {metric.kind}"
        assert metric.labels <= known[name].labels, f"{name} has the labels {sorted(metric.labels)}"
    live.check_rules(world, len(shipped))
say(f"{len(scraped)} of {len(known)} metrics scraped: as told")
