"""A small container engine: runs the services of a compose file with crun, as Docker and Podman would.

Dayfly runs in the root that `buildah` made of the Containerfile; other services have this system's programs in place of
their images. What compose.yaml says of a service holds: user, read-only root, capabilities, mounts, secrets, limits,
health checks, stop. All share one network namespace of their own, in which each service's name leads to 127.0.0.1.
"""

import ctypes
import fcntl
import json
import os
import resource
import shutil
import signal
import socket
import struct
import subprocess
import time
from pathlib import Path

from ruamel.yaml import YAML

PATIENCE = 30
# Whatever the default of engines allows and `cap_drop` would have to take away.
DEFAULT_CAPABILITIES = ["CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_NET_BIND_SERVICE", "CAP_SETUID", "CAP_SETGID"]
SYSTEM = ["/usr", "/bin", "/sbin", "/lib", "/lib64"]


def leave():
    """Nothing that runs from here on can be reached, or can reach anything, outside; what is mounted is seen here alone."""
    libc = ctypes.CDLL(None, use_errno=True)

    def called(result):
        if result != 0:
            raise OSError(ctypes.get_errno(), "cannot leave the namespaces of this machine")

    called(libc.unshare(0x4000_0000 | 0x0002_0000))  # CLONE_NEWNET, CLONE_NEWNS
    called(libc.mount(b"none", b"/", None, 0x4000 | 0x4_0000, None))  # MS_REC | MS_PRIVATE
    # crun takes no mixture of the two versions of control groups, even where it is to make none.
    called(libc.mount(b"none", b"/sys/fs/cgroup", b"cgroup2", 0, None))
    with socket.socket() as control:
        up = struct.pack("16sh", b"lo", 1)  # IFF_UP
        fcntl.ioctl(control, 0x8914, up)  # SIOCSIFFLAGS


def listed(value):
    """Mappings and lists are two ways to write the same."""
    return [f"{key}={text}" for key, text in value.items()] if isinstance(value, dict) else list(value or [])


def least(name, size):
    hard = resource.getrlimit(getattr(resource, f"RLIMIT_{name.upper()}"))[1]
    return size if hard == resource.RLIM_INFINITY else min(size, hard)


