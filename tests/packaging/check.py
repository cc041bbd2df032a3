"""The image in use: compose.yaml with real Redis and PostgreSQL, a login from the first step to its end.

usage: check.py FOLDER ROOT IMAGE [LIBRARY…]

ROOT is the image's file system, IMAGE its configuration (JSON). As root: it makes containers.
"""

import json
import os
import re
import socketserver
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

from engine import Engine, least, leave

folder, root, image, *libraries = sys.argv[1:]
folder, root = Path(folder), Path(root)
repository = Path(__file__).resolve().parents[2]
packaging = folder / "packaging"
secrets = packaging / "compose/secrets"
prepare = packaging / "compose/prepare"
PATIENCE = 30


def until(what, that):
    end = time.monotonic() + PATIENCE
    while not (found := that()):
        if time.monotonic() > end or any(each.poll() is not None for each in engine.running.values()):
            raise AssertionError(f"waited for {what}")
        time.sleep(0.05)
    return found


def ready():
    try:
        with urllib.request.urlopen("http://127.0.0.1:8440/readyz", timeout=5) as answer:
            return answer.status == 200 and json.load(answer)
    except OSError:
        return False


def evidence(workload):
    subprocess.run([prepare, "evidence", workload], check=True)


def dayfly(*arguments, code=0):
    """A command in the service `cli`, as the walk-through gives it."""
    made = engine.run("cli", *arguments)
    assert made.returncode == code, (arguments, made.returncode, made.stdout, made.stderr)
    return made.stdout


def psql(login, statement):
    words = f"hostaddr=127.0.0.1 host={login['host']} port={login['port']} dbname={login['database']} user={login['username']}"
    words += f" sslmode=verify-full sslrootcert={secrets}/ca.pem"
    return subprocess.run(
        ["psql", "--no-psqlrc", "--tuples-only", "--no-align", "--command", statement, words],
        env=os.environ | {"PGPASSWORD": login["password"]}, text=True, capture_output=True,
    )


def redis(*words):
    command = ["redis-cli", "--tls", "--cacert", secrets / "ca.pem", "--sni", "redis", "--no-auth-warning", *words]
    return subprocess.run(command, text=True, capture_output=True).stdout


def status(pid):
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return dict(line.split(":\t", 1) for line in lines if ":\t" in line)


def as_it_is():
    """The image before anybody says how to run it."""
    assert engine.image["User"] == "65532:65532" and list(engine.image["Volumes"]) == ["/var/lib/dayfly"], engine.image
    version = re.search(r'^version = "(.*)"$', (repository / "Cargo.toml").read_text(), re.MULTILINE)[1]
    labels = engine.image["Labels"]
    assert labels["org.opencontainers.image.version"] == version, labels
    # What the guide hands to the build. The clone may be somebody else's.
    head = ["git", "-c", "safe.directory=*", "-C", repository, "rev-parse", "HEAD"]
    commit = subprocess.run(head, text=True, capture_output=True).stdout.strip()
    assert labels["org.opencontainers.image.revision"] == commit, labels
    assert engine.compose["services"]["dayfly"]["image"].endswith(f":{version}"), version
    files = [path for path in root.rglob("*") if path.is_file() and not path.is_symlink()]
    run = [path.relative_to(root) for path in files if path.stat().st_mode & 0o111]
    assert run == [Path("usr/local/bin/dayfly")], run
    # It can be changed by nobody that it runs as, wherever it is run.
    theirs = [path for path in root.rglob("*") if path.lstat().st_uid != 0 or path.lstat().st_mode & 0o6022]
    assert theirs == [root / "var/lib/dayfly"], theirs
    components = json.loads((root / "usr/local/share/doc/dayfly/sbom.cdx.json").read_text())["components"]
    assert len(components) > 100, len(components)


