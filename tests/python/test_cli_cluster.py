"""`tide submit`, `cluster`, `preview` and `reserve` against a daemon in this process."""

from __future__ import annotations

import json
import os
import pathlib
import sys
from typing import Any

import pytest
from cli_fake_daemon import FakeDaemon, error
from torchtide.cli import cluster, main
from torchtide.cli.edges import Edges

Said = pytest.CaptureFixture[str]


class FakeCluster(FakeDaemon):
    """Grants a job after it was asked about `waits` times."""

    def __init__(self, waits: int = 0) -> None:
        super().__init__()
        self.waits = waits
        self.asked: list[tuple[str, dict[str, Any]]] = []

    def _submit(self, body: dict[str, Any]) -> dict[str, Any]:
        self.asked.append(("Submit", body))
        if body["devices"] > 64:
            return error("invalid", "too many devices")
        text = f"{body['key']} would start in 5 s" if body.get("preview") else f"{body['key']}: new"
        return {"ok": True, "data": {"key": body["key"], "text": text}}

    def _finish(self, body: dict[str, Any]) -> dict[str, Any]:
        self.asked.append(("Finish", body))
        return {"ok": True, "data": {"key": body["key"]}}

    def _reserve(self, body: dict[str, Any]) -> dict[str, Any]:
        self.asked.append(("Reserve", body))
        return {"ok": True, "data": {"text": "4 devices are reserved"}}

    def _query(self, body: dict[str, Any]) -> dict[str, Any]:
        if body["what"] == "explain":  # of a job of this machine that was called so
            return {"ok": True, "data": {"state": "gone", "text": "ended with exit code 0"}}
        if body["what"] == "preview":
            return {"ok": True, "data": {"text": "train would start in 5 s"}}
        if body["what"] == "placement":
            self.waits -= 1
            if self.waits >= 0:
                return {"ok": True, "data": {"state": "waiting", "text": "train: 2 of 4 are free"}}
            data = {"state": "running", "devices": 3, "nodes": {"m1": 2, "m2": 1}}
            return {"ok": True, "data": data}
        if body["what"] == "trace":
            first = body["since"] == 0
            csv = "job_id,submit_s,gpus,duration_s\na,0,1,5\n" if first else "b,1,2,7\n"
            return {"ok": True, "data": {"csv": csv, "jobs": 1, "next": 2 if first else -1}}
        if body["what"] == "cluster" and "cluster" not in self.answers:
            return {"ok": True, "data": {"devices": 8}}
        return super()._query(body)


def test_submit_waits_runs_with_its_nodes_and_gives_back(
    capsys: Said, tmp_path: pathlib.Path
) -> None:
    fake = FakeCluster(waits=3)
    out = tmp_path / "out"
    script = (
        "import os; open(os.environ['OUT'], 'w').write("
        "os.environ['TIDE_NODES'] + ' ' + os.environ['TIDE_JOB_NAME']); raise SystemExit(7)"
    )
    edges = Edges(connect=fake.connect, environ={**os.environ, "OUT": str(out)})
    waited: list[float] = []
    request = cluster.Request("train", devices=3, user="ann", estimate_s=60)
    code = cluster.submit(edges, request, [sys.executable, "-c", script], waited.append)
    assert code == 7
    assert out.read_text(encoding="utf-8") == "m1:2,m2:1 train"
    assert len(waited) == 3
    assert [kind for kind, _ in fake.asked] == ["Submit", "Finish"]
    assert fake.asked[0][1]["user"] == "ann" and fake.asked[0][1]["estimate_s"] == 60.0
    assert fake.asked[1][1] == {"key": "train", "exit_code": 7}
    said = capsys.readouterr().out
    assert said.count("train: 2 of 4 are free") == 1, "the same reason is said once"
    assert said.count("train would start in 5 s") == 1
    assert "train runs on m1:2,m2:1" in said


def test_an_interrupted_wait_withdraws_the_job() -> None:
    fake = FakeCluster(waits=100)

    def interrupt(_: float) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cluster.submit(
            Edges(connect=fake.connect), cluster.Request("train", 1), ["true"], interrupt
        )
    assert fake.asked[-1] == ("Finish", {"key": "train", "exit_code": 130})


def test_a_command_that_cannot_start_gives_its_devices_back(capsys: Said) -> None:
    fake = FakeCluster()
    words = ["submit", "--name", "x", "--devices", "3", "--", "/nonexistent/program"]
    assert main(words, Edges(connect=fake.connect)) == 2
    assert fake.asked[-1] == ("Finish", {"key": "x", "exit_code": 1})
    assert "cannot be started" in capsys.readouterr().err