class Engine:
    def __init__(self, compose: Path, folder: Path, image: dict, root: Path, stand_ins: dict):
        self.base = compose.parent
        self.compose = YAML(typ="safe").load(compose)
        self.folder = folder
        # The configuration of Dayfly's image, and the root that was made of it.
        self.image = image
        self.root = root
        # By service: files that its image has and this system does not, by their paths there.
        self.stand_ins = stand_ins
        self.running = {}

    def bundle(self, name: str, run: str, arguments: list[str] | None = None) -> Path:
        service = self.compose["services"][name]
        ours = service["image"].startswith("registry.example.org/dayfly")
        folder = self.folder / run
        folder.mkdir(parents=True, exist_ok=True)
        user = [int(part) for part in service["user"].split(":")]
        environment = dict(each.split("=", 1) for each in listed(service.get("environment")))
        if ours:
            root, base = self.root, self.image
            command = base["Entrypoint"] + (arguments or service.get("command") or base["Cmd"])
            environment = dict(each.split("=", 1) for each in base["Env"]) | environment
            directory = base["WorkingDir"]
        else:
            root, directory = folder / "root", "/"
            (root / "var").mkdir(parents=True, exist_ok=True)
            if not (root / "var/run").is_symlink():
                (root / "var/run").symlink_to("/run")
            command = listed(service.get("entrypoint")) + listed(service.get("command"))
            # In compose.yaml `$$` is `$`.
            command = [word.replace("$$", "$") for word in command]
            environment |= {"PATH": f"/usr/local/bin:{os.environ['PATH']}"}
        kept = [] if service.get("cap_drop") == ["ALL"] else DEFAULT_CAPABILITIES
        limits = service.get("ulimits", {})
        # No more than this machine gives: not every root may raise it.
        limits = {key: least(key, size) for key, size in limits.items()}
        rlimits = [{"type": f"RLIMIT_{key.upper()}", "soft": size, "hard": size} for key, size in limits.items()]
        config = {
            "ociVersion": "1.0.2",
            "root": {"path": str(root), "readonly": service.get("read_only", False)},
            "hostname": name,
            "process": {
                "terminal": False,
                "user": {"uid": user[0], "gid": user[1]},
                "args": command,
                "env": [f"{key}={text}" for key, text in environment.items()],
                "cwd": directory,
                "capabilities": dict.fromkeys(["bounding", "effective", "inheritable", "permitted"], kept),
                "noNewPrivileges": "no-new-privileges:true" in service.get("security_opt", []),
                "rlimits": rlimits,
            },
            "mounts": self.mounts(name, service, ours, folder),
            # No network namespace: the one that this engine is in.
            "linux": {"namespaces": [{"type": kind} for kind in ("pid", "ipc", "uts", "mount")]},
        }
        (folder / "config.json").write_text(json.dumps(config, indent=1))
        return folder

    def mounts(self, name, service, ours, folder):
        made = [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755", "size=64k"]},
        ]

        def bind(source, destination, *options):
            made.append(
                {"destination": destination, "type": "bind", "source": str(source), "options": ["rbind", *options]}
            )

        def temporary(destination, *options):
            made.append({"destination": destination, "type": "tmpfs", "source": "tmpfs", "options": list(options)})

        hosts = folder / "hosts"
        hosts.write_text("".join(f"127.0.0.1 {each}\n" for each in ["localhost", *self.compose["services"]]))
        if ours:
            for library in self.stand_ins.get("dayfly", []):
                bind(library, library, "ro")
        else:
            for path in SYSTEM:
                if Path(path).exists():
                    bind(Path(path).resolve(), path, "ro")
            temporary("/usr/local")
            accounts = folder / "passwd"
            accounts.write_text(f"root:x:0:0::/:/bin/sh\n{name}:x:999:999::/:/bin/sh\n")
            bind(accounts, "/etc/passwd", "ro")
            for path, source in self.stand_ins.get(name, {}).items():
                bind(source, path, "ro")
        bind(hosts, "/etc/hosts", "ro")
        for each in service.get("tmpfs", []):
            destination, _, options = each.partition(":")
            temporary(destination, "nosuid", "nodev", *filter(None, options.split(",")))
        for each in service.get("volumes", []):
            source, destination, *mode = each.split(":")
            if source.startswith("."):
                bind((self.base / source).resolve(), destination, *(mode or ["rw"]))
            else:
                bind(self.volume(source, service, destination, ours), destination, "rw")
        for secret in service.get("secrets", []):
            source = self.base / self.compose["secrets"][secret]["file"]
            bind(source.resolve(), f"/run/secrets/{secret}", "ro")
        return made

    def volume(self, name, service, destination, ours):
        """A named volume: a new one has owner and mode of the folder that it covers in the image."""
        folder = self.folder / "volumes" / name
        assert name in self.compose["volumes"], name
        if not folder.exists():
            folder.mkdir(parents=True)
            if ours:
                assert destination in self.image["Volumes"], destination
                covered = (self.root / destination.lstrip("/")).stat()
                owner, mode = (covered.st_uid, covered.st_gid), covered.st_mode & 0o7777
            else:
                owner, mode = map(int, service["user"].split(":")), 0o700
            os.chown(folder, *owner)
            folder.chmod(mode)
        return folder

    def crun(self, *arguments, **options):
        command = ["crun", "--cgroup-manager=disabled", f"--root={self.folder}/crun", *map(str, arguments)]
        return subprocess.run(command, text=True, **options)

    def nothing(self):
        """What a container reads. Not /dev/null: crun makes the user of the container its owner, on the whole machine."""
        empty = self.folder / "nothing"
        empty.touch()
        return empty.open("r+")

    def start(self, name: str):
        for other, wanted in self.compose["services"][name].get("depends_on", {}).items():
            if other not in self.running:
                self.start(other)
            assert wanted == {"condition": "service_healthy"}, wanted
        folder = self.bundle(name, name)
        self.crun("delete", "--force", name, stdin=self.nothing(), capture_output=True)
        log = (folder / "log").open("a")
        command = ["crun", "--cgroup-manager=disabled", f"--root={self.folder}/crun", "run", "--bundle", folder, name]
        self.running[name] = subprocess.Popen(command, stdin=self.nothing(), stdout=log, stderr=log)
        self.healthy(name)

    def healthy(self, name: str):
        check = self.compose["services"][name].get("healthcheck")
        if not check:
            return
        kind, *words = check["test"]
        words = ["sh", "-c", *words] if kind == "CMD-SHELL" else words
        until = time.monotonic() + PATIENCE
        while self.inside(name, *words).returncode != 0:
            if self.running[name].poll() is not None or time.monotonic() > until:
                raise AssertionError(f"{name} is not healthy:\n{self.log(name)}")
            time.sleep(0.1)

    def inside(self, name: str, *words: str) -> subprocess.CompletedProcess:
        """`compose exec`: one more process in a container that runs, by its user."""
        user = self.compose["services"][name]["user"]
        return self.crun("exec", "--user", user, name, *words, stdin=self.nothing(), capture_output=True)

    def log(self, name: str) -> str:
        return (self.folder / name / "log").read_text()

    def pid(self, name: str) -> int:
        """Its first process, as it is seen from here."""
        return json.loads(self.crun("state", name, capture_output=True, check=True).stdout)["pid"]

    def run(self, name: str, *arguments: str) -> subprocess.CompletedProcess:
        """`compose run --rm`: in a container of its own, with these arguments."""
        folder = self.bundle(name, f"{name}-run", list(arguments))
        return self.crun("run", "--bundle", folder, f"{name}-run", stdin=self.nothing(), capture_output=True)

    def stop(self, name: str) -> tuple[int, float]:
        """As engines stop: its signal, then patience. The exit code, and how long it took."""
        process = self.running.pop(name)
        began = time.monotonic()
        number = getattr(signal, self.image["StopSignal"]) if name == "dayfly" else signal.SIGTERM
        self.crun("kill", name, int(number), stdin=self.nothing(), capture_output=True)
        grace = self.compose["services"][name].get("stop_grace_period", "10s")
        try:
            code = process.wait(float(grace.removesuffix("s")))
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{name} did not stop within {grace}:\n{self.log(name)}") from None
        return code, time.monotonic() - began

    def close(self):
        for name in list(self.running):
            self.crun("delete", "--force", name, stdin=self.nothing(), capture_output=True)
            self.running.pop(name).wait(10)
        shutil.rmtree(self.folder, ignore_errors=True)
