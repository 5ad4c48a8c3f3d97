"""The Grafana dashboard asks for the metrics that there are, by the labels that they have."""

import json
import re
from pathlib import Path

from ray.util.metrics import Counter, Gauge, Histogram

from serve import telemetry

DASHBOARD = Path(telemetry.__file__).with_name("dashboard.json")
SUFFIXES = {Gauge: ("",), Counter: ("_total",), Histogram: ("_bucket", "_sum", "_count")}
OF_RAY = {"ray_serve_deployment_replica_healthy": {"deployment"}}
NAME = re.compile(r"\bray_\w+")
CALL = re.compile(r"(ray_\w+)(?:\{([^}]*)\})?")  # a metric, and its selector
BY = re.compile(r"by \(([^)]*)\)")


def exported():
    """Each name that Prometheus sees: its metric, and its labels."""
    owners = telemetry.StudentMetrics("any"), telemetry.RankerMetrics(), telemetry.IngressMetrics()
    metrics = [each for owner in owners for each in vars(owner).values()]
    names = {}
    for metric in metrics:
        for suffix in SUFFIXES[type(metric)]:
            labels = set(metric.info["tag_keys"]) | ({"le"} if suffix == "_bucket" else set())
            names[f"ray_{metric.info['name']}{suffix}"] = (metric.info["name"], labels)
    return names


def expressions():
    panels = json.loads(DASHBOARD.read_text())["panels"]
    return [target["expr"] for panel in panels for target in panel.get("targets", ())]


def test_every_metric_of_the_dashboard_exists_and_every_metric_is_on_it():
    names = exported()
    asked = {name for expression in expressions() for name in NAME.findall(expression)}
    assert asked - set(OF_RAY) <= set(names)
    assert {names[name][0] for name in asked - set(OF_RAY)} == {metric for metric, _ in names.values()}
    assert set(OF_RAY) <= asked


def test_the_dashboard_groups_and_selects_by_labels_that_the_metrics_have():
    names = exported()
    for expression in expressions():
        calls = CALL.findall(expression)
        assert calls
        for name, selector in calls:
            labels = OF_RAY.get(name) or names[name][1]
            asked = set(re.findall(r"(\w+)\s*=", selector))
            asked |= {label.strip() for group in BY.findall(expression) for label in group.split(",")}
            assert asked <= labels, expression


def test_counters_are_shown_as_rates_and_panels_do_not_overlap():
    for expression in expressions():
        assert expression.count("(") == expression.count(")")
        for name in re.findall(r"ray_sluice_\w+(?:_total|_bucket|_sum|_count)\b", expression):
            assert f"rate({name}" in expression
    taken = set()
    dashboard = json.loads(DASHBOARD.read_text())
    for panel in dashboard["panels"]:
        place = panel["gridPos"]
        cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert not cells & taken
        assert place["x"] + place["w"] <= 24
        taken |= cells
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])