def confined():
    """What the kernel says about the broker."""
    pid = engine.pid("dayfly")
    it = status(pid)
    assert it["Uid"].split() == ["65532"] * 4 and it["Gid"].split() == ["65532"] * 4, it
    assert [int(it[each], 16) for each in ("CapEff", "CapPrm", "CapBnd")] == [0, 0, 0], it
    assert it["NoNewPrivs"] == "1", it
    mounts = [line.split() for line in Path(f"/proc/{pid}/mountinfo").read_text().splitlines()]
    # Everything that is stored, and where it can be written.
    written = [mount[4] for mount in mounts if "rw" in mount[5].split(",") and not mount[4].startswith(("/proc", "/dev"))]
    assert written == ["/var/lib/dayfly"], written
    limits = Path(f"/proc/{pid}/limits").read_text().splitlines()
    hard = {line[:26].strip(): line[26:].split()[1] for line in limits[1:]}
    assert (hard["Max core file size"], hard["Max open files"]) == ("0", str(least("nofile", 65536))), hard


def private():
    """What it wrote is for nobody else, and none of it is a secret of somebody else."""
    wanted = [(secrets / name).read_bytes().strip() for name in ("redis-password", "postgres-password")]
    volume = folder / "engine/volumes/dayfly"
    assert (volume.stat().st_uid, volume.stat().st_mode & 0o7777) == (65532, 0o700)
    files = [path for path in volume.rglob("*") if path.is_file()]
    assert {"audit.pem", "vkey"} <= {path.name for path in files}, files
    assert {path.stat().st_uid for path in files} == {65532}, files
    for path in [*files, folder / "engine/dayfly/log"]:
        assert not any(secret in path.read_bytes() for secret in wanted), path


def walk():
    evidence("agents/support-bot")
    task = dayfly("task", "open", "--purpose", "answer ticket 4711", "--access", "orders:read", "--id-only").strip()
    issued = json.loads(dayfly("--json", "task", "issue", task, "--tool", "orders", "--action", "read"))
    login = issued["credential"]
    assert login["host"] == "postgres" and login["username"].startswith("dayfly_"), login
    shown = psql(login, "SELECT customer FROM orders ORDER BY id")
    assert shown.stdout.split("\n")[0] == "Harbour Books", shown
    refused = psql(login, "DELETE FROM orders")
    assert "permission denied" in refused.stderr, refused
    return task, login


def ended(task, login):
    shown = dayfly("task", "complete", task)
    assert "verified_absent" in shown, shown
    gone = psql(login, "SELECT 1")
    assert gone.returncode != 0 and "authentication failed" in gone.stderr, gone


# --- The guide, word by word

GUIDE = repository / "docs/guides/run-in-a-container.md"
# What plays `docker`: it hands its words over, and says and ends as it is told.
DOCKER = """#!/usr/bin/env python3
import json, socket, sys
with socket.socket(socket.AF_UNIX) as to:
    to.connect({address!r})
    to.sendall(json.dumps(sys.argv[1:]).encode() + b"\\n")
    told = json.load(to.makefile())
sys.stdout.write(told["out"])
sys.stderr.write(told["err"])
sys.exit(told["code"])
"""


def docker(words):
    """What Docker does with these words, as far as the guide uses it."""
    assert words[:3] == ["compose", "--file", "packaging/compose.yaml"], words
    match words[3:]:
        case ["up", "--build", "--detach"]:
            engine.start("dayfly")
            until("Dayfly", ready)
            return "", "", 0
        case ["logs", service]:
            return engine.log(service), "", 0
        case ["run", "--rm", "cli", *rest]:
            made = engine.run("cli", *rest)
        case ["exec", "dayfly", "/usr/local/bin/dayfly", "doctor", *rest]:
            made = engine.inside("dayfly", "/usr/local/bin/dayfly", "doctor", *rest)
            # As the guide says: not all is fine. Its reader's shell goes on.
            assert made.returncode == 7, made
            return made.stdout, made.stderr, 0
        case ["exec", service, *rest]:
            made = engine.inside(service, *rest)
        case _:
            raise AssertionError(f"the guide asks for what nothing here does: docker {words}")
    return made.stdout, made.stderr, made.returncode


class Asked(socketserver.StreamRequestHandler):
    def handle(self):
        try:
            out, err, code = docker(json.loads(self.rfile.readline()))
        except AssertionError as fault:
            out, err, code = "", f"{fault}\n", 125
        self.wfile.write(json.dumps({"out": out, "err": err, "code": code}).encode())


