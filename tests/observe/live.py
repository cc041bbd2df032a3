"""A real Prometheus scrapes a real broker, with the shipped rules."""

import json
import re
import socket
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from contextlib import ExitStack, contextmanager
from pathlib import Path

PATIENCE = 30
own = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def process(log: Path, *arguments: str):
    with log.open("w") as to:
        running = subprocess.Popen(arguments, stdout=to, stderr=to)
        try:
            yield running
        finally:
            running.terminate()
            try:
                running.wait(15)
            except subprocess.TimeoutExpired:
                running.kill()
                running.wait()


def until(what: str, holds):
    """What `holds` gives, once it is something."""
    end = time.monotonic() + PATIENCE
    while not (found := holds()):
        assert time.monotonic() < end, f"in {PATIENCE} seconds: not {what}"
        time.sleep(0.1)
    return found


class World:
    """The two of them, and what to ask of each."""

    def __init__(self, dayfly: str, state: Path, rules: Path) -> None:
        self._dayfly, self._state, self._rules = dayfly, state, rules
        self._exit = ExitStack()
        self.broker, self.prometheus = (f"127.0.0.1:{free_port()}" for _ in range(2))

    def __enter__(self) -> "World":
        with ExitStack() as started:
            folder, tool = self._state / "dev", f"127.0.0.1:{free_port()}"
            started.enter_context(
                process(
                    self._state / "broker.log",
                    *(self._dayfly, "dev", "--folder", str(folder), "--listen", self.broker, "--tool", tool),
                )
            )
            config = self._state / "prometheus.yml"
            config.write_text(
                json.dumps(
                    {
                        "global": {
                            "scrape_interval": "500ms",
                            "scrape_timeout": "500ms",
                            "evaluation_interval": "500ms",
                        },
                        "rule_files": [str(self._rules)],
                        "scrape_configs": [
                            {
                                "job_name": "dayfly",
                                "static_configs": [{"targets": [self.broker], "labels": {"namespace": "agents"}}],
                            }
                        ],
                    }
                )
            )
            started.enter_context(
                process(
                    self._state / "prometheus.log",
                    *("prometheus", f"--config.file={config}", f"--storage.tsdb.path={self._state / 'tsdb'}"),
                    f"--web.listen-address={self.prometheus}",
                )
            )
            until("a broker", lambda: self.answers(f"http://{self.broker}/readyz"))
            until("a Prometheus", lambda: self.answers(f"http://{self.prometheus}/-/ready"))
            self._exit = started.pop_all()
        return self

    def __exit__(self, *error) -> None:
        self._exit.close()

    @staticmethod
    def answers(url: str) -> bool:
        try:
            own.open(url, timeout=PATIENCE).close()
            return True
        except OSError:
            return False

    def scrape(self) -> str:
        with own.open(f"http://{self.broker}/metrics", timeout=PATIENCE) as answer:
            return answer.read().decode()

    def ask(self, path: str, **parameters: str):
        """Of Prometheus; what it says was wrong is the error."""
        url = f"http://{self.prometheus}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        try:
            with own.open(url, timeout=PATIENCE) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{error.read().decode()}: {parameters}") from None

    def decided(self) -> float | None:
        result = self.ask("query", query="sum(dayfly_decisions_total)")["result"]
        return float(result[0]["value"][1]) if result else None

    def command(self, *arguments: str, by: str = "support-bot", code: int = 0, stdin: str = "") -> str:
        remote = ["--broker", f"http://{self.broker}", "--evidence", str(self._state / f"dev/evidence/{by}.jwt")]
        done = subprocess.run([self._dayfly, *arguments, *remote], input=stdin, capture_output=True, text=True)
        assert done.returncode == code, f"{arguments}: {done.returncode}\n{done.stdout}{done.stderr}"
        return done.stdout.strip()

    def work(self) -> None:
        """One of each: what is permitted, denied, refused, ended, asked about, killed and put in force."""
        access = ("--access", "crm:read@customers/42")
        task = self.command("task", "open", "--purpose", "answer ticket 4711", *access, "--id-only")
        issue = ("task", "issue", task, "--tool", "crm", "--action", "read", "--resource")
        token = self.command(*issue, "customers/42", "--token-only")
        self.command(*issue, "customers/43", code=3)
        self.command("token", "introspect", by="crm-server", stdin=token)
        self.command("task", "complete", task)
        task = self.command("task", "open", "--purpose", "answer ticket 4712", *access, "--id-only")
        issue = ("task", "issue", task, "--tool", "crm", "--action", "read", "--resource", "customers/42")
        self.command(*issue, "--token-only")
        self.command("revoke", "--agent", "support-bot", "--reason", "incident 12", "--yes", by="ops-console")
        self.command("reload", by="ops-console")
        self.command("reconcile", by="ops-console")
        forged = self._state / "dev/evidence/nobody.jwt"
        forged.write_text((self._state / "dev/evidence/support-bot.jwt").read_text().strip()[:-8] + "AAAAAAAA")
        self.command("task", "show", task, by="nobody", code=3)


    def spoil_the_rules(self) -> None:
        """What no broker can put in force."""
        (self._state / "dev/policies/99-spoilt.cedar").write_text("permit (")
        self.command("reload", by="ops-console", code=1)


