"""The metrics that there are, by docs/reference/metrics.md, which a test of the broker holds to the code; and which
metrics and labels an expression of PromQL asks for.
"""

import re
from dataclasses import dataclass
from pathlib import Path

# What Prometheus itself adds to everything that it scrapes, or that a cluster's Prometheus does.
TARGET = {"job", "instance", "namespace", "pod", "__name__"}
# Metrics of Prometheus itself, with their labels beside those of the target.
FOREIGN = {"up": set(), "ALERTS": {"alertname", "alertstate", "severity", "provider", "stream"}}
PARTS = {"_bucket": {"le"}, "_sum": set(), "_count": set()}

WORDS = set(
    """and or unless by without on ignoring group_left group_right offset bool inf nan
    sum min max avg count topk bottomk quantile group
    abs absent absent_over_time avg_over_time changes clamp_max clamp_min count_over_time delta deriv floor
    histogram_quantile increase irate label_replace last_over_time max_over_time min_over_time rate resets round
    scalar sort sort_desc sum_over_time time timestamp vector""".split()
)


@dataclass(frozen=True)
class Metric:
    kind: str
    labels: frozenset[str]


def reference(page: Path) -> dict[str, Metric]:
    """The table of metrics."""
    found = {}
    for line in page.read_text().splitlines():
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        if len(cells) != 4 or not re.fullmatch(r"`[a-z][a-z_]*`", cells[0]):
            continue
        labels = frozenset(re.findall(r"`([a-z_]+)`", cells[2]))
        if cells[1] in ("counter", "gauge", "histogram"):
            found[cells[0].strip("`")] = Metric(cells[1], labels)
    assert len(found) >= 20, f"the table of {page} cannot be read"
    return found


def scraped(text: str) -> dict[str, Metric]:
    """The metrics of an answer in the text format."""
    kinds = dict(re.findall(r"(?m)^# TYPE (\S+) (\S+)$", text))
    found: dict[str, set[str]] = {name: set() for name in kinds}
    for name, labels in re.findall(r"(?m)^([a-z_]+)(?:\{(.*)\})? \S+$", text):
        family = name if name in kinds else re.sub(r"_(bucket|sum|count)$", "", name)
        found[family] |= set(re.findall(r'([a-z_]+)="', labels)) - {"le"}
    return {name: Metric(kinds[name], frozenset(labels)) for name, labels in found.items()}


def used(expression: str, known: dict[str, Metric], recorded: dict[str, set[str]]) -> tuple[set[str], set[str]]:
    """The metrics that an expression asks for, and the labels that are left at most. Fails on what is unknown."""
    bare = re.sub(r'"(?:[^"\\]|\\.)*"', '""', expression)
    names: set[str] = set()
    labels: set[str] = set()

    def of(name: str) -> set[str]:
        for suffix, more in PARTS.items():
            family = known.get(name.removesuffix(suffix)) if name.endswith(suffix) else None
            if family and family.kind == "histogram":
                names.add(name.removesuffix(suffix))
                return set(family.labels) | more
        if name in known:
            assert known[name].kind != "histogram", f"{name} is a histogram: ask for its buckets, sum or count"
            names.add(name)
            return set(known[name].labels)
        if name in recorded:
            return recorded[name]
        assert name in FOREIGN, f"there is no metric {name}: {expression}"
        return FOREIGN[name]

    # Selectors first: what is left is functions, operators, groupings and times.
    def selector(match: re.Match) -> str:
        name, matchers = match.group(1), match.group(2) or ""
        if name in WORDS and not matchers:
            return match.group(0)
        has = of(name)
        labels.update(has)
        for label in re.findall(r"([a-z_]+)\s*(?:=~|!~|!=|=)", matchers):
            assert label in has | TARGET, f"{name} has no label {label}: {expression}"
        return " "

    groupings: list[str] = []

    def grouping(match: re.Match) -> str:
        groupings.extend(label.strip() for label in match.group(1).split(",") if label.strip())
        return " "

    rest = re.sub(r"\b(?:by|without|on|ignoring|group_left|group_right)\s*\(([^)]*)\)", grouping, bare)
    rest = re.sub(r"\[[^\]]*\]", " ", rest)
    rest = re.sub(r"\b(?:offset\s+)?\d+(?:\.\d+)?(?:ms|[smhdwy])\b", " ", rest)
    rest = re.sub(r"(?<![\w:$])([a-zA-Z_][\w:]*)(\s*\{[^}]*\})?", selector, rest)
    for label in groupings:
        assert label in labels | TARGET, f"nothing has a label {label}: {expression}"
    kept = re.findall(r"\bby\s*\(([^)]*)\)", bare)
    left = {label.strip() for group in kept for label in group.split(",")}
    return names, left if kept else labels | TARGET