def test_preview_and_reserve_say_the_daemons_sentence(capsys: Said) -> None:
    fake = FakeCluster()
    edges = Edges(connect=fake.connect)
    assert main(["preview", "next", "--devices", "4"], edges) == 0
    assert fake.asked[-1][1]["preview"] is True
    assert "next would start in 5 s" in capsys.readouterr().out
    words = ["reserve", "exam", "--devices", "4", "--user", "ann", "--in", "60", "--for", "10"]
    assert main(words, edges) == 0
    assert fake.asked[-1][1] == {
        "name": "exam",
        "user": "ann",
        "devices": 4,
        "from_s": 60.0,
        "for_s": 10.0,
    }
    assert main(["preview", "huge", "--devices", "100", "--json"], edges) != 0


def test_cluster_shows_nodes_and_why_jobs_wait(capsys: Said) -> None:
    fake = FakeCluster()
    fake.answers["cluster"] = {"ok": True, "data": {"serving": False}}
    edges = Edges(connect=fake.connect)
    assert main(["cluster"], edges) == 0
    assert "serves no cluster" in capsys.readouterr().out
    job = {"key": "train", "user": "ann", "state": "held", "text": "its quota is full"}
    fake.answers["cluster"]["data"] = {
        "serving": True,
        "policy": "srtf",
        "devices": 4,
        "devices_free": 1,
        "jobs_open": 1,
        "jobs_running": 0,
        "nodes": [{"name": "m1", "devices": 4, "used": 3, "works": True}],
        "jobs": [job],
    }
    assert main(["cluster"], edges) == 0
    said = capsys.readouterr().out
    assert "srtf: 3 of 4 devices held" in said and "m1" in said
    assert "train (ann), held: its quota is full" in said
    assert main(["cluster", "--json"], edges) == 0
    assert json.loads(capsys.readouterr().out)["jobs"] == [job]


def test_what_is_known_of_a_job_goes_with_its_submission(tmp_path: pathlib.Path) -> None:
    fake = FakeCluster()
    known = "busy=0.6 memory=6GiB scratch=512MiB speed=1,1.9 stages=0.1,0.2,0.3,0"
    words = ["submit", "--name", "train", "--profile", known, "--", sys.executable, "-c", ""]
    edges = Edges(connect=fake.connect, environ={**os.environ})
    assert main(words, edges) == 0
    assert fake.asked[0][1]["profile"] == {
        "busy": 0.6,
        "memory_gib": 6.0,
        "scratch_gib": 0.5,
        "speed": [1.0, 1.9],
        "stage_s": [0.1, 0.2, 0.3, 0.0],
    }


@pytest.mark.parametrize(
    ("known", "why"),
    [
        ("fast=1", "fast is not one of busy, memory, scratch, speed, stages"),
        ("busy=0", "above 0 and at most 1"),
        ("speed=1,x", "no numbers from 0"),
        ("speed=1,nan", "no numbers from 0"),
        ("stages=1,1,1,1,1", "at most 4 stages"),
        ("memory=much", "memory=much"),
    ],
)
def test_a_profile_that_cannot_be_is_refused_before_anybody_is_asked(
    known: str, why: str, capsys: Said
) -> None:
    fake = FakeCluster()
    words = ["submit", "--name", "train", "--profile", known, "--", sys.executable, "-c", ""]
    assert main(words, Edges(connect=fake.connect, environ={**os.environ})) == 2
    assert why in capsys.readouterr().err
    assert fake.asked == []


def test_what_a_cluster_has_run_is_a_trace_for_the_simulator(
    tmp_path: pathlib.Path, capsys: Said
) -> None:
    edges = Edges(connect=FakeCluster().connect, environ={**os.environ})
    file = tmp_path / "ran.csv"
    assert main(["cluster", "--trace", str(file)], edges) == 0
    assert file.read_text() == "job_id,submit_s,gpus,duration_s\na,0,1,5\nb,1,2,7\n"
    said = capsys.readouterr().out
    assert f"tide simulate {file} --cluster 8 --policy srtf" in said
    assert main(["simulate", str(file), "--cluster", "8", "--policy", "srtf"], edges) == 0
    assert main(["cluster", "--trace", str(tmp_path / "no" / "x.csv")], edges) == 2
    assert "cannot be written" in capsys.readouterr().err


def test_a_preview_is_a_simulation_from_here_on(capsys: Said) -> None:
    fake = FakeCluster()
    assert main(["simulate", "--preview", "train"], Edges(connect=fake.connect)) == 0
    assert "train would start in 5 s" in capsys.readouterr().out
