"""Objects against the schemas of Kubernetes and of the operators, in which nothing is allowed that is not named."""

from __future__ import annotations

import json
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import jsonschema
import referencing
import yaml

# The oldest that the chart takes, and the newest that there are schemas of.
VERSIONS = ("1.27.0", "1.37.0")
ABOUT = Path("/api/_definitions.json")


@cache
def _definitions(version: str) -> tuple[Any, referencing.Registry]:
    folder = files("kubernetes_validate") / "kubernetes-json-schema" / f"v{version}-local-strict"
    text = (folder / "_definitions.json").read_text()
    resource = referencing.Resource.from_contents(json.loads(text), referencing.jsonschema.DRAFT202012)
    return folder, referencing.Registry().with_resource(str(ABOUT), resource)


@cache
def _of_kubernetes(version: str, kind: str, group: str, api: str) -> jsonschema.Draft202012Validator | None:
    folder, registry = _definitions(version)
    name = "-".join(part for part in (kind.lower(), group.split(".")[0], api) if part)
    file = folder / f"{name}.json"
    if not file.is_file():
        return None
    return jsonschema.Draft202012Validator(json.loads(file.read_text()), registry=registry)


def _strict(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema of a definition, as JSON Schema, with unknown keys refused."""
    strict = {
        key: value
        for key, value in schema.items()
        if not key.startswith("x-kubernetes-") and key not in ("default", "nullable")
    }
    if schema.get("x-kubernetes-int-or-string"):
        return {"type": ["integer", "string"]}
    for key in ("properties",):
        if key in schema:
            strict[key] = {name: _strict(value) for name, value in schema[key].items()}
    for key in ("items", "additionalProperties"):
        if isinstance(schema.get(key), dict):
            strict[key] = _strict(schema[key])
    if "properties" in schema and not schema.get("x-kubernetes-preserve-unknown-fields"):
        strict.setdefault("additionalProperties", False)
    return strict


@cache
def _of_definitions(folder: Path) -> dict[tuple[str, str], jsonschema.Draft202012Validator]:
    found = {}
    for path in sorted(folder.glob("*.yaml")):
        definition = yaml.load(path.read_text(), yaml.CSafeLoader)
        group, kind = definition["spec"]["group"], definition["spec"]["names"]["kind"]
        for version in definition["spec"]["versions"]:
            schema = _strict(version["schema"]["openAPIV3Schema"])
            # What every object has, which definitions do not say.
            schema["properties"]["metadata"] = {"type": "object"}
            found[f"{group}/{version['name']}", kind] = jsonschema.Draft202012Validator(schema)
    return found


def faults(thing: dict[str, Any], definitions: Path) -> list[str]:
    """What is wrong with an object, by every schema that there is for it. No schema is a fault too."""
    api, kind = thing["apiVersion"], thing["kind"]
    name = f"{kind}/{thing['metadata']['name']}"
    own = _of_definitions(definitions).get((api, kind))
    validators = {"its definition": own} if own else {}
    if not own:
        group, _, version = api.rpartition("/")
        validators = {v: _of_kubernetes(v, kind, group, version) for v in VERSIONS}
    said = []
    for which, validator in validators.items():
        if validator is None:
            said.append(f"{name}: Kubernetes {which} has no {api} {kind}")
            continue
        said += [
            f"{name}: {which}: {'.'.join(map(str, it.absolute_path))}: {it.message}"
            for it in validator.iter_errors(thing)
        ]
    return said
