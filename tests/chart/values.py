"""The values, as `values.yaml` describes them: the table of the README, and that nothing is left out."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import yaml

KEY = re.compile(r"^( *)([A-Za-z]\w*):(.*)$")
BEGIN, END = "<!--values: written by `integration/chart --update`-->", "<!--end of values-->"


def described(chart: Path) -> dict[str, str]:
    """What stands above each value, behind `# --`."""
    found: dict[str, str] = {}
    path: list[tuple[int, str]] = []
    comment: list[str] | None = None
    for line in (chart / "values.yaml").read_text().splitlines():
        text = line.strip()
        if text.startswith("# -- "):
            comment = [text.removeprefix("# -- ")]
        elif text.startswith("#") and comment is not None:
            comment.append(text.removeprefix("#").strip())
        elif (match := KEY.match(line)) and not _inside(path, line, found):
            indent = len(match[1])
            path = [it for it in path if it[0] < indent] + [(indent, match[2])]
            if comment is not None:
                found[".".join(name for _, name in path)] = " ".join(comment)
            comment = None
        elif not text or text.startswith("#"):
            comment = None
    return found


def _inside(path: list[tuple[int, str]], line: str, found: dict[str, str]) -> bool:
    """Whether a line belongs to a value that is described as a whole."""
    indent = len(line) - len(line.lstrip())
    above = [it for it in path if it[0] < indent]
    return any(".".join(name for _, name in above[: i + 1]) in found for i in range(len(above)))


def defaults(chart: Path) -> dict[str, Any]:
    """The values."""
    return yaml.load((chart / "values.yaml").read_text(), yaml.CSafeLoader)


def leaves(values: dict[str, Any], known: dict[str, str], at: str = "") -> list[tuple[str, Any]]:
    """Every value that is described, or that has nothing below it."""
    found = []
    for key, value in values.items():
        here = f"{at}.{key}" if at else key
        if here in known or not isinstance(value, dict) or not value:
            found.append((here, value))
        else:
            found += leaves(value, known, here)
    return found


def table(chart: Path) -> str:
    """The table of the README."""
    known = described(chart)
    rows = ["| Value | Default | Meaning |", "|---|---|---|"]
    for path, value in leaves(defaults(chart), known):
        text = known[path].replace("|", "\\|")
        rows.append(f"| `{path}` | `{json.dumps(value)}` | {text} |")
    return "\n".join(rows)


def readme(chart: Path) -> str:
    """The README with its table as it should be."""
    text = (chart / "README.md").read_text()
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n\n{table(chart)}\n\n{END}{after}"


def unlike(chart: Path) -> list[str]:
    """Where comments, values and schema say different things."""
    known, values = described(chart), defaults(chart)
    schema = json.loads((chart / "values.schema.json").read_text())
    wrong = [f"{path} has no comment" for path, _ in leaves(values, known) if path not in known]
    wrong += _unlike(values, schema, known, "")
    return wrong


def _unlike(values: dict[str, Any], schema: dict[str, Any], known: dict[str, str], at: str) -> list[str]:
    wrong = []
    properties = schema.get("properties", {})
    for key in set(values) ^ (set(properties) - {"global"}):
        wrong.append(f"{at}{key} is in {'values.yaml' if key in values else 'the schema'} only")
    if schema.get("additionalProperties") is not False:
        wrong.append(f"{at or 'the schema'} takes unknown keys")
    for key in set(values) & set(properties):
        here = f"{at}{key}"
        if isinstance(values[key], dict) and here not in known:
            wrong += _unlike(values[key], properties[key], known, f"{here}.")
    return wrong


def unused(chart: Path) -> list[str]:
    """Values that no template reads, neither by their names nor with what they are in."""
    templates = "".join(path.read_text() for path in sorted((chart / "templates").iterdir()))

    def read(name: str) -> bool:
        return bool(re.search(rf'\.{name}\b|"{name}"', templates))

    return [path for path, _ in leaves(defaults(chart), described(chart)) if not any(map(read, path.split(".")[-2:]))]
