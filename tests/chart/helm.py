"""Helm, and what it renders."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

# A scenario's notes are rendered as an object: `helm template` leaves them out, and `helm install` asks a cluster.
NOTES = {
    "apiVersion": "v1",
    "kind": "ConfigMap",
    "metadata": {"name": "notes"},
    "data": {"notes": '{{ include "dayfly.notes" . | b64enc }}'},
}


@dataclass(frozen=True)
class Rendered:
    """What came of a rendering: objects, or a refusal."""

    text: str
    refusal: str

    @property
    def objects(self) -> list[dict[str, Any]]:
        """Every object, in the order of the text."""
        assert not self.refusal, self.refusal
        return [it for it in yaml.load_all(self.text, yaml.CSafeLoader) if it]

    def one(self, kind: str, name: str = "dayfly") -> dict[str, Any]:
        """The object of that kind and name."""
        found = [it for it in self.objects if it["kind"] == kind and it["metadata"]["name"] == name]
        assert len(found) == 1, f"{len(found)} objects {kind}/{name}"
        return found[0]

    def kinds(self) -> set[str]:
        """The kinds of all objects."""
        return {it["kind"] for it in self.objects}


@dataclass(frozen=True)
class Helm:
    """The program, with the chart and a folder for what is written meanwhile."""

    program: Path
    chart: Path
    state: Path

    def scenarios(self) -> list[str]:
        """The documented installations."""
        return sorted(path.name.removesuffix("-values.yaml") for path in self.chart.glob("ci/*-values.yaml"))

    def values(self, scenario: str) -> Path:
        """The file of one."""
        return self.chart / "ci" / f"{scenario}-values.yaml"

    def template(self, scenario: str | None, more: dict[str, Any] | None = None, chart: Path | None = None) -> Rendered:
        """Renders a scenario, with more values on top of its own, or these values alone."""
        command: list[str | Path] = [self.program, "template", "dayfly", chart or self.chart, "--namespace", "dayfly"]
        command += ["--values", self.values(scenario)] if scenario else []
        command += ["--values", "-"] if more else []
        done = subprocess.run(command, input=json.dumps(more or {}), capture_output=True, text=True, check=False)
        return Rendered(done.stdout, done.stderr.strip() if done.returncode else "")

    def notes(self, scenario: str, more: dict[str, Any] | None = None) -> str:
        """What is printed after an installation."""
        rendered = self.template(scenario, {**(more or {}), "extraObjects": [NOTES]})
        return base64.b64decode(rendered.one("ConfigMap", "notes")["data"]["notes"]).decode()

    def lint(self, scenario: str) -> str:
        """What `helm lint --strict` has to say, if anything."""
        command = [self.program, "lint", "--strict", "--quiet", self.chart, "--values", self.values(scenario)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        return "" if done.returncode == 0 else done.stdout + done.stderr

    def packed(self) -> set[str]:
        """The files of the archive that `helm package` makes."""
        subprocess.run(
            [self.program, "package", self.chart, "--destination", self.state], check=True, capture_output=True
        )
        with tarfile.open(next(self.state.glob("dayfly-*.tgz"))) as archive:
            return {name.removeprefix("dayfly/") for name in archive.getnames()}

    def copy(self, name: str, extra: dict[str, str]) -> Path:
        """A copy of the chart with these files in place of its alerts and dashboards."""
        copy = self.state / name
        shutil.copytree(self.chart, copy, ignore=shutil.ignore_patterns("tests", "ci", "rules", "dashboards"))
        for path, text in extra.items():
            (copy / path).parent.mkdir(exist_ok=True)
            (copy / path).write_text(text)
        return copy
