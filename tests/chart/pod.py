"""A pod without a cluster: the real binary with the rendered configuration, in folders that have the owners and modes that a
kubelet gives them, as the user of the pod, without privileges."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import config
from helm import Helm, Rendered

USER = 65532
PATIENCE = 90
MORE = b'@id("more") permit (principal in Role::"support", action == Action::"crm:comment", resource in Tool::"crm");\n'
# Only root can give files away. Others run as who they are.
PRIVILEGED = os.geteuid() == 0
AS_USER = (
    ["setpriv", f"--reuid={USER}", f"--regid={USER}", f"--groups={USER}", "--no-new-privs", "--bounding-set=-all"]
    if PRIVILEGED
    else []
)


def until(what: Any, wanted: str) -> Any:
    """Asks until there is an answer."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        if answer := what():
            return answer
        time.sleep(0.1)
    raise AssertionError(f"{wanted} did not happen within {PATIENCE} s")


def give(path: Path, mode: int) -> None:
    """Owner and mode as the kubelet sets them, with `fsGroup`."""
    if PRIVILEGED:
        os.chown(path, 0, USER, follow_symlinks=False)
        path.chmod(mode)


class Pod:
    """One replica."""

    def __init__(self, rendered: Rendered, binary: Path, name: str) -> None:
        self.root = Path(tempfile.mkdtemp(prefix=f"dayfly-{name}-"))
        self.root.chmod(0o755)
        self.binary, self.versions = binary, 0
        self.process: subprocess.Popen[bytes] | None = None
        self.rendered = rendered
        self.pod = rendered.one("StatefulSet")["spec"]["template"]["spec"]
        text = rendered.one("ConfigMap")["data"]["dayfly.toml"]
        self.configuration = self.root / "dayfly.toml"
        self.configuration.write_text(config.PLACES.sub(rf'"{self.root}\1', text))
        self.log = self.root / "log"
        for mount in self._container("containers", "dayfly")["volumeMounts"]:
            if "subPath" not in mount:
                (self.root / mount["mountPath"].lstrip("/")).mkdir(parents=True)
        for mount in ("/var/lib/dayfly", "/var/lib/dayfly-keys", "/run/dayfly-keys"):
            if (self.root / mount.lstrip("/")).is_dir():
                give(self.root / mount.lstrip("/"), 0o2770)

    def _container(self, kind: str, name: str) -> dict[str, Any]:
        return next(it for it in self.pod[kind] if it["name"] == name)

    def project(self, mount: str, files: dict[str, bytes], mode: int = 0o644) -> None:
        """Puts files where a ConfigMap or a Secret is mounted, in one instant, as the kubelet does."""
        place = self.root / mount.lstrip("/")
        place.mkdir(parents=True, exist_ok=True)
        self.versions += 1
        version = place / f"..{self.versions}"
        version.mkdir()
        for name, content in files.items():
            (version / name).write_bytes(content)
            give(version / name, mode)
        give(version, 0o2755)
        link = place / "..data_tmp"
        link.symlink_to(version.name)
        link.rename(place / "..data")
        for name in files:
            if not (place / name).is_symlink():
                (place / name).symlink_to(f"..data/{name}")

    def furnish(self, authority: Path, rules: Path, ring: dict[str, bytes]) -> None:
        """Fills all that is mounted: what the chart made as it made it, and in place of what others keep, something that will do."""
        config_ = config.of(self.rendered)
        mounts = {it["mountPath"]: it["name"] for it in self._container("containers", "dayfly")["volumeMounts"]}
        volumes = {it["name"]: it for it in self.pod["volumes"]}
        named = list(config.files(config_))
        folders = config.folders(config_)
        for path in [*(path for _, path in named), *folders, *config.written(config_)]:
            assert any(path == it or path.startswith(f"{it}/") for it in mounts), f"{path} is not mounted"
        for place, name in mounts.items():
            # The volume of the journal is a claim's that the StatefulSet makes.
            volume = volumes.get(name, {"persistentVolumeClaim": {}})
            assert name in volumes or name == "data", f"{name} is mounted, and there is no such volume"
            files = {
                Path(path).name: self._content(key, authority)
                for key, path in named
                if Path(path).parent == Path(place)
            }
            if "configMap" in volume and place in folders:
                made = [it for it in self.rendered.objects if it["metadata"]["name"] == volume["configMap"]["name"]]
                given = made[0]["data"] if made and made[0]["data"] else self._texts(rules / Path(place).name)
                self.project(place, {name: text.encode() for name, text in given.items()})
            elif "configMap" in volume and name != "config":
                self.project(place, files)
            elif "secret" in volume:
                # With `fsGroup` the kubelet adds the group.
                self.project(place, files, volume["secret"]["defaultMode"] | 0o040)
            elif "projected" in volume:
                self.project(place, {"token": b"a.b.c", "ca.crt": self._content("ca_file", authority)}, 0o440)
        if "rules" in volumes:
            self._check_out(config_["registry"]["agents"], rules)
        if any(it["name"] == "signing-keys" for it in self.pod.get("initContainers", [])):
            self.project("/run/secrets/signing-keys", ring, 0o440)
            self.initialise("signing-keys")

    def _content(self, key: str, authority: Path) -> bytes:
        return (authority / config.PEMS[key]).read_bytes() if key in config.PEMS else config.PLACEHOLDER.encode()

    def _texts(self, folder: Path) -> dict[str, str]:
        return {it.name: it.read_text() for it in folder.iterdir() if it.is_file()}

    def _check_out(self, agents: str, rules: Path) -> None:
        """As git-sync does: a folder for each commit, and a link to the one that is in force."""
        link, _, path = agents.removeprefix("/var/lib/dayfly-rules/").removesuffix("/agents").partition("/")
        root = self.root / "var/lib/dayfly-rules"
        for part in ("agents", "tools", "policies"):
            shutil.copytree(rules / part, root / ".worktrees" / "0123abcd" / path / part)
        (root / link).symlink_to(".worktrees/0123abcd")

    def check(self) -> None:
        """What `dayfly check` says, to the user of the pod."""
        command = [*AS_USER, self.binary, "check", "--config", self.configuration]
        done = subprocess.run(command, capture_output=True, text=True, check=False, env={}, cwd="/")
        assert done.returncode == 0, done.stdout + done.stderr

    def doctor(self) -> str:
        """What `dayfly doctor` says beside it, as the notes have it asked."""
        command = [*AS_USER, self.binary, "doctor", "--config", self.configuration]
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=self._environment(), cwd="/")
        assert done.returncode in (0, 7), done.stdout + done.stderr
        return done.stdout

    def _environment(self) -> dict[str, str]:
        given = self._container("containers", "dayfly").get("env", [])
        return {it["name"]: it["value"] for it in given if "value" in it}

    def probe(self, kind: str) -> int:
        """The status that the kubelet gets; it believes any certificate. 0 when there is none."""
        container = self._container("containers", "dayfly")
        ask = container[f"{kind}Probe"]["httpGet"]
        port = next(it["containerPort"] for it in container["ports"] if it["name"] == ask["port"])
        return status(port, ask["path"], ask["scheme"].lower(), container[f"{kind}Probe"]["timeoutSeconds"])

    def initialise(self, name: str) -> None:
        """Runs an init container's script."""
        script = self._container("initContainers", name)["args"][0].replace("/run/", f"{self.root}/run/")
        subprocess.run([*AS_USER, "sh", "-euc", script], check=True, capture_output=True)

    def start(self) -> None:
        """Starts Dayfly with the arguments of the container."""
        arguments = [
            str(self.configuration) if it == "/etc/dayfly/dayfly.toml" else it
            for it in self._container("containers", "dayfly")["args"]
        ]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [*AS_USER, self.binary, *arguments], stdout=log, stderr=log, env=self._environment(), cwd="/"
            )

    def ready(self, port: int) -> None:
        """Waits until the probe says so."""

        def look() -> bool:
            assert self.process and self.process.poll() is None, self.log.read_text()
            return get(port, "/readyz") is not None

        until(look, "readiness")

    def stop(self) -> int:
        """Stops it as the kubelet does, within the time that the pod has."""
        assert self.process
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(self.pod["terminationGracePeriodSeconds"])

    def remove(self) -> None:
        """Ends what is left of it."""
        if self.process and self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        shutil.rmtree(self.root)


