"""What Grafana's dashboards are made of, with the choices that all of ours share. See generate.py."""

BASE = "https://docs.example.org/dayfly/guides/alerts/"
SOURCE = {"type": "prometheus", "uid": "${datasource}"}
# What every query asks for: the installations and replicas that were chosen above.
HERE = 'namespace=~"$namespace", job=~"$job", instance=~"$instance"'
# Of recorded rules, which are by installation.
INSTALLATION = 'namespace=~"$namespace", job=~"$job"'

GREEN, YELLOW, RED, BLUE = "green", "yellow", "red", "blue"


def of(metric: str, *matchers: str) -> str:
    return f"{metric}{{{', '.join([*matchers, HERE])}}}"


def rate(metric: str, *matchers: str, by: str = "", window: str = "$__rate_interval") -> str:
    """A second, of all replicas together."""
    grouped = f" by ({by})" if by else ""
    return f"sum{grouped} (rate({of(metric, *matchers)}[{window}]))"


def increase(metric: str, *matchers: str, by: str) -> str:
    return f"sum by ({by}) (increase({of(metric, *matchers)}[$__rate_interval]))"


def quantile(share: float, metric: str, *matchers: str, by: str = "", window: str = "$__rate_interval") -> str:
    grouping = ", ".join(filter(None, ["le", by]))
    return f"histogram_quantile({share}, {rate(metric + '_bucket', *matchers, by=grouping, window=window)})"


def quantiles(metric: str, *matchers: str) -> list[tuple[str, str]]:
    return [(quantile(share, metric, *matchers), name) for share, name in ((0.99, "p99"), (0.9, "p90"), (0.5, "p50"))]


def steps(*at: tuple[float, str], first: str = GREEN) -> dict:
    return {
        "mode": "absolute",
        "steps": [{"value": None, "color": first}, *({"value": value, "color": color} for value, color in at)],
    }


def words(**of_value: tuple[str, str]) -> list[dict]:
    """What is shown instead of a number: `_0=("whole", GREEN)`."""
    shown = {
        key.removeprefix("_"): {"text": text, "color": color, "index": index}
        for index, (key, (text, color)) in enumerate(of_value.items())
    }
    return [{"type": "value", "options": shown}]


def link(title: str, url: str) -> dict:
    return {
        "title": title,
        "type": "link",
        "icon": "doc",
        "tooltip": "",
        "url": url,
        "tags": [],
        "asDropdown": False,
        "targetBlank": True,
        "includeVars": False,
        "keepTime": False,
    }


