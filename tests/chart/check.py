"""Everything about the chart that can be known without a cluster.

check.py HELM DEFINITIONS BINARY STATE [--update]
"""

from __future__ import annotations

import re
import shutil
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import yaml

import config
import guide
import pod
import refusals
import schemas
import values
from helm import Helm, Rendered

ROOT = Path(__file__).resolve().parents[2]
RULES = """groups:
  - name: a
    rules:
      - alert: Stuck
        expr: max by (provider) (dayfly_stuck_leases) > 0
        for: 1m
        labels: {severity: page}
        annotations: {summary: "{{ $value }} at {{ $labels.provider }}"}
"""
# In place of the shipped alerts and dashboards, which change for reasons of their own.
STAND_INS = {
    "rules/a.yaml": RULES,
    "rules/b.yaml": RULES.replace("name: a", "name: b"),
    "dashboards/operations.json": '{"title": "{{ not a template }}"}\n',
}

Test = tuple[str, Callable[[], None]]


class Checks:
    """What is checked."""

    def __init__(self, helm: Helm, definitions: Path, binary: Path, update: bool) -> None:
        self.helm, self.definitions, self.binary, self.update = helm, definitions, binary, update
        self.stood_in = helm.copy("stood-in", STAND_INS)
        config.make_authority(helm.state)
        self.page = (ROOT / "docs" / "guides" / "install-on-kubernetes.md").read_text()
        # Where the user of the pod can reach it.
        self.shelf = Path(tempfile.mkdtemp(prefix="dayfly-chart-"))
        self.shelf.chmod(0o755)
        self.program = Path(shutil.copy2(binary, self.shelf / "dayfly"))
        self.estate = pod.Estate(binary, helm.state)
        self.bare = helm.copy("bare", {})
        self.said: dict[str, set[str]] = {"_refusals.tpl": set(), "_warnings.tpl": set()}

    def all(self) -> list[Test]:
        """Every check, with its name."""
        found: list[Test] = []
        for scenario in self.helm.scenarios():
            for part in (
                self.lint,
                self.golden,
                self.notes,
                self.valid,
                self.accepted,
                self.restricted,
                self.own_journal,
            ):
                found.append((f"{scenario}: {part.__doc__}", lambda part=part, scenario=scenario: part(scenario)))
        for kind, cases, how in (
            ("refused", refusals.REFUSED, self.refused),
            ("invalid", refusals.INVALID, self.invalid),
            ("unsafe", refusals.UNSAFE, self.unsafe),
        ):
            found += [(f"{kind}: {case[2]}", lambda how=how, case=case: how(*case)) for case in cases]
        found += [
            (f"{it.__doc__}", it)
            for it in (
                self.all_at_once,
                self.several,
                self.alerts,
                self.runbooks,
                self.without_alerts,
                self.described,
                self.readme,
                self.guide,
            )
        ]
        # First, since they wait most.
        found = [
            (f"{it.__doc__}", lambda it=it: it(self.helm, self.program, self.estate)) for it in (pod.lives, pod.agree)
        ] + found
        found.insert(0, (f"{pod.share.__doc__}", lambda: pod.share(self.helm, self.program, self.estate, self.page)))
        found += [
            (f"{it.__doc__}", it)
            for it in (
                self.rules_restart_nobody,
                self.token_review_only_when_asked_for,
                self.numbers,
                self.egress,
                self.packed,
                self.version,
            )
        ]
        return found

    # Each scenario.

    def lint(self, scenario: str) -> None:
        """lint"""
        said = self.helm.lint(scenario)
        assert not said, said

    def golden(self, scenario: str) -> None:
        """what is rendered is what was looked at"""
        self._same(f"{scenario}.yaml", self.helm.template(scenario, chart=self.stood_in))

    def notes(self, scenario: str) -> None:
        """what is printed is what was looked at"""
        self._same(f"{scenario}.notes.txt", self.helm.notes(scenario) + "\n")

    def valid(self, scenario: str) -> None:
        """every object is one that Kubernetes takes"""
        # Alerts and dashboards as they are shipped, too.
        for chart in (self.helm.chart, self.stood_in):
            wrong = [
                said
                for thing in self.helm.template(scenario, chart=chart).objects
                for said in schemas.faults(thing, self.definitions)
            ]
            assert not wrong, "\n".join(wrong)

    def accepted(self, scenario: str) -> None:
        """dayfly check takes the configuration"""
        if unknown := config.unknown(self.helm.template(scenario), self.binary, self.helm.state / f"{scenario}.toml"):
            print(f"chart: {scenario}: not checked: this dayfly does not know {unknown}")
            return
        sandbox = self.helm.state / f"pod-{scenario}"
        sandbox.mkdir()
        config.check(self.helm.template(scenario), self.binary, sandbox, self.helm.state, ROOT / "config")

    def restricted(self, scenario: str) -> None:
        """pods are restricted, and no object is a Secret"""
        rendered = self.helm.template(scenario)
        assert "Secret" not in rendered.kinds()
        pod = rendered.one("StatefulSet")["spec"]["template"]["spec"]
        assert pod["automountServiceAccountToken"] is False
        assert pod["securityContext"]["runAsNonRoot"] is True and pod["securityContext"]["seccompProfile"] == {
            "type": "RuntimeDefault"
        }
        for container in [*pod["containers"], *pod.get("initContainers", [])]:
            context = container["securityContext"]
            assert context["readOnlyRootFilesystem"] is True and context["allowPrivilegeEscalation"] is False, (
                container["name"]
            )
            assert context["capabilities"] == {"drop": ["ALL"]} and context.get("runAsUser", 65532) > 0, container[
                "name"
            ]
            assert "memory" in container["resources"]["limits"], container["name"]
        for volume in pod["volumes"]:
            assert "hostPath" not in volume, volume

    def own_journal(self, scenario: str) -> None:
        """each replica has a volume of its own for its journal, which stays"""
        rendered = self.helm.template(scenario)
        stateful = rendered.one("StatefulSet")["spec"]
        volumes = {it["name"]: it for it in stateful["template"]["spec"]["volumes"]}
        if "volumeClaimTemplates" in stateful:
            assert [it["metadata"]["name"] for it in stateful["volumeClaimTemplates"]] == ["data"]
            assert stateful["persistentVolumeClaimRetentionPolicy"] == {"whenDeleted": "Retain", "whenScaled": "Retain"}
        else:
            assert stateful["replicas"] == 1 and "persistentVolumeClaim" in volumes["data"]
        assert 'dir = "/var/lib/dayfly/journal"' in rendered.one("ConfigMap")["data"]["dayfly.toml"]
        assert "Deployment" not in rendered.kinds()

    # What is refused, and what is warned of.

    def refused(self, scenario: str, more: dict[str, Any], expected: str) -> None:
        said = self.helm.template(scenario, more).refusal
        self.said["_refusals.tpl"] |= set(said.splitlines())
        assert expected in said, said or "it was rendered"

    def invalid(self, scenario: str, more: dict[str, Any], expected: str) -> None:
        said = self.helm.template(scenario, more).refusal
        assert "meet the specifications of the schema" in said, said or "it was rendered"
        assert f"at '{expected}" in said or expected in said.split("additional properties", 1)[-1], said

    def unsafe(self, scenario: str, more: dict[str, Any], expected: str) -> None:
        said = self.helm.notes(scenario, more)
        self.said["_warnings.tpl"] |= set(said.splitlines())
        assert expected in said, said

    def all_at_once(self) -> None:
        """everything that is wrong is said at once"""
        said = self.helm.template("embedded", {"publicUrl": "", "replicaCount": 3, "dangerPlaintext": False}).refusal
        assert said.count("\n- ") == 4, said

    # What follows from values.

    def several(self) -> None:
        """replicas go one at a time, spread, with time to stop"""
        rendered = self.helm.template("redis-sentinel")
        pod = rendered.one("StatefulSet")["spec"]["template"]["spec"]
        # 5 to be forgotten, 30 to drain, 5 to close the journal, and 10 more.
        assert pod["terminationGracePeriodSeconds"] == 50
        assert pod["containers"][0]["lifecycle"] == {"preStop": {"sleep": {"seconds": 5}}}
        assert rendered.one("PodDisruptionBudget")["spec"]["maxUnavailable"] == 1
        assert all(it["labelSelector"] for it in pod["topologySpreadConstraints"])
        assert "PodDisruptionBudget" not in self.helm.template("embedded").kinds()
        scaled = self.helm.template("redis-cluster-git")
        assert "replicas" not in scaled.one("StatefulSet")["spec"], "the autoscaler decides"

    def alerts(self) -> None:
        """alerts and dashboards are passed on as they are, however many"""
        rendered = self.helm.template("redis-sentinel", chart=self.stood_in)
        groups = rendered.one("PrometheusRule")["spec"]["groups"]
        assert [it["name"] for it in groups] == ["a", "b"]
        assert groups[0]["rules"][0]["annotations"]["summary"] == "{{ $value }} at {{ $labels.provider }}"
        dashboard = rendered.one("ConfigMap", "dayfly-dashboard-operations")
        assert dashboard["data"] == {"operations.json": '{"title": "{{ not a template }}"}\n'} or dashboard["data"] == {
            "operations.json": '{"title": "{{ not a template }}"}'
        }
        assert dashboard["metadata"]["labels"]["grafana_dashboard"] == "1"

    def runbooks(self) -> None:
        """alerts and dashboards link to where the runbooks are served"""
        served = "https://wiki.example.com/dayfly/alerts"
        text = str(self.helm.template("redis-sentinel", {"metrics": {"runbooks": served}}).objects)
        assert f"{served}#dayflyleasestuck" in text and "docs.example.org" not in text

    def without_alerts(self) -> None:
        """without any there is no empty object"""
        rendered = self.helm.template("redis-sentinel", chart=self.bare)
        assert "PrometheusRule" not in rendered.kinds() and "ServiceMonitor" in rendered.kinds()

    def rules_restart_nobody(self) -> None:
        """a change of rules restarts nobody, and a change of dayfly.toml restarts everybody"""

        def checksum(more: dict[str, Any]) -> str:
            template = self.helm.template("embedded", more).one("StatefulSet")["spec"]["template"]
            return str(template["metadata"]["annotations"]["checksum/dayfly.toml"])

        before = checksum({})
        assert checksum({"rules": {"policies": {"files": {"more.cedar": "// nothing"}}}}) == before
        assert checksum({"config": {"tasks": {"default_heartbeat": "6m"}}}) != before

    def token_review_only_when_asked_for(self) -> None:
        """the cluster's API is asked only when somebody wants it"""
        for scenario in self.helm.scenarios():
            asked = self.helm.template(scenario).kinds() & {"ClusterRole", "ClusterRoleBinding"}
            assert bool(asked) == (scenario in ("redis-sentinel", "listeners")), scenario
        role = self.helm.template("redis-sentinel").one("ClusterRole", "dayfly-dayfly-tokenreview")
        assert role["rules"] == [
            {"apiGroups": ["authentication.k8s.io"], "resources": ["tokenreviews"], "verbs": ["create"]}
        ]

    def numbers(self) -> None:
        """numbers stay what they are, and null leaves a default alone"""
        more = {
            "config": {
                "tasks": {"live_credentials": 1000000, "default_heartbeat": None},
                "telemetry": {"traces": {"sample": 0.5, "many": [1, 2.5, "a", True]}},
            }
        }
        text = self.helm.template("embedded", more).one("ConfigMap")["data"]["dayfly.toml"]
        for line in ("live_credentials = 1000000", "sample = 0.5", 'many = [1, 2.5, "a", true]'):
            assert line in text, text
        assert "default_heartbeat" not in text

    def egress(self) -> None:
        """what comes and goes is what the addresses say"""

        def ports(scenario: str) -> set[int]:
            rules = self.helm.template(scenario).one("NetworkPolicy")["spec"]["egress"]
            return {port["port"] for rule in rules for port in rule["ports"]}

        assert ports("embedded") == {53, 443, 6443}
        assert ports("redis-sentinel") == {53, 443, 6379, 6443, 26379}
        assert ports("redis-cluster-git") == {53, 22, 6379, 8443}
        assert ports("providers") == {53, 443, 4318, 5432, 6380, 8200, 8443}
        rules = self.helm.template("listeners").one("NetworkPolicy")["spec"]["ingress"]
        assert [rule["ports"][0]["port"] for rule in rules] == ["agents", "tools", "operators"]
        assert rules[2]["from"] != rules[0]["from"]
        paths = self.helm.template("listeners").one("Ingress")["spec"]["rules"][0]["http"]["paths"]
        assert [(it["path"], it["backend"]["service"]["port"]["name"]) for it in paths] == [
            ("/oauth2", "tools"),
            ("/v1/revocations", "tools"),
            ("/", "agents"),
        ]
        assert self.helm.template("listeners").one("ServiceMonitor")["spec"]["endpoints"][0]["port"] == "operators"

    def version(self) -> None:
        """the chart runs the version that it lies beside"""
        chart = yaml.load((self.helm.chart / "Chart.yaml").read_text(), yaml.CSafeLoader)
        cargo = config.tomllib.loads((ROOT / "Cargo.toml").read_text())
        assert chart["appVersion"] == cargo["package"]["version"]

    def packed(self) -> None:
        """what is packed is the chart, and nothing that it is tested with"""
        files = self.helm.packed()
        assert {"Chart.yaml", "values.yaml", "values.schema.json", "README.md", "templates/NOTES.txt"} <= files
        wrong = [
            it
            for it in files
            if it.startswith(("tests/", "ci/"))
            or not it.endswith((".yaml", ".tpl", ".txt", ".json", ".md", ".helmignore"))
        ]
        assert not wrong, wrong
        shipped = {
            it.relative_to(self.helm.chart).as_posix()
            for it in (*self.helm.chart.glob("rules/*.yaml"), *self.helm.chart.glob("dashboards/*.json"))
        }
        assert shipped <= files

    # What is written about values.

    def described(self) -> None:
        """every value has a comment, stands in the schema, and is used"""
        wrong = values.unlike(self.helm.chart) + [f"{path} is not used" for path in values.unused(self.helm.chart)]
        assert not wrong, "\n".join(wrong)

    def readme(self) -> None:
        """the README has the values as they are, and its links lead somewhere"""
        file = self.helm.chart / "README.md"
        if self.update:
            file.write_text(values.readme(self.helm.chart))
        text = file.read_text()
        assert text == values.readme(self.helm.chart), "the table of values is old: integration/chart --update"
        for link in re.findall(r"\]\(([^)#]+)", text):
            assert "://" in link or (file.parent / link).exists(), link
        for scenario in self.helm.scenarios():
            assert f"ci/{scenario}-values.yaml" in text, scenario

    def guide(self) -> None:
        """what the guide shows works as it stands there"""
        page = self.page
        rules = self.helm.state / "guide"
        guide.rules(page, rules)
        first, *changed = guide.values(page)
        sandbox = self.helm.state / "pod-guide"
        sandbox.mkdir()
        config.check(self.helm.template(None, first), self.binary, sandbox, self.helm.state, rules)
        for values_ in [first, *changed]:
            wrong = [
                said
                for thing in self.helm.template(None, values_).objects
                for said in schemas.faults(thing, self.definitions)
            ]
            assert not wrong, "\n".join(wrong)
        for thing in guide.objects(page):
            assert not schemas.faults(thing, self.definitions), thing

    def untried(self) -> list[str]:
        """Refusals and warnings of the templates that no case brought about."""
        found = []
        for file, said in self.said.items():
            for line in (self.helm.chart / "templates" / file).read_text().splitlines():
                pieces = re.split(r"\{\{.*?\}\}", line.strip())
                pattern = re.compile(".*".join(map(re.escape, pieces)))
                if line.strip().startswith("- ") and not any(map(pattern.fullmatch, said)):
                    found.append(f"{file}: no case brings about: {line.strip()}")
        return found

    def _same(self, name: str, rendered: Rendered | str) -> None:
        file = self.helm.chart / "tests" / "golden" / name
        text = rendered if isinstance(rendered, str) else rendered.text
        assert text, rendered.refusal if isinstance(rendered, Rendered) else "nothing"
        if self.update:
            file.write_text(text)
        golden = file.read_text() if file.exists() else ""
        if text != golden:
            (self.helm.state / name).write_text(text)
            raise AssertionError(f"{_difference(golden, text)}\nread it, and: integration/chart --update")


def _difference(old: str, new: str) -> str:
    import difflib

    lines = difflib.unified_diff(old.splitlines(), new.splitlines(), "golden", "rendered", lineterm="", n=2)
    return "\n".join(list(lines)[:60])


def main() -> int:
    """Runs everything, and says what failed."""
    helm, definitions, binary, state = (Path(it).resolve() for it in sys.argv[1:5])
    checks = Checks(Helm(helm, ROOT / "charts" / "dayfly", state), definitions, binary, "--update" in sys.argv[5:])

    def run(test: Test) -> str:
        try:
            test[1]()
        except Exception as error:  # noqa: BLE001 - a fault of a test is told like any other
            return f"{test[0]}\n    " + f"{type(error).__name__}: {error}".replace("\n", "\n    ")
        return ""

    tests = checks.all()
    with ThreadPoolExecutor(4) as pool:
        failed = [said for said in pool.map(run, tests) if said]
    shutil.rmtree(checks.shelf)
    failed += checks.untried()
    for said in failed:
        print(f"failed: {said}\n", file=sys.stderr)
    print(f"chart: {len(tests)} checks, {len(failed)} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