def get(port: int, path: str) -> Any:
    """The answer, if there is one that says that all is well."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=3) as answer:
            return json.load(answer)
    except (OSError, urllib.error.URLError):
        return None


def status(port: int, path: str, scheme: str, timeout: float = 5, authority: Path | None = None) -> int:
    """The status of an answer, or 0. With an authority, the certificate has to be one of its for `localhost`."""
    context = ssl.create_default_context(cafile=str(authority)) if authority else ssl._create_unverified_context()
    try:
        with urllib.request.urlopen(f"{scheme}://localhost:{port}{path}", timeout=timeout, context=context) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return 0


def free_port() -> int:
    """A port that nobody has."""
    with socket.socket() as it:
        it.bind(("127.0.0.1", 0))
        return int(it.getsockname()[1])


class Estate:
    """A trust domain, evidence, agents, tools and policies, as `dayfly dev` makes them."""

    def __init__(self, binary: Path, folder: Path) -> None:
        self.address = f"127.0.0.1:{free_port()}"
        self.folder = folder / "estate"
        command = [
            binary,
            "dev",
            "--folder",
            self.folder,
            "--listen",
            self.address,
            "--tool",
            f"127.0.0.1:{free_port()}",
        ]
        made = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env={})
        until(lambda: get(int(self.address.rsplit(":", 1)[1]), "/readyz"), "dayfly dev")
        made.terminate()
        made.wait(PATIENCE)

    def files(self, part: str) -> dict[str, bytes]:
        """The files of a folder."""
        return {it.name: it.read_bytes() for it in (self.folder / part).iterdir() if it.is_file()}

    def ring(self) -> dict[str, bytes]:
        """The signing keys, as the Secret of the README."""
        return {it.name: it.read_bytes() for it in (self.folder / "data" / "keys").iterdir() if it.is_file()}

    def values(self, port: int) -> dict[str, Any]:
        """Values for a pod that takes its evidence."""
        return {
            "publicUrl": f"http://127.0.0.1:{port}",
            "dangerPlaintext": True,
            "service": {"port": port},
            "rules": {part: {"existingConfigMap": part} for part in ("agents", "tools", "policies")},
            "extraVolumes": [{"name": "bundle", "configMap": {"name": "bundle"}}],
            "extraVolumeMounts": [{"name": "bundle", "mountPath": "/etc/bundle", "readOnly": True}],
            "config": {
                "identity": {
                    "audiences": [f"http://{self.address}"],
                    "trust_domain": [{"name": "example.org", "bundle_file": "/etc/bundle/bundle.json"}],
                },
                "policy": {"watch_interval": "1s"},
            },
        }

    def pod(self, helm: Helm, binary: Path, port: int, **more: Any) -> Pod:
        """A pod with all of it."""
        pod = Pod(helm.template(None, {**self.values(port), **more}), binary, "pod")
        for part in ("agents", "tools", "policies"):
            pod.project(f"/etc/dayfly/{part}", self.files(part))
        pod.project("/etc/bundle", {"bundle.json": (self.folder / "bundle.json").read_bytes()})
        return pod

    def run(self, binary: Path, port: int, *command: str) -> str:
        """A command as the agent `support-bot`."""
        about = [
            "--broker",
            f"http://127.0.0.1:{port}",
            "--evidence",
            str(self.folder / "evidence" / "support-bot.jwt"),
        ]
        done = subprocess.run([binary, *command, *about], capture_output=True, text=True, check=False, env={})
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def credential(self, binary: Path, port: int) -> None:
        """Opens a task and has a credential issued for it."""
        task = self.run(
            binary,
            port,
            "task",
            "open",
            "--purpose",
            "answer ticket 4711",
            "--access",
            "crm:read@customers/42",
            "--id-only",
        )
        token = self.run(
            binary,
            port,
            "task",
            "issue",
            task,
            "--tool",
            "crm",
            "--action",
            "read",
            "--resource",
            "customers/42",
            "--token-only",
        )
        assert token.count(".") == 2
        self.run(binary, port, "task", "complete", task)


def runs(helm: Helm, binary: Path, estate: Estate, guide: str, scenario: str, rules: Path) -> None:
    """A scenario as it is rendered, but with ports that are free here, and one Redis in place of what would be its own.
    Nothing else that it names is reached. Its probes, its listeners, and its stop are as the pod says."""
    rendered = helm.template(scenario)
    asked = config.of(rendered)
    ports = {it: free_port() for it in ("agents", "tools", "operators")}
    more: dict[str, Any] = {"service": {"port": ports["agents"]}}
    listening = {it for it in ("tools", "operators") if it in asked["server"]}
    more["listeners"] = {it: {"port": ports[it]} for it in listening}
    redis = None
    if asked["ledger"]["kind"] == "redis":
        user, prefix = asked["ledger"]["redis"].get("username", ""), asked["ledger"]["redis"]["prefix"]
        everything = f"user default on >{config.PLACEHOLDER} ~* &* +@all"
        redis = Redis(
            user_of(guide, config.PLACEHOLDER, prefix) if user else everything, helm.state / f"redis-{scenario}"
        )
        ca = {"existingSecret": "redis-ca"}
        more["ledger"] = {
            "redis": {"mode": "single", "master": "", "urls": [f"rediss://localhost:{redis.port}"], "ca": ca}
        }
    scheme = "https" if "tls" in asked["server"] else "http"
    pod = Pod(helm.template(scenario, more), binary, scenario)
    try:
        # Where it is Redis's, whoever vouches for that; where it is Dayfly's, for Dayfly.
        authority = helm.state / f"redis-{scenario}" if redis else helm.state
        pod.furnish(authority, rules, estate.ring())
        pod.check()
        pod.start()
        began = time.monotonic()

        def ready() -> bool:
            assert pod.process and pod.process.poll() is None, pod.log.read_text()
            return pod.probe("readiness") == 200

        until(ready, "readiness")
        assert pod.probe("startup") == pod.probe("liveness") == 200
        assert time.monotonic() - began < 60, "it took long"
        if scheme == "https":
            vouching = helm.state / "certificate.pem"
            assert status(ports["agents"], "/healthz", scheme, authority=vouching) == 200
            # Renewed, as the kubelet brings it: nothing is started anew.
            new = helm.state / f"renewed-{scenario}"
            new.mkdir()
            config.make_authority(new)
            files = {"tls.crt": (new / "certificate.pem").read_bytes(), "tls.key": (new / "key.pem").read_bytes()}
            pod.project("/run/secrets/dayfly-tls", files, 0o440)
            for port in [ports[it] for it in ("agents", *listening)]:
                until(lambda: status(port, "/healthz", scheme, authority=new / "certificate.pem") == 200, "the renewal")  # noqa: B023
        # Each listener has its own, and no other has it.
        for path, owner in (("/metrics", "operators"), ("/v1/revocations", "tools"), ("/v1/tasks", "agents")):
            owner = owner if owner in listening else "agents"
            for name in {"agents", *listening}:
                there = status(ports[name], path, scheme) != 404
                assert there == (name == owner or (path, name) in SHARED), f"{path} at {name}: {there}"
        said = pod.doctor()
        assert "listener" in said, said
        if redis:
            # The user of the guide may ask what there is to ask.
            assert "broken   redis" not in said and "fine     redis: eviction: noeviction" in said, said
            assert "fine     clock: with that of Redis" in said and "redis: user: " in said, said
        # Everybody is still answered while it says that it goes.
        assert pod.process
        pod.process.send_signal(signal.SIGTERM)
        until(lambda: pod.probe("readiness") == 503, "no more readiness")
        assert status(ports["agents"], "/.well-known/jwks.json", scheme) == 200
        assert pod.process.wait(pod.pod["terminationGracePeriodSeconds"]) == 0, pod.log.read_text()
    finally:
        pod.remove()
        if redis:
            redis.process.terminate()
            redis.process.wait(PATIENCE)


# What operators read as resource servers do.
SHARED = {("/v1/revocations", "operators")}


def loaded(pod: Pod) -> list[str]:
    """What became of each set of rules that was found while it ran."""
    journal = (pod.root / "var/lib/dayfly/journal").glob("*.jsonl")
    records = [json.loads(line) for file in sorted(journal) for line in file.read_text().splitlines()]
    return [record["result"] for record in records if record["verb"] == "load"]


def lives(helm: Helm, binary: Path, estate: Estate) -> None:
    """One replica from its first start to its next: a credential, new rules without a restart, a stop in time."""
    port = free_port()
    pod = estate.pod(helm, binary, port)
    try:
        pod.start()
        pod.ready(port)
        estate.credential(binary, port)
        pod.project("/etc/dayfly/policies", {**estate.files("policies"), "more.cedar": MORE})
        until(lambda: loaded(pod) == ["permitted"], "the new revision")
        keys = get(port, "/.well-known/jwks.json")
        assert pod.stop() == 0, pod.log.read_text()

        pod.start()
        pod.ready(port)
        estate.credential(binary, port)
        assert get(port, "/.well-known/jwks.json") == keys
        assert pod.stop() == 0, pod.log.read_text()

        if PRIVILEGED:
            # Without `OnRootMismatch` the kubelet opens every file to the group, each time that it mounts the volume.
            for path in (pod.root / "var/lib/dayfly").rglob("*"):
                path.chmod(path.stat().st_mode | (0o2770 if path.is_dir() else 0o660))
            pod.start()
            assert pod.process and pod.process.wait(PATIENCE) != 0
            assert "others can" in pod.log.read_text(), pod.log.read_text()
        else:
            print("chart: not checked without root: what becomes of keys that the kubelet opens to a group")
    finally:
        pod.remove()


def user_of(guide: str, password: str = "a-password", prefix: str = "dayfly") -> str:
    """The lines of Redis that let the user of the guide in, and nobody else."""
    line = re.search(r"^user dayfly .*$", guide, re.MULTILINE)
    assert line, "the guide has no user for Redis"
    user = line[0].replace("PASSWORD", password).replace("{dayfly:", f"{{{prefix}:")
    return f"user default off resetpass ~* &* +@all\n{user}"


class Redis:
    """A Redis with TLS."""

    def __init__(self, users: str, folder: Path) -> None:
        self.port = free_port()
        folder.mkdir()
        config.make_authority(folder)
        self.authority = (folder / "certificate.pem").read_bytes()
        (folder / "redis.conf").write_text(
            f"port 0\ntls-port {self.port}\nbind 127.0.0.1\ndir {folder}\ntls-auth-clients no\nappendonly yes\nmaxmemory-policy noeviction\n"
            f"tls-cert-file {folder}/certificate.pem\ntls-key-file {folder}/key.pem\ntls-ca-cert-file {folder}/certificate.pem\n"
            f"{users}\n"
        )
        self.process = subprocess.Popen(
            ["redis-server", folder / "redis.conf"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )

    def values(self) -> dict[str, Any]:
        """What the chart is told of it."""
        redis = {
            "urls": [f"rediss://localhost:{self.port}"],
            "username": "dayfly",
            "existingSecret": "redis",
            "ca": {"existingSecret": "redis-ca"},
        }
        return {"kind": "redis", "redis": redis}


def share(helm: Helm, binary: Path, estate: Estate, guide: str) -> None:
    """Two replicas on one Redis with the user of the guide, and one volume of keys: what one issues the other knows."""
    redis = Redis(user_of(guide), helm.state / "redis")
    keys = Path(tempfile.mkdtemp(prefix="dayfly-keys-"))
    pods: list[tuple[Pod, int]] = []
    try:
        give(keys, 0o2770)
        for _ in range(2):
            port = free_port()
            pod = estate.pod(
                helm,
                binary,
                port,
                replicaCount=2,
                ledger=redis.values(),
                signingKeys={"kind": "shared", "existingClaim": "keys"},
            )
            pods.append((pod, port))
            pod.project("/run/secrets/redis", {"password": b"a-password"}, 0o440)
            pod.project("/run/secrets/redis-ca", {"ca.crt": redis.authority}, 0o440)
            (pod.root / "var/lib/dayfly-keys").rmdir()
            (pod.root / "var/lib/dayfly-keys").symlink_to(keys)
            pod.start()
        for pod, port in pods:
            pod.ready(port)
        (first, one), (_, other) = pods
        assert get(one, "/.well-known/jwks.json") == get(other, "/.well-known/jwks.json")
        task = estate.run(
            binary,
            one,
            "task",
            "open",
            "--purpose",
            "answer ticket 4711",
            "--access",
            "crm:read@customers/42",
            "--id-only",
        )
        token = estate.run(
            binary,
            one,
            "task",
            "issue",
            task,
            "--tool",
            "crm",
            "--action",
            "read",
            "--resource",
            "customers/42",
            "--token-only",
        )
        assert token.count(".") == 2
        assert first.stop() == 0, first.log.read_text()
        ended = estate.run(binary, other, "task", "complete", task)
        assert "task_completed" in ended and "denied_at" in ended, ended
    finally:
        for pod, _ in pods:
            pod.remove()
        shutil.rmtree(keys)
        redis.process.terminate()
        redis.process.wait(PATIENCE)


def agree(helm: Helm, binary: Path, estate: Estate) -> None:
    """Two replicas with the keys of one Secret publish the same ones, before and after these were turned."""
    secret = estate.ring()
    published = []
    for ring in (secret, turned(secret)):
        answers = []
        for _ in range(2):
            port = free_port()
            pod = estate.pod(helm, binary, port, signingKeys={"kind": "secret", "existingSecret": "keys"})
            try:
                pod.project("/run/secrets/signing-keys", ring, 0o440)
                pod.initialise("signing-keys")
                pod.start()
                pod.ready(port)
                answers.append([key["kid"] for key in get(port, "/.well-known/jwks.json")["keys"]])
            finally:
                pod.remove()
        assert answers[0] == answers[1], answers
        published.append(answers[0])
    before, after = published
    # The first one signs. Whoever signs now was published before, and whoever signed is published still.
    assert after[0] == before[1] and before[0] in after and len(after) == 3, published


def turned(secret: dict[str, bytes]) -> dict[str, bytes]:
    """The Secret as its README says that it is turned."""
    ring = json.loads(secret["ring.json"])
    now = time.time()
    moment = time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime(now))
    later = time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime(now + 7200))
    new = {
        **ring,
        "active": ring["next"],
        "active_since": moment,
        "next": None,
        "retiring": [{"key": ring["active"], "until": later}],
    }
    command = ["openssl", "genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"]
    key = subprocess.run(command, check=True, capture_output=True).stdout
    return {**secret, "ring.json": json.dumps(new).encode(), "2027.pem": key}
