"""The dashboards, held to the types that Grafana's schemas make (`grafana-foundation-sdk`): no field that Grafana does
not know, none missing that it needs, each of its type; and to what makes a dashboard usable.
"""

import enum
import functools
import inspect
import json
import re
import types
import typing
from pathlib import Path

from grafana_foundation_sdk.cog import variants
from grafana_foundation_sdk.models import dashboard, heatmap, prometheus, stat, statetimeline, timeseries

PANELS = {"stat": stat, "timeseries": timeseries, "heatmap": heatmap, "state-timeline": statetimeline}


@functools.cache
def fields(of: type) -> dict[str, object]:
    """The fields that a type has in JSON, as it writes them itself, with their types."""
    hints = typing.get_type_hints(of)
    source = inspect.getsource(of.to_json)
    pairs = re.findall(r'(?:payload\["([^"]+)"\] =|"([^"]+)":) self\.(\w+)', source)
    found = {first or second: hints[attribute] for first, second, attribute in pairs}
    assert len(found) == len(hints), f"{of}: {sorted(set(hints) - {attribute for _, _, attribute in pairs})}"
    return found


def optional(kind: object) -> bool:
    return type(None) in typing.get_args(kind)


def faults(value: object, kind: object, where: str) -> list[str]:
    """All that is wrong with a value of JSON that should be of that type."""
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if kind in (object, typing.Any):
        return []
    if origin in (typing.Union, types.UnionType):
        if value is None and optional(kind):
            return []
        # Of several the one that fits best: the others say nothing.
        return min((faults(value, one, where) for one in inner if one is not type(None)), key=len)
    if origin is typing.Literal:
        return [] if value in inner else [f"{where}: {value!r} is none of {inner}"]
    if origin is list:
        if not isinstance(value, list):
            return [f"{where}: no list"]
        return [fault for at, one in enumerate(value) for fault in faults(one, inner[0], f"{where}[{at}]")]
    if origin is dict:
        if not isinstance(value, dict):
            return [f"{where}: no object"]
        return [fault for key, one in value.items() for fault in faults(one, inner[1], f"{where}.{key}")]
    if kind is variants.Dataquery:
        return faults(value, prometheus.Dataquery, where)
    if inspect.isclass(kind) and issubclass(kind, enum.Enum):
        return [] if value in [one.value for one in kind] else [f"{where}: {value!r} is no {kind.__name__}"]
    if kind is float:
        right = isinstance(value, (int, float)) and not isinstance(value, bool)
        return [] if right else [f"{where}: {value!r} is no number"]
    if kind in (str, int, bool):
        return [] if type(value) is kind else [f"{where}: {value!r} is no {kind.__name__}"]
    assert inspect.isclass(kind) and hasattr(kind, "to_json"), f"{where}: cannot judge a {kind}"
    if not isinstance(value, dict):
        return [f"{where}: no object"]
    known = fields(kind)
    wrong = [f"{where}: {kind.__name__} has no {name}" for name in sorted(set(value) - set(known))]
    for name, one in known.items():
        if name in value:
            wrong += faults(value[name], one, f"{where}.{name}")
        elif not optional(one):
            wrong.append(f"{where}: {kind.__name__} needs {name}")
    return wrong


def check(path: Path) -> list[tuple[str, str, str]]:
    """Fails on what Grafana would not take or nobody could use. What is asked: where, what, and how it is called."""
    board = json.loads(path.read_text())
    wrong = faults(board, dashboard.Dashboard, path.name)
    queries = []
    for panel in board["panels"]:
        where = f"{path.name}: {panel['title']}"
        if panel["type"] == "row":
            continue
        module = PANELS[panel["type"]]
        wrong += faults(panel["options"], module.Options, f"{where}: options")
        if "custom" in panel["fieldConfig"]["defaults"]:
            custom = panel["fieldConfig"]["defaults"]["custom"]
            wrong += faults(custom, module.FieldConfig, f"{where}: custom")
        for target in panel["targets"]:
            queries.append((where, target["expr"], target["legendFormat"]))
        if not panel["description"]:
            wrong.append(f"{where}: says nothing of itself")
    queries += [(f"{path.name}: {one['name']}", one["expr"], "") for one in board["annotations"]["list"]]
    assert not wrong, "\n".join(wrong)
    check_layout(path.name, board["panels"])
    names = {variable["name"] for variable in board["templating"]["list"]}
    for where, query, _ in queries:
        used = set(re.findall(r"\$\{?([a-z]\w*)", query))
        assert used <= names, f"{where} asks for {used - names}"
        assert {"namespace", "job"} <= used, f"{where} is of all installations"
    return queries


def check_layout(name: str, panels: list[dict]) -> None:
    ids = [panel["id"] for panel in panels]
    assert len(set(ids)) == len(ids), f"{name}: ids are not unique"
    taken: dict[tuple[int, int], str] = {}
    for panel in panels:
        at = panel["gridPos"]
        assert at["x"] + at["w"] <= 24, f"{name}: {panel['title']} is beyond the edge"
        for spot in ((x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])):
            assert spot not in taken, f"{name}: {panel['title']} covers {taken.get(spot)}"
            taken[spot] = panel["title"]


def variable_queries(path: Path) -> list[str]:
    found = [
        one["query"]["query"] for one in json.loads(path.read_text())["templating"]["list"] if one["type"] == "query"
    ]
    return [re.fullmatch(r"label_values\((.*), \w+\)", query)[1] for query in found]


def runbooks(path: Path) -> set[str]:
    """The alerts that a dashboard's links lead to."""
    links = [link["url"] for panel in json.loads(path.read_text())["panels"] for link in panel.get("links", [])]
    return {link.partition("#")[2] for link in links}