class Dashboard:
    """One dashboard. Rows and panels are placed in the order in which they are added, from left to right."""

    def __init__(self, name: str, title: str, description: str) -> None:
        self.name, self.title, self.description = name, title, description
        self.panels: list[dict] = []
        self.variables = [
            {"type": "datasource", "name": "datasource", "label": "Data source", "query": "prometheus", "refresh": 1},
            variable("namespace", "Namespace", "label_values(dayfly_build_info, namespace)", all_value=".*"),
            variable("job", "Job", 'label_values(dayfly_build_info{namespace=~"$namespace"}, job)'),
            variable(
                "instance",
                "Replica",
                'label_values(dayfly_build_info{namespace=~"$namespace", job=~"$job"}, instance)',
                all_value=".*",
            ),
        ]
        self.annotations: list[dict] = []
        self._x = self._y = self._height = 0

    def _place(self, width: int, height: int) -> dict:
        if self._x + width > 24:
            self._x, self._y, self._height = 0, self._y + self._height, 0
        place = {"x": self._x, "y": self._y, "w": width, "h": height}
        self._x, self._height = self._x + width, max(self._height, height)
        return place

    def row(self, title: str) -> None:
        self._x = 24
        place = self._place(24, 1)
        self.panels.append(
            {"id": self._id(), "type": "row", "title": title, "collapsed": False, "gridPos": place, "panels": []}
        )

    def _id(self) -> int:
        return len(self.panels) + 1

    def _panel(
        self, kind: str, title: str, says: str, queries, place: tuple[int, int], field: dict, options: dict, alert: str
    ):
        self.panels.append(
            {
                "id": self._id(),
                "type": kind,
                "title": title,
                "description": says,
                "datasource": SOURCE,
                "gridPos": self._place(*place),
                "links": [link("What to do", f"{BASE}#{alert.lower()}")] if alert else [],
                "targets": [
                    {
                        "refId": chr(ord("A") + index),
                        "datasource": SOURCE,
                        "expr": expr,
                        "legendFormat": legend,
                        "editorMode": "code",
                        "range": True,
                        "instant": False,
                        **({"format": "heatmap"} if kind == "heatmap" else {}),
                    }
                    for index, (expr, legend) in enumerate(queries)
                ],
                "fieldConfig": {"defaults": field, "overrides": []},
                "options": options,
            }
        )

    def stat(
        self, title: str, says: str, expr: str, *, unit="none", at=None, mapped=None, alert="", none="0", decimals=None
    ):
        field = {"unit": unit, "noValue": none, "thresholds": at or steps(), "color": {"mode": "thresholds"}}
        if decimals is not None:
            field["decimals"] = decimals
        if mapped:
            field["mappings"] = mapped
        options = {
            "graphMode": "none" if mapped else "area",
            "colorMode": "background",
            "justifyMode": "auto",
            "textMode": "value",
            "wideLayout": True,
            "showPercentChange": False,
            "percentChangeColorMode": "inverted",
            "orientation": "auto",
            "reduceOptions": {"values": False, "calcs": ["lastNotNull"], "fields": ""},
        }
        self._panel("stat", title, says, [(expr, "")], (3, 4), field, options, alert)

    def graph(self, title: str, says: str, queries, *, unit="none", at=None, stack=False, width=8, alert="", most=None):
        custom = {
            "drawStyle": "line",
            "lineWidth": 1,
            "fillOpacity": 25 if stack else 8,
            "showPoints": "never",
            "lineInterpolation": "linear",
            "spanNulls": False,
            "axisPlacement": "auto",
            "axisSoftMin": 0,
            "stacking": {"mode": "normal" if stack else "none", "group": "A"},
            "thresholdsStyle": {"mode": "dashed" if at else "off"},
        }
        field = {
            "unit": unit,
            "min": 0,
            "custom": custom,
            "thresholds": at or steps(),
            "color": {"mode": "palette-classic"},
        }
        if most is not None:
            field["max"] = most
        options = {
            "legend": {
                "displayMode": "table",
                "placement": "bottom",
                "showLegend": True,
                "calcs": ["lastNotNull", "max"],
            },
            "tooltip": {"mode": "multi", "sort": "desc"},
        }
        self._panel("timeseries", title, says, queries, (width, 8), field, options, alert)

    def states(self, title: str, says: str, queries, mapped, *, width=8, alert=""):
        field = {
            "unit": "none",
            "mappings": mapped,
            "thresholds": steps((1, RED)),
            "color": {"mode": "thresholds"},
            "custom": {"lineWidth": 0, "fillOpacity": 80},
        }
        options = {
            "showValue": "never",
            "rowHeight": 0.8,
            "mergeValues": True,
            "alignValue": "left",
            "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True, "calcs": []},
            "tooltip": {"mode": "single", "sort": "none"},
        }
        self._panel("state-timeline", title, says, queries, (width, 8), field, options, alert)

    def heat(self, title: str, says: str, expr: str, *, width=8, alert=""):
        options = {
            "calculate": False,
            "showValue": "never",
            "cellGap": 1,
            "selectionMode": "x",
            "color": {
                "mode": "scheme",
                "scheme": "Oranges",
                "fill": "dark-orange",
                "exponent": 0.5,
                "steps": 64,
                "reverse": False,
            },
            "yAxis": {"axisPlacement": "left", "unit": "s", "reverse": False},
            "legend": {"show": False},
            "exemplars": {"color": "rgba(255,0,255,0.7)"},
            "tooltip": {"mode": "single", "yHistogram": False},
            "filterValues": {"le": 1e-9},
        }
        self._panel("heatmap", title, says, [(expr, "{{le}}")], (width, 8), {"unit": "short"}, options, alert)

    def annotate(self, name: str, expr: str, color: str) -> None:
        self.annotations.append(
            {"name": name, "datasource": SOURCE, "enable": True, "hide": False, "iconColor": color, "expr": expr}
        )

    def json(self) -> dict:
        others = {**link("Dayfly", ""), "type": "dashboards", "icon": "external link", "tags": ["dayfly"]}
        others |= {"targetBlank": False, "includeVars": True, "keepTime": True, "asDropdown": False}
        return {
            "uid": f"dayfly-{self.name}",
            "title": f"Dayfly: {self.title}",
            "description": self.description,
            "tags": ["dayfly"],
            "timezone": "browser",
            "editable": True,
            "graphTooltip": 1,
            "time": {"from": "now-6h", "to": "now"},
            "refresh": "30s",
            "schemaVersion": 41,
            "links": [others, link("Alerts and what to do", BASE)],
            "templating": {"list": self.variables},
            "annotations": {"list": self.annotations},
            "panels": self.panels,
        }


def variable(name: str, label: str, query: str, all_value: str = "") -> dict:
    chosen = {"selected": True, "text": ["All"], "value": ["$__all"]}
    more = {"allValue": all_value} if all_value else {}
    return {
        "type": "query",
        "name": name,
        "label": label,
        "datasource": SOURCE,
        "current": chosen,
        "query": {"query": query, "refId": name},
        "refresh": 2,
        "sort": 1,
        "multi": True,
        "includeAll": True,
        **more,
    }