def follow():
    """Types what the guide says to type, up to where it builds an image by hand; what was printed, block by block."""
    text = GUIDE.read_text().split("\n## What is where")[0]
    blocks = re.findall(r"^```sh\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    assert len(blocks) >= 4, blocks
    bin = folder / "bin"
    bin.mkdir()
    address = str(folder / "docker.sock")
    (bin / "docker").write_text(DOCKER.format(address=address))
    (bin / "docker").chmod(0o755)
    typed = "shopt -s expand_aliases\nset -e\n" + "echo '=== next'\n".join(blocks)
    with socketserver.UnixStreamServer(address, Asked) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        made = subprocess.run(
            ["bash", "-c", typed], cwd=folder, text=True, capture_output=True,
            env={"PATH": f"{bin}:{os.environ['PATH']}", "HOME": str(folder)},
        )
        server.shutdown()
    assert made.returncode == 0, (made.returncode, made.stdout, made.stderr)
    started, looked, issued, ended, recorded = made.stdout.split("=== next\n")
    assert '"message":"ready"' in started, started
    found = [line.split(maxsplit=1) for line in looked.splitlines() if not line.startswith(" ")]
    about = {(verdict, what.split(": ")[0]) for verdict, what in found}
    unsafe = {what for verdict, what in about if verdict not in ("fine", "unknown")}
    unknown = {what.split(": ")[1] for verdict, what in found if verdict == "unknown"}
    # Whoever may do no more than a broker needs is not told how Redis is set up.
    assert unknown == {"persistence", "rights of `default`"}, looked
    assert unsafe == {"listener", "trust domain"} and {("fine", "redis"), ("fine", "clock"), ("fine", "provider")} <= about, looked
    assert "dayfly_" in issued and "postgres" in issued, issued
    before, after = ended.split("verified_absent")
    assert re.search(r"dayfly_[0-9a-z]{26}", before.split("id ")[0]) and not re.search(r"dayfly_[0-9a-z]{26}", after), ended
    assert "issue permitted support-bot tool=orders" in recorded, recorded


# What is run is a copy, so that the secrets of whoever tries it in this clone stay as they are.
subprocess.run(["cp", "-r", repository / "packaging", folder], check=True)
subprocess.run(["rm", "-rf", secrets], check=True)
leave()
stand_ins = {
    "dayfly": libraries,
    "postgres": {"/usr/local/bin/docker-entrypoint.sh": repository / "tests/packaging/entrypoint"},
}
engine = Engine(packaging / "compose.yaml", folder / "engine", json.loads(image), root, stand_ins)
try:
    as_it_is()
    follow()
    confined()
    assert "NOAUTH" in redis("ping"), "whoever has no login is let in"
    assert "NOPERM" in redis("--user", "health", "--pass", "", "get", "x")

    first, login = walk()
    ended(first, login)
    assert dayfly("task", "issue", first, "--tool", "orders", "--action", "read", code=1) == ""

    # Everything is stopped with a login out, and started again: it is still known, and ends as it should.
    second, login = walk()
    code, took = engine.stop("dayfly")
    assert code == 0 and took < 10, (code, took)
    assert engine.stop("redis")[0] == 0 and engine.stop("postgres")[0] == 0
    engine.start("dayfly")
    assert until("Dayfly", ready)["status"] != "quarantine"
    assert psql(login, "SELECT 1").stdout.strip() == "1"
    ended(second, login)

    evidence("ops/console")
    shown = dayfly("journal", "tail", "--evidence", "/evidence/console.jwt")
    assert shown.count(" issue permitted support-bot tool=orders") == 3, shown
    private()
    # The engine left the machine as it was.
    assert os.stat("/dev/null").st_uid == 0
    print("compose: the guide word by word; a login over a restart of everything; nothing to write but the volume")
except BaseException:
    for name in ("dayfly", "redis", "postgres"):
        if (folder / "engine" / name / "log").exists():
            sys.stderr.write(f"--- {name}\n" + "\n".join(engine.log(name).splitlines()[-30:]) + "\n")
    raise
finally:
    engine.close()
