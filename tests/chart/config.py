"""A rendered `dayfly.toml`: what it names, and what stands in for that."""

from __future__ import annotations

import re
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


def of(rendered: Rendered) -> dict[str, Any]:
    """The configuration that was rendered."""
    return tomllib.loads(rendered.one("ConfigMap")["data"]["dayfly.toml"])


def folders(config: dict[str, Any]) -> list[str]:
    """Where agents, tools and policies are."""
    return [config["registry"]["agents"], config["registry"]["tools"], *config["policy"]["dirs"]]


def written(config: dict[str, Any]) -> list[str]:
    """Where Dayfly writes."""
    embedded = [config["ledger"]["embedded"]["path"]] if config["ledger"]["kind"] == "embedded" else []
    return [config["tokens"]["keys"], config["journal"]["dir"], *embedded]
