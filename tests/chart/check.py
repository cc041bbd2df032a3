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
                self.runs,
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
                self.typed,
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
                self.certificate,
                self.rules_restart_nobody,
                self.token_review_only_when_asked_for,
                self.numbers,
                self.egress,
                self.nobody,
                self.repository,
                self.operators,
                self.routes,
                self.drained,
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
        self._read(self.helm.template(scenario), ROOT / "config")

    def runs(self, scenario: str) -> None:
        """it runs as the user of the pod: probes, listeners, stop"""
        pod.runs(self.helm, self.program, self.estate, self.page, scenario, ROOT / "config")

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
        assert config.of(rendered)["server"]["stop_delay"] == "5s"
        for server, seconds in (({"stop_delay": None}, 45), ({"stop_delay": 0, "drain_timeout": None}, 35)):
            more = {"config": {"server": server}}
            other = self.helm.template("redis-sentinel", more).one("StatefulSet")["spec"]["template"]["spec"]
            assert other["terminationGracePeriodSeconds"] == seconds, server
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

    def certificate(self) -> None:
        """cert-manager is asked for what pods and everybody else call it, and the pod has the Secret that comes of it"""
        asked = self.helm.template("listeners").one("Certificate")["spec"]
        assert asked["dnsNames"] == [
            "dayfly.example.org",
            "dayfly.dayfly.svc",
            "dayfly.dayfly.svc.cluster.local",
            "dayfly-replicas.dayfly.svc",
            "*.dayfly-replicas.dayfly.svc",
            "dayfly-operators.dayfly.svc",
        ]
        volumes = self.helm.template("listeners").one("StatefulSet")["spec"]["template"]["spec"]["volumes"]
        assert {"secretName": asked["secretName"], "defaultMode": 0o400} in [it.get("secret") for it in volumes]
        for url, names, addresses in (
            ("https://10.0.0.5:8440", 5, ["10.0.0.5"]),
            ("https://[2001:db8::5]:8440", 5, ["2001:db8::5"]),
            ("https://dayfly.dayfly.svc:8440", 5, None),
        ):
            asked = self.helm.template("listeners", {"publicUrl": url}).one("Certificate")
            assert not schemas.faults(asked, self.definitions)
            assert len(asked["spec"]["dnsNames"]) == names and asked["spec"].get("ipAddresses") == addresses, url
        only = {"tls": {"certManager": {"dnsNames": ["dayfly.example.com"]}}}
        assert self.helm.template("listeners", only).one("Certificate")["spec"]["dnsNames"] == ["dayfly.example.com"]
        for scenario in set(self.helm.scenarios()) - {"listeners"}:
            assert "Certificate" not in self.helm.template(scenario).kinds()

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

    def nobody(self) -> None:
        """whom nobody is named for nobody reaches"""

        def ports(**policy: Any) -> list[str]:
            rules = self.helm.template("listeners", {"networkPolicy": policy}).one("NetworkPolicy")["spec"]["ingress"]
            assert all(rule["from"] for rule in rules), rules
            return [port["port"] for rule in rules for port in rule["ports"]]

        assert ports(operatorsFrom=[]) == ports(operatorsFrom=None) == ["agents", "tools"]
        assert ports(**{"from": []}) == ports(**{"from": None}) == ["operators"]
        assert ports(operatorsFrom=[], **{"from": []}) == []

    def repository(self) -> None:
        """the repository of the rules is where it is said to be, or where everything else is"""

        def to(more: dict[str, Any]) -> list[Any]:
            rules = self.helm.template("redis-cluster-git", more).one("NetworkPolicy")["spec"]["egress"]
            return [rule.get("to", []) for rule in rules if rule["ports"] == [{"port": 22, "protocol": "TCP"}]]

        inside, git = ([{"ipBlock": {"cidr": it}}] for it in ("10.0.0.0/8", "192.0.2.1/32"))
        assert to({}) == [[]]
        assert to({"networkPolicy": {"to": inside}}) == [inside]
        assert to({"networkPolicy": {"to": inside}, "rules": {"git": {"to": git}}}) == [git]

    def operators(self) -> None:
        """what is for operators is published nowhere, and scraped under the name that it had"""
        rendered = self.helm.template("listeners", {"service": {"type": "LoadBalancer"}})
        assert [it["name"] for it in rendered.one("Service")["spec"]["ports"]] == ["agents", "tools"]
        apart = rendered.one("Service", "dayfly-operators")
        assert apart["spec"]["type"] == "ClusterIP" and [it["port"] for it in apart["spec"]["ports"]] == [8442]
        for scenario in ("listeners", "tls"):
            rendered = self.helm.template(scenario)
            monitor = rendered.one("ServiceMonitor")["spec"]
            wanted = monitor["selector"]["matchLabels"].items()
            found = [
                it for it in rendered.objects if it["kind"] == "Service" and wanted <= it["metadata"]["labels"].items()
            ]
            assert len(found) == 1, found
            assert monitor["endpoints"][0]["port"] in [it["name"] for it in found[0]["spec"]["ports"]]
            assert found[0]["metadata"]["labels"][monitor["jobLabel"]] == "dayfly"

    def routes(self) -> None:
        """a gateway leads to the listener that answers, by a path that Dayfly knows"""

        def routes(more: dict[str, Any]) -> list[tuple[str, str | None, str | None, int]]:
            found = []
            for rule in self.helm.template("redis-sentinel", more).one("HTTPRoute")["spec"]["rules"]:
                (match,), (backend,) = rule["matches"], rule["backendRefs"]
                rewritten = [
                    next(iter(set(it["urlRewrite"]["path"].items()) - {("type", it["urlRewrite"]["path"]["type"])}))
                    for it in rule.get("filters", [])
                ]
                found.append(
                    (
                        match["path"]["value"],
                        match.get("method"),
                        rewritten[0][1] if rewritten else None,
                        backend["port"],
                    )
                )
            return found

        tools = {"listeners": {"tools": {"enabled": True}}}
        assert routes({}) == [("/", None, None, 8440)]
        # Kill orders are asked for where the feed is, and are no business of that listener.
        assert routes(tools) == [
            ("/oauth2", None, None, 8441),
            ("/v1/revocations", "GET", None, 8441),
            ("/", None, None, 8440),
        ]
        assert routes({**tools, "publicUrl": "https://example.org/dayfly"}) == [
            ("/dayfly/oauth2", None, "/oauth2", 8441),
            ("/dayfly/v1/revocations", "GET", "/v1/revocations", 8441),
            (
                "/.well-known/oauth-authorization-server/dayfly",
                None,
                "/.well-known/oauth-authorization-server",
                8440,
            ),
            ("/dayfly", None, "/", 8440),
        ]
        faults = [
            said
            for thing in self.helm.template("redis-sentinel", {**tools, "publicUrl": "https://a/dayfly"}).objects
            for said in schemas.faults(thing, self.definitions)
        ]
        assert not faults, faults

    def drained(self) -> None:
        """budgets that let one go are taken"""
        for budget in (
            {"maxUnavailable": 1},
            {"maxUnavailable": "1%"},
            {"maxUnavailable": None, "minAvailable": 2},
            {"maxUnavailable": None, "minAvailable": "66%"},
            {"enabled": False, "maxUnavailable": 0},
        ):
            assert not self.helm.template("redis-sentinel", {"podDisruptionBudget": budget}).refusal, budget

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
        for values_ in [first, *changed]:
            self._read(self.helm.template(None, values_), rules)
            wrong = [
                said
                for thing in self.helm.template(None, values_).objects
                for said in schemas.faults(thing, self.definitions)
            ]
            assert not wrong, "\n".join(wrong)
        for thing in guide.objects(page):
            assert not schemas.faults(thing, self.definitions), thing

    def typed(self) -> None:
        """what the guide says to type makes what its values name, and installs it"""
        folder = self.helm.state / "guide-typed"
        guide.rules(self.page, folder / "rules")
        done = guide.typed(self.page, folder, self.helm.program)
        assert len(done) == 5, [block for block, _ in done]
        installed = "".join(
            self.helm.template(None, values_).text.split("kind: StatefulSet")[1] for values_ in guide.values(self.page)
        )
        for block, things in done:
            wrong = [said for thing in things for said in schemas.faults(thing, self.definitions)]
            assert things and not wrong, (block, wrong)
            if "helm install" in block:
                assert "StatefulSet" in {it["kind"] for it in things}, block
                continue
            for thing in things:
                assert re.search(rf"\b{thing['metadata']['name']}$", installed, re.MULTILINE), thing["metadata"]["name"]
        maps = {it["metadata"]["name"]: it["data"] for it in done[0][1]}
        for part in ("agents", "tools", "policies"):
            files = {it.name: it.read_text() for it in (folder / "rules" / part).iterdir()}
            assert maps[f"dayfly-{part}"] == files, part

    def _read(self, rendered: Rendered, rules: Path) -> None:
        """Has `dayfly check` read it where a kubelet would lay it out, as the user of the pod."""
        replica = pod.Pod(rendered, self.program, "check")
        try:
            replica.furnish(self.helm.state, rules, self.estate.ring())
            replica.check()
        finally:
            replica.remove()

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