def check_targets(world: World) -> None:
    def seen():
        targets = world.ask("targets")["activeTargets"]
        return targets if all(target["health"] == "up" for target in targets) else None

    targets = until("scraped", seen)
    assert [target["lastError"] for target in targets] == [""], targets


def check_rules(world: World, expected: int) -> None:
    def rules() -> list[dict]:
        return [rule for group in world.ask("rules")["groups"] for rule in group["rules"]]

    until("evaluated", lambda: all(rule["health"] != "unknown" for rule in rules()))
    loaded = rules()
    assert len(loaded) == expected, f"{len(loaded)} of {expected} rules were loaded"
    for rule in loaded:
        assert rule["health"] == "ok", f"{rule['name']}: {rule.get('lastError')}"
    # A broker that works well gives nobody a reason to wake up. Before the first scrape there was one.
    raised = lambda: {rule["name"] for rule in rules() if rule.get("state", "inactive") != "inactive"} - full(world)
    until(f"quiet: {raised()}", lambda: not raised())


def full(world: World) -> set[str]:
    """What a broker that works well is right to say of the disk of this machine."""
    free = float(re.search(r"(?m)^dayfly_journal_disk_free_ratio\S* (\S+)$", world.scrape())[1])
    return {name for name, least in {"DayflyJournalDiskLow": 0.2, "DayflyJournalDiskFull": 0.05}.items() if free < least}


def check_alert(world: World, name: str) -> None:
    """It reaches whoever is told of alerts."""

    def firing() -> list[dict]:
        alerts = [alert for alert in world.ask("alerts")["alerts"] if alert["state"] == "firing"]
        return [alert for alert in alerts if alert["labels"]["alertname"] not in full(world)]

    fired = until(f"{name} firing", firing)
    assert [alert["labels"]["alertname"] for alert in fired] == [name], fired
    assert fired[0]["annotations"]["runbook_url"].endswith(f"#{name.lower()}"), fired


# What has nothing to say while all is well: failures, what was a day ago, and what is told only when it is above 0.
WELL = re.compile(r'ALERTS|result!="ok"|result!~|reason="unavailable"|offset 1d|(> 0|< 120)$')


def check_queries(world: World, queries: list[tuple[str, str, set[str]]], shown: set[str]) -> None:
    """Each is understood, and says something where all that it asks for was scraped."""
    silent = []
    for where, query, names in queries:
        asked = re.sub(r"\$__rate_interval", "1m", query)
        asked = re.sub(r"\$(?:namespace|job|instance|provider)\b", ".*", asked)
        assert "$" not in asked, f"{where}: a variable is left in {asked}"
        result = world.ask("query", query=asked)["result"]
        if names <= shown and not result and not WELL.search(query):
            silent.append(f"{where}: {asked}")
    assert not silent, "nothing comes of\n" + "\n".join(silent)
