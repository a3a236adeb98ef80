"""The dashboard and the alert rules against the metrics that a real daemon exports."""

from __future__ import annotations

import json
import pathlib
import re
import subprocess
import tempfile
import urllib.request
from collections.abc import Iterator
from typing import Any

import cli_processes as processes
import pytest
import torch  # noqa: F401  (the jobs need it)
from live_machine import Machine

pytestmark = [pytest.mark.integration, pytest.mark.one_torch]

ROOT = pathlib.Path(__file__).resolve().parents[2]
DASHBOARD = ROOT / "deploy" / "grafana" / "torchtide.json"
ALERTS = ROOT / "deploy" / "prometheus" / "alerts.yml"
TIDED = ROOT / "python" / "torchtide" / "bin" / "tided"
SECRET = "a secret of enough bytes"


@pytest.fixture(scope="module")
def metrics() -> Iterator[str]:
    """What a coordinator exports while two jobs of one name train."""
    with tempfile.TemporaryDirectory(prefix="tide-metrics-") as path:
        machine = Machine(pathlib.Path(path), TIDE_CAPACITY="4GiB", TIDE_SPILL_DIR=path)
        run = pathlib.Path(path) / "run"
        run.mkdir(mode=0o700)
        (run / "secret").touch(mode=0o600)
        (run / "secret").write_text(SECRET, encoding="ascii")
        words = ["--runtime-dir", str(run), "--http", "127.0.0.1:0"]
        words += ["--listen", "tcp://127.0.0.1:0", "--secret-file", str(run / "secret")]
        subprocess.run([TIDED, *words], check=True, timeout=60)
        try:
            machine.start("--", "python", "train.py")
            machine.until(lambda job: int(job["iterations"]) > 3)
            machine.start("--", "python", "train.py")
            machine.until(lambda job: int(job["iterations"]) > 3, "train-2")
            base = "http://" + (run / "http").read_text(encoding="ascii").strip()
            with urllib.request.urlopen(base + "/metrics", timeout=60) as answer:
                yield answer.read().decode()
        finally:
            machine.close()
            processes.tide(["shutdown"], machine.environ, machine.folder)


def samples(text: str) -> dict[str, set[frozenset[str]]]:
    """Names of the metrics with the sets of labels that they have."""
    found: dict[str, set[frozenset[str]]] = {}
    for line in text.splitlines():
        if line and not line.startswith("#"):
            name = re.match(r"\w+", line)
            assert name is not None
            labels = frozenset(re.findall(r'[{,](\w+)="', line.rpartition(" ")[0]))
            found.setdefault(name[0], set()).add(labels)
    return found


def expressions() -> list[str]:
    """Every question that the dashboard and the rules ask."""
    yaml = pytest.importorskip("yaml")
    dashboard = json.loads(DASHBOARD.read_text(encoding="utf-8"))
    asked = [t["expr"] for panel in dashboard["panels"] for t in panel["targets"]]
    variables = dashboard["templating"]["list"]
    asked += [v["query"]["query"] for v in variables if isinstance(v["query"], dict)]
    for group in yaml.safe_load(ALERTS.read_text(encoding="utf-8"))["groups"]:
        asked += [rule["expr"] for rule in group["rules"]]
    return asked


def test_a_real_parser_reads_the_metrics(metrics: str) -> None:
    parser = pytest.importorskip("prometheus_client.openmetrics.parser")
    families: list[Any] = list(parser.text_string_to_metric_families(metrics))
    assert len(families) > 15
    iterations = next(f for f in families if f.name == "torchtide_job_iterations")
    assert {s.labels["job"] for s in iterations.samples} == {"train", "train-2"}
    for family in families:
        seen = [(s.name, tuple(sorted(s.labels.items()))) for s in family.samples]
        assert len(seen) == len(set(seen)), f"{family.name} has a series twice"


def test_each_question_is_about_metrics_and_labels_that_there_are(metrics: str) -> None:
    there = samples(metrics)
    questions = expressions()
    assert len(questions) > 12
    for question in questions:
        names = re.findall(r"\btorchtide_\w+", question)
        assert names, question
        for name in names:
            assert name in there, f"{name} of {question} is not exported"
        for name, within in re.findall(r"(torchtide_\w+)\{([^}]*)\}", question):
            labels = set(re.findall(r"(\w+)\s*=", within)) - {"instance"}
            assert any(labels <= have for have in there[name]), question
    asked = {name for question in questions for name in re.findall(r"\btorchtide_\w+", question)}
    assert len(asked) > 12


def test_a_real_parser_reads_the_questions() -> None:
    promql = pytest.importorskip("promql_parser")
    for question in expressions():
        if not question.startswith("label_values"):
            promql.parse(question.replace("$__rate_interval", "1m"))


def test_each_rule_says_what_to_do_in_commands_that_exist() -> None:
    yaml = pytest.importorskip("yaml")
    from torchtide.cli.examples import LINES

    rules = yaml.safe_load(ALERTS.read_text(encoding="utf-8"))["groups"][0]["rules"]
    assert len({rule["alert"] for rule in rules}) == 3
    for rule in rules:
        assert re.fullmatch(r"\d+m", rule["for"]) and rule["annotations"]["summary"]
        commands = re.findall(r"`tide (\w+)", rule["annotations"]["description"])
        assert commands and set(commands) <= set(LINES), rule["alert"]


def test_the_panels_stand_beside_each_other() -> None:
    panels = json.loads(DASHBOARD.read_text(encoding="utf-8"))["panels"]
    taken = set()
    for panel in panels:
        at = panel["gridPos"]
        assert at["x"] + at["w"] <= 24 and panel["title"]
        cells = {(at["x"] + i, at["y"] + j) for i in range(at["w"]) for j in range(at["h"])}
        assert not cells & taken, panel["title"]
        taken |= cells
    assert len({panel["id"] for panel in panels}) == len(panels)
