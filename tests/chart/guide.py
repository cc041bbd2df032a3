"""What the guide to an installation shows: its rules and its values, used as they stand there."""

from __future__ import annotations

import re
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


def values(page: str) -> list[dict[str, Any]]:
    """The values to begin with, and those with each change that the page shows."""
    first, *changes = [yaml.load(text, yaml.CSafeLoader) for text in VALUES.findall(page)]
    assert len(changes) >= 5, len(changes)
    found = [first]
    for change in changes:
        changed = {**first, **{key: value for key, value in change.items() if key != "config"}}
        if "config" in change:
            changed["config"] = {**first["config"], **change["config"]}
        if "tls" in change:
            # As the page says.
            del changed["dangerPlaintext"]
        found.append(changed)
    return found


def objects(page: str) -> list[dict[str, Any]]:
    """The objects that the page shows."""
    return [yaml.load(text, yaml.CSafeLoader) for text in OBJECT.findall(page)]
