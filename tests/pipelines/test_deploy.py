"""The example manifests say what the binary understands and what its endpoint answers."""

from __future__ import annotations

import json
import re
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml

from conftest import BINARY, REPOSITORY, Up, eventually, free_port
from test_queues import place, process

pytestmark = pytest.mark.once

MANIFESTS = sorted((REPOSITORY / "deploy").rglob("*.yaml"))


def objects() -> list[dict[str, Any]]:
    """All Kubernetes objects of all files."""
    return [one for file in MANIFESTS for one in yaml.safe_load_all(file.read_text())]


def of_kind(*kinds: str) -> list[dict[str, Any]]:
    return [one for one in objects() if one["kind"] in kinds]


def pods() -> Iterator[dict[str, Any]]:
    for workload in of_kind("Deployment", "StatefulSet"):
        yield workload["spec"]["template"]


def seconds(span: str) -> int:
    number, unit = re.fullmatch(r"(\d+)(s|m)", span).groups()  # type: ignore[union-attr]
    return int(number) * {"s": 1, "m": 60}[unit]


def test_every_object_is_one() -> None:
    assert len(MANIFESTS) >= 5
    names = [(one["apiVersion"], one["kind"], one["metadata"]["name"]) for one in objects()]
    assert len(names) == len(set(names)) >= 10


def test_selectors_find_their_pods() -> None:
    labels = [pod["metadata"]["labels"] for pod in pods()]
    for workload in of_kind("Deployment", "StatefulSet", "PodDisruptionBudget", "NetworkPolicy"):
        spec = workload["spec"]
        wanted = spec.get("selector", spec.get("podSelector"))["matchLabels"]
        assert any(wanted.items() <= one.items() for one in labels), workload["metadata"]["name"]
    workloads = {one["metadata"]["name"] for one in of_kind("Deployment", "StatefulSet")}
    for scaler in of_kind("ScaledObject", "HorizontalPodAutoscaler"):
        assert scaler["spec"]["scaleTargetRef"]["name"] in workloads


def test_commands_are_understood_and_have_time_to_end(up: Up) -> None:
    for pod in pods():
        (container,) = pod["spec"]["containers"]
        program, command = container["command"]
        assert program == BINARY.name
        known = up.command(command, "--help").out
        for argument in container["args"]:
            flag = argument.split("=")[0]
            assert re.search(rf"^\s+{flag}\b", known, re.MULTILINE), f"{command} {flag}"
        grace = next(a for a in container["args"] if a.startswith("--grace="))
        spared = pod["spec"]["terminationGracePeriodSeconds"] - seconds(grace.split("=")[1])
        # A cancelled stage has ten seconds to end, its last report ten more.
        assert spared >= 20, container["args"]


def fetch(address: str, path: str) -> Any:
    with urllib.request.urlopen(f"http://{address}{path}", timeout=10) as answer:
        return json.load(answer)


@pytest.fixture
def watched(launch: Callable[..., Up], mode: str) -> Iterator[str]:
    """Where the figures of an engine are served: by `tidemill up` or by `tidemill queues`."""
    address = f"127.0.0.1:{free_port()}"

    def answers() -> bool:
        try:
            return "accelerator" in fetch(address, "/v1/queues")["queues"]
        except OSError:
            return False

    offers = ["--offer", "cpu=1", "--offer", "accelerator=1"]
    if mode == "together":
        launch("--metrics-listen", address, *offers)
        eventually(answers)
        yield address
        return
    up = launch(*offers)
    with process(up, "queues", *place(up), "--listen", address):
        eventually(answers)
        yield address


def test_scalers_read_numbers_that_are_there(watched: str) -> None:
    triggers = [t for one in of_kind("ScaledObject") for t in one["spec"]["triggers"]]
    assert len(triggers) >= 3
    (service,) = of_kind("Service")
    ports = {port["port"] for port in service["spec"]["ports"]}
    for trigger in triggers:
        assert trigger["type"] == "metrics-api"
        url = urlsplit(trigger["metadata"]["url"])
        assert (url.hostname, url.port in ports) == (service["metadata"]["name"], True)
        value = fetch(watched, url.path)
        for name in trigger["metadata"]["valueLocation"].split("."):
            value = value[name]
        assert isinstance(value, int | float) and not isinstance(value, bool)
        float(trigger["metadata"]["targetValue"])
    # Also of a class that nobody has heard of: it may be at zero replicas.
    unknown = fetch(watched, "/v1/queues/nobody")
    assert (unknown["backlog"], unknown["wait_seconds"], unknown["workers"]) == (0, 0.0, 0)


def test_the_metric_of_the_hpa_is_exposed(watched: str, mode: str) -> None:
    with urllib.request.urlopen(f"http://{watched}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    (scaler,) = of_kind("HorizontalPodAutoscaler")
    for metric in scaler["spec"]["metrics"]:
        wanted = metric["external"]["metric"]
        labels = ",".join(f'{k}="{v}"' for k, v in wanted["selector"]["matchLabels"].items())
        assert f"{wanted['name']}{{{labels}}}" in text
    if mode == "together":
        assert "service_requests_total" in text and "tidemill_slots{" in text
    # One exposition, however many it was put together from.
    assert text.endswith("# EOF\n") and text.count("# EOF") == 1
