"""What operators see, held to what there is.

usage: check.py DAYFLY FOLDER
"""

import re
import subprocess
import sys
import time
from pathlib import Path

import grafana
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


def decisions(text: str) -> float:
    return sum(
        float(line.rsplit(" ", 1)[1]) for line in text.splitlines() if line.startswith("dayfly_decisions_total{")
    )


known = metrics.reference(root / "docs/reference/metrics.md")
shipped = rules.load(rules_path)
recorded = rules.recorded(shipped)
rules.check_names(shipped, known)
rules.check_annotations(shipped, (root / "docs/guides/alerts.md").read_text())

subprocess.run([sys.executable, str(chart / "dashboards/generate.py"), "--check"], check=True)
dashboards = sorted((chart / "dashboards").glob("*.json"))
assert [path.stem for path in dashboards] == ["operations", "providers", "security"], dashboards
alerts = {rule["alert"].lower() for rule in shipped if "alert" in rule}
queries = []
for path in dashboards:
    assert grafana.runbooks(path) <= {""} | alerts, f"{path.name}: {grafana.runbooks(path) - alerts}"
    for where, query, legend in grafana.check(path):
        names, left = metrics.used(query, known, recorded)
        for label in re.findall(r"\{\{(\w+)\}\}", legend):
            assert label in left, f"{where} shows {label}, which its query does not keep"
        queries.append((where, query, names))
    for query in grafana.variable_queries(path):
        queries.append((f"{path.name}: variables", query, metrics.used(query, known, recorded)[0]))
say(f"{len(dashboards)} dashboards, {len(queries)} queries: as Grafana takes them")

cases = rules.check_cases(shipped, rules_path, root / "tests/observe/rules.yaml", state)
say(f"{len(shipped)} rules, {cases} cases: as told")

with live.World(dayfly, state, rules_path) as world:
    live.check_targets(world)
    # Twice, with a scrape between: what changes is seen from the second value on.
    for _ in range(2):
        world.work()
        live.until("all that was decided in Prometheus", lambda: world.decided() == decisions(world.scrape()))
    scraped = metrics.scraped(world.scrape())
    for name, metric in scraped.items():
        assert name in known, f"{name} is scraped, and docs/reference/metrics.md does not have it"
        assert metric.kind == known[name].kind, f"{name} is a {metric.kind}"
        assert metric.labels <= known[name].labels, f"{name} has the labels {sorted(metric.labels)}"
    live.check_rules(world, len(shipped))
    live.check_queries(world, queries, set(scraped))
    world.spoil_the_rules()
    live.check_alert(world, "DayflyReloadFailed")
say(f"{len(scraped)} of {len(known)} metrics scraped, every query answered: as told")
