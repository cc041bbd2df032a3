"""The rules for Prometheus: well formed, each alert with a runbook, each with cases that fire it and that do not."""

import json
import re
import subprocess
from pathlib import Path

import yaml

from metrics import Metric, used

BASE = "https://docs.example.org/dayfly/guides/alerts/"
INSTALLATION = {"namespace": "agents", "job": "dayfly"}


def load(path: Path) -> list[dict]:
    return [rule for group in yaml.safe_load(path.read_text())["groups"] for rule in group["rules"]]


def recorded(rules: list[dict]) -> dict[str, set[str]]:
    """The rules that record, with their labels: all of them are by installation."""
    return {rule["record"]: {"namespace", "job"} for rule in rules if "record" in rule}


def check_names(rules: list[dict], known: dict[str, Metric]) -> set[str]:
    asked = set()
    for rule in rules:
        names, left = used(rule["expr"], known, recorded(rules))
        asked |= names
        if "record" in rule:
            assert rule["record"].startswith("job:dayfly_"), rule["record"]
        told = re.findall(r"\$labels\.(\w+)", json.dumps(rule.get("annotations", {})))
        for label in told:
            assert label in left, f"{rule['alert']} speaks of {label}, which its expression does not keep"
    return asked


def check_annotations(rules: list[dict], runbooks: str) -> None:
    headings = re.findall(r"(?m)^## (\S+)$", runbooks)
    alerts = [rule["alert"] for rule in rules if "alert" in rule]
    assert len(set(alerts)) == len(alerts), "two alerts have one name"
    assert headings == alerts, f"runbooks and alerts are not the same, in order: {sorted({*headings} ^ {*alerts})}"
    for rule in rules:
        if "alert" not in rule:
            continue
        name, notes = rule["alert"], rule["annotations"]
        assert set(rule["labels"]) == {"severity"} and rule["labels"]["severity"] in ("page", "ticket"), name
        assert set(notes) == {"summary", "description", "runbook_url"}, name
        assert notes["runbook_url"] == f"{BASE}#{name.lower()}", name
        assert "{{" not in notes["description"], f"{name}: values belong into the summary"
        said = re.search(rf"(?m)^## {name}\n\n`(\w+)`", runbooks)
        assert said and said[1] == rule["labels"]["severity"], f"the runbook of {name} begins with its severity"


def check_cases(rules: list[dict], rules_path: Path, cases_path: Path, state: Path) -> int:
    """Has promtool run every case, as tests that it understands."""
    # Texts alone: `0x12` is a series here, and a number in YAML.
    cases = yaml.load(cases_path.read_text(), yaml.BaseLoader)
    alerts = {rule["alert"]: rule for rule in rules if "alert" in rule}
    assert list(cases) == list(alerts), f"cases and alerts are not the same, in order: {sorted({*cases} ^ {*alerts})}"
    promtool("check", "rules", str(rules_path))
    files, count = [], 0
    for name, of in cases.items():
        assert set(of) == {"fires", "quiet"} and of["fires"] and of["quiet"], f"{name} has to have both kinds of cases"
        tests = [as_test(alerts[name], case, kind) for kind in ("fires", "quiet") for case in of[kind]]
        count += len(tests)
        # The alert alone, with what it takes: promtool would evaluate everything at every minute of every case. Cases
        # of hours are looked at less often, but within the five minutes for which a recorded value is good.
        taken = [rule for rule in rules if "record" in rule and rule["record"] in alerts[name]["expr"]]
        alone, file = state / f"{name}.rules.json", state / f"{name}.tests.json"
        groups = [{"name": "recorded", "rules": taken}, {"name": "alert", "rules": [alerts[name]]}]
        alone.write_text(json.dumps({"groups": [group for group in groups if group["rules"]]}))
        every = "4m" if any(takes_hours(case["at"]) for kind in of.values() for case in kind) else "1m"
        file.write_text(json.dumps({"rule_files": [str(alone)], "evaluation_interval": every, "tests": tests}))
        files.append(str(file))
    promtool("test", "rules", *files)
    return count


def as_test(alert: dict, case: dict, kind: str) -> dict:
    # An alert that nothing is there has no installation to name.
    installation = {} if "bare" in case else INSTALLATION
    fired = {
        "exp_labels": {**installation, **case.get("labels", {}), **alert["labels"]},
        "exp_annotations": {**alert["annotations"], "summary": case.get("summary", "")},
    }
    return {
        "name": f"{alert['alert']} {kind}: {case['why']}",
        "interval": "1m",
        "input_series": [
            {"series": of_installation(series), "values": values} for series, values in case["series"].items()
        ],
        "alert_rule_test": [
            {"eval_time": case["at"], "alertname": alert["alert"], "exp_alerts": [fired] if kind == "fires" else []}
        ],
    }


def promtool(*arguments: str) -> None:
    done = subprocess.run(["promtool", *arguments], capture_output=True, text=True)
    assert done.returncode == 0, f"promtool {arguments[0]} {arguments[1]}\n{done.stdout}{done.stderr}"


def takes_hours(at: str) -> bool:
    return at.endswith("h") or (at.endswith("m") and int(at[:-1]) > 300)


def of_installation(series: str) -> str:
    name, _, labels = series.partition("{")
    inner = labels.rstrip("}")
    more = ",".join(f'{label}="{value}"' for label, value in INSTALLATION.items() if f"{label}=" not in inner)
    return f"{name}{{{','.join(filter(None, (inner, more)))}}}"
