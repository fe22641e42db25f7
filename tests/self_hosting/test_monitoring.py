"""Dashboard, alerts and Prometheus' configuration ask for what the service tells."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import promql_parser
import pytest
import yaml
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from api.app import create_app
from api.metrics import METRICS, markdown_table
from tests.conftest import ROOT
from tests.self_hosting.compose import compose
from worker.contract.settings import Settings

SERVICES = compose()["services"]
DASHBOARD = json.loads((ROOT / "docker/grafana/momentum.json").read_text())
PROMETHEUS = yaml.safe_load((ROOT / "docker/prometheus.yml").read_text())
[GROUP] = yaml.safe_load((ROOT / "docker/alerts.yml").read_text())["groups"]
DOCUMENT = (ROOT / "docs/self-hosting.md").read_text()

OF_PROMETHEUS = {"up": {"job", "instance"}, "ALERTS": {"alertstate"}}
"""What Prometheus itself adds."""
OF_A_TARGET = {"job", "instance"}


def queries() -> Iterator[tuple[str, str]]:
    for panel in DASHBOARD["panels"]:
        for number, target in enumerate(panel["targets"]):
            yield f"{panel['title']} {number}", target["expr"]
    for rule in GROUP["rules"]:
        yield rule["alert"], rule["expr"]


QUERIES = dict(queries())


@pytest.fixture(scope="module")
def told(tmp_path_factory) -> dict[str, Metric]:
    """What a service that has just been made tells, by name."""
    application = create_app(Settings(data_dir=tmp_path_factory.mktemp("data")))
    text = application.state.service.metrics.text().decode()
    application.state.service.store.engine.dispose()
    found = text_string_to_metric_families(text)
    return {one.name + "_total" * (one.type == "counter"): one for one in found}


def parts(expression) -> list:
    """All parts of a query."""
    found = []
    promql_parser.walk(expression, found.append)
    return found


def selectors(query: str) -> list:
    return [
        one
        for one in parts(promql_parser.parse(query))
        if isinstance(one, promql_parser.VectorSelector)
    ]


def test_every_metric_is_told_and_shown(told):
    assert {one for one in told if one.startswith("momentum_")} == {one.name for one in METRICS}
    asked = {one for query in QUERIES.values() for one in re.findall(r"momentum_[a-z_]+", query)}
    assert asked == {one.name for one in METRICS}


@pytest.mark.parametrize("name", QUERIES)
def test_a_query_asks_for_what_there_is(told, name):
    labels = {one.name: set(one.labels) | OF_A_TARGET for one in METRICS} | OF_PROMETHEUS
    labels |= {one: OF_A_TARGET for one in told if one.startswith("process_")}
    found = selectors(QUERIES[name])
    assert found
    known = set()
    for selector in found:
        assert selector.name in labels
        known |= labels[selector.name]
        for matcher in selector.matchers.matchers:
            assert matcher.name in labels[selector.name], matcher
            _check_value(told, selector.name, matcher)
    for part in parts(promql_parser.parse(QUERIES[name])):
        if isinstance(part, promql_parser.AggregateExpr) and part.modifier:
            assert set(part.modifier.labels) <= known, part.modifier.labels


def _check_value(told, name, matcher) -> None:
    """A value that nothing ever has would make an alert that never fires."""
    # Where nothing has happened yet there is nothing to compare with; Prometheus' own is its own.
    values = [one.labels.get(matcher.name) for one in told[name].samples] if name in told else []
    if matcher.name in OF_A_TARGET:
        values = [one["job_name"] for one in PROMETHEUS["scrape_configs"]]
    elif matcher.name == "quantile":
        values = ["0.5", "0.95", "1"]
    for wanted in matcher.value.split("|") if values else ():
        assert wanted in values, matcher


def test_prometheus_asks_the_api_with_the_secret_that_was_made_for_it():
    service = SERVICES["prometheus"]
    mounted = {line.split(":")[1]: line.split(":")[0] for line in service["volumes"]}
    [asked] = PROMETHEUS["scrape_configs"]
    secret = Path(asked["authorization"]["credentials_file"])
    assert mounted[str(secret.parent)] == "prometheus-secrets"
    assert f"/{secret.name}" in (ROOT / "docker/make_secrets.py").read_text()
    [[target]] = [one["targets"] for one in asked["static_configs"]]
    name, _, port = target.partition(":")
    command = SERVICES[name]["command"]
    assert command[command.index("--port") + 1] == port
    assert set(SERVICES[name]["networks"]) & set(service["networks"])
    # What the command and the configuration name is mounted there.
    [configuration] = [one.partition("=")[2] for one in service["command"] if "config" in one]
    assert mounted[configuration] == "./docker/prometheus.yml"
    for name in PROMETHEUS["rule_files"]:
        assert mounted[str(Path(configuration).with_name(name))] == f"./docker/{name}"
    [place] = [one.partition("=")[2] for one in service["command"] if "tsdb.path" in one]
    assert mounted[place] == "prometheus"


def test_grafana_shows_the_dashboard_with_what_prometheus_keeps():
    service = SERVICES["grafana"]
    mounted = {line.split(":")[1]: line.split(":")[0] for line in service["volumes"]}
    folder = "/etc/grafana/provisioning"
    sources, shown = (
        yaml.safe_load((ROOT / mounted[f"{folder}/{name}/momentum.yml"]).read_text())
        for name in ("datasources", "dashboards")
    )
    [source], [provider] = sources["datasources"], shown["providers"]
    assert source["url"] == "http://prometheus:9090"
    assert set(SERVICES["prometheus"]["networks"]) & set(service["networks"])
    home = service["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert str(Path(home).parent) == provider["options"]["path"]
    assert mounted[home] == "./docker/grafana/momentum.json"
    secret = service["environment"]["GF_SECURITY_ADMIN_PASSWORD__FILE"]
    assert mounted[str(Path(secret).parent)] == "grafana-secrets"
    used = re.findall(r'"type": "prometheus", "uid": "([^"]+)"', json.dumps(DASHBOARD))
    assert set(used) == {source["uid"]}


def test_panels_lie_side_by_side_and_say_what_they_show():
    places = set()
    for panel in DASHBOARD["panels"]:
        at = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(at["x"], at["x"] + at["w"])
            for y in range(at["y"], at["y"] + at["h"])
        }
        assert max(x for x, _ in cells) < 24
        assert not places & cells, panel["title"]
        places |= cells
        assert panel["description"]
        assert len({one["refId"] for one in panel["targets"]}) == len(panel["targets"])
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])


def test_the_document_lists_every_metric_and_every_alert():
    start = DOCUMENT.index("| metric |")
    assert DOCUMENT[start:].partition("\n\n")[0] == markdown_table()
    for rule in GROUP["rules"]:
        assert f"`{rule['alert']}`" in DOCUMENT
        assert {"summary", "remedy"} <= rule["annotations"].keys()
        assert rule["labels"]["severity"] in ("warning", "critical")
