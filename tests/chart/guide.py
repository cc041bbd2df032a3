"""What the guide to an installation shows: its rules and its values, used as they stand there."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import yaml

FILE = re.compile(r"^`rules/(\w+)/([\w.-]+)`[^\n]*\n\n(?:<!-- [^\n]*\n)?```\w+\n(.*?)^```", re.MULTILINE | re.DOTALL)
VALUES = re.compile(r"^```yaml\n(# values\.yaml\n.*?)^```", re.MULTILINE | re.DOTALL)
OBJECT = re.compile(r"^```yaml\n(apiVersion:.*?)^```", re.MULTILINE | re.DOTALL)


def rules(page: str, into: Path) -> None:
    """Writes the files of the page, and copies what it copies."""
    for part in ("agents", "tools", "policies"):
        (into / part).mkdir(parents=True)
    found = FILE.findall(page)
    assert len(found) == 3, found
    for part, name, text in found:
        (into / part / name).write_text(text)
    root = Path(__file__).resolve().parents[2]
    for source, part in re.findall(r"^cp (config/\S+) rules/(\w+)/$", page, re.MULTILINE):
        (into / part / Path(source).name).write_text((root / source).read_text())


# What stands for a cluster: it keeps what it is given, and does nothing else. Objects are made without it, by the real kubectl.
KUBECTL = """#!/bin/sh
case " $* " in
*" create configmap "* | *" create secret "*)
  case " $* " in
  *" --dry-run=client "*) exec {kubectl} "$@" ;;
  esac
  echo --- >>{made} && exec {kubectl} "$@" --dry-run=client -o yaml >>{made} ;;
*" apply -f - ") echo --- >>{made} && exec cat >>{made} ;;
esac
"""
HELM = """#!/bin/sh
[ "$1" != install ] || {{ shift; echo --- >>{made}; exec {helm} template "$@" >>{made}; }}
"""
TYPED = re.compile(r"^```(?:yaml\n(# values\.yaml\n.*?)|sh\n(.*?))^```", re.MULTILINE | re.DOTALL)


def typed(page: str, folder: Path, helm: Path) -> list[tuple[str, list[dict[str, Any]]]]:
    """What comes of the commands that make something, typed in their order where `rules` and `values.yaml` are: each
    block, with its objects."""
    kubectl, made = shutil.which("kubectl"), folder / "made.yaml"
    assert kubectl, "there is no kubectl"
    root, programs = Path(__file__).resolve().parents[2], folder / "bin"
    programs.mkdir()
    for name, text in (("kubectl", KUBECTL), ("helm", HELM)):
        (programs / name).write_text(text.format(kubectl=kubectl, helm=helm, made=made))
        (programs / name).chmod(0o755)
    (folder / "charts").symlink_to(root / "charts")
    for name in ("redis-ca.pem", "deploy-key", "known_hosts"):
        (folder / name).write_text("not a real one\n")
    environment = {**os.environ, "PATH": f"{programs}:{os.environ['PATH']}", "REDIS_PASSWORD": "a-password"}
    steps, found = iter(values(page)), []
    for changed, block in TYPED.findall(page):
        if changed:
            (folder / "values.yaml").write_text(yaml.safe_dump(next(steps)))
        elif re.search(r"create (configmap|secret) |helm install ", block):
            made.write_text("")
            command = ["bash", "-euo", "pipefail", "-c", block]
            done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
            assert done.returncode == 0, f"{block}\n{done.stderr}"
            found.append((block, [it for it in yaml.load_all(made.read_text(), yaml.CSafeLoader) if it]))
    return found


def values(page: str) -> list[dict[str, Any]]:
    """The values to begin with, and those after each change that the page shows."""
    first, *changes = [yaml.load(text, yaml.CSafeLoader) for text in VALUES.findall(page)]
    assert len(changes) >= 5, len(changes)
    found = [first]
    for change in changes:
        # One after the other, in one file: whoever gets to the end has them all.
        changed = {**found[-1], **change}
        if "config" in change:
            changed["config"] = {**found[-1]["config"], **change["config"]}
        if "tls" in change:
            # As the page says.
            changed.pop("dangerPlaintext", None)
        found.append(changed)
    return found


def objects(page: str) -> list[dict[str, Any]]:
    """The objects that the page shows."""
    return [yaml.load(text, yaml.CSafeLoader) for text in OBJECT.findall(page)]
