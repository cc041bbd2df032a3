"""What Dayfly itself says of a rendered `dayfly.toml`."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from helm import Rendered

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

# Where files are in the pod.
PLACES = re.compile(r'"(/(?:etc|run|var)/)')
PLACEHOLDER = "a-placeholder-of-thirty-two-bytes"
PEMS = {"ca_file": "certificate.pem", "cert_file": "certificate.pem", "key_file": "key.pem"}


def files(config: Any) -> Iterator[tuple[str, str]]:
    """Every file that a configuration names, with its key."""
    if isinstance(config, dict):
        for key, value in config.items():
            if key.endswith("_file") and isinstance(value, str):
                yield key, value
            else:
                yield from files(value)
    elif isinstance(config, list):
        for value in config:
            yield from files(value)


def make_authority(folder: Path) -> None:
    """A certificate that vouches for itself, and its key."""
    command = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
        "-days",
        "2",
        "-subj",
        "/CN=test",
    ]
    command += [
        "-addext",
        "basicConstraints=critical,CA:FALSE",
        "-addext",
        "subjectAltName=DNS:dayfly.dayfly.svc,DNS:localhost",
        "-keyout",
        folder / "key.pem",
        "-out",
        folder / "certificate.pem",
    ]
    subprocess.run(command, check=True, capture_output=True)


def mounted(rendered: Rendered) -> list[str]:
    """Where the container of Dayfly has something mounted."""
    pod = rendered.one("StatefulSet")["spec"]["template"]["spec"]
    container = next(it for it in pod["containers"] if it["name"] == "dayfly")
    volumes = {it["name"] for it in pod["volumes"]} | {"data"}
    assert all(mount["name"] in volumes for mount in container["volumeMounts"]), "a mount without a volume"
    return [mount["mountPath"] for mount in container["volumeMounts"]]


def check(rendered: Rendered, binary: Path, sandbox: Path, authority: Path, rules: Path) -> None:
    """Lays out what the pod would have, with placeholders for secrets, and has `dayfly check` read it."""
    text = rendered.one("ConfigMap")["data"]["dayfly.toml"]
    config = tomllib.loads(text)
    places = mounted(rendered)
    folders = [*config["policy"]["dirs"], config["registry"]["agents"], config["registry"]["tools"]]
    state = [config["tokens"]["keys"], config["journal"]["dir"]]
    state += [config["ledger"]["embedded"]["path"]] if config["ledger"]["kind"] == "embedded" else []
    for path in [*(path for _, path in files(config)), *folders, *state]:
        assert any(path == place or path.startswith(f"{place}/") for place in places), f"{path} is not mounted"
    for key, path in files(config):
        file = sandbox / path.lstrip("/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text((authority / PEMS[key]).read_text() if key in PEMS else PLACEHOLDER)
        file.chmod(0o600)
    for folder in folders:
        place = sandbox / folder.lstrip("/")
        part = folder.rsplit("/", 1)[-1]
        written = [
            it
            for it in rendered.objects
            if it["kind"] == "ConfigMap" and it["metadata"]["name"] == f"dayfly-{part}" and it["data"]
        ]
        if written:
            place.mkdir(parents=True)
            for name, body in written[0]["data"].items():
                (place / name).write_text(body)
        else:
            shutil.copytree(rules / part, place)
    file = sandbox / "dayfly.toml"
    file.write_text(PLACES.sub(rf'"{sandbox}\1', text))
    done = subprocess.run([binary, "check", "--config", file], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def unknown(rendered: Rendered, binary: Path, file: Path) -> str:
    """The key of a newer Dayfly that this one does not know, if there is one."""
    file.write_text(rendered.one("ConfigMap")["data"]["dayfly.toml"])
    done = subprocess.run([binary, "check", "--config", file], capture_output=True, text=True, check=False)
    found = re.search(r"unknown key `(tools|operators|client_certificates)`", done.stdout + done.stderr)
    return found[1] if found else ""
