"""`tide report`: what it remembers, what it draws, and that names are only names."""

from __future__ import annotations

import dataclasses
import itertools
import json
import pathlib
import random
import threading
from collections.abc import Callable, Iterator
from typing import Any
from xml.etree import ElementTree

import cli_fake_daemon as fake
import msgpack  # type: ignore[import-untyped,unused-ignore]
import pytest
from cli_fake_daemon import GIB, MIB, FakeDaemon, job_record
from torchtide import errors
from torchtide.cli import main, report, report_charts, report_record
from torchtide.cli.edges import Edges

NOW = 1_772_000_000.0
Said = pytest.CaptureFixture[str]
SVG = "{http://www.w3.org/2000/svg}"


def status(*jobs: dict[str, Any], used: int = GIB) -> dict[str, Any]:
    return {"capacity": 8 * GIB, "used": used, "jobs": list(jobs)}


def document(path: pathlib.Path) -> ElementTree.Element:
    """The page, which is well-formed as XML too."""
    text = path.read_text(encoding="utf-8")
    assert "<script" not in text and "http" not in text, "it needs nothing from elsewhere"
    return ElementTree.fromstring(text.partition("\n")[2])


class Passing(FakeDaemon):
    """A daemon whose jobs are another list at each question; the last one stays."""

    def __init__(self, *looks: list[dict[str, Any]]) -> None:
        super().__init__()
        self.looks = list(looks)

    def request(self, kind: str, body: bytes, timeout_s: float) -> tuple[str, bytes]:
        if b"status" in body:
            self.jobs = self.looks.pop(0) if len(self.looks) > 1 else self.looks[0]
        return super().request(kind, body, timeout_s)


def edges_of(daemon: FakeDaemon) -> Edges:
    clock = itertools.count()
    return Edges(connect=daemon.connect, now=lambda: NOW + next(clock))


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Waits take no time."""
    monkeypatch.setattr(threading.Event, "wait", lambda self, _=None: self.is_set())
    yield


def life(name: str, number: int, *states: str) -> Callable[[int], dict[str, Any]]:
    def at(look: int) -> dict[str, Any]:
        state = states[min(look, len(states) - 1)]
        ended = {"exit": {"code": 0, "time": NOW}} if state == "gone" else {}
        gone = {"resident": 0, "demoted": 0, "outside": 0, "iterations": 0} if ended else {}
        figures = {"resident": 100 * MIB, "iterations": 10 * look, "demoted": 0, "outside": MIB}
        return job_record(name, id=number, state=state, **{**figures, **gone}, **ended)

    return at


def test_the_page_tells_the_run_from_the_first_look_to_the_end_of_the_jobs(
    tmp_path: pathlib.Path, capsys: Said, at_once: None
) -> None:
    one = life("train", 1, "running", "waiting", "paused", "running", "gone")
    two = life("<b>&'\"", 2, "waiting", "running", "running", "gone")
    old = job_record("yesterday", id=9, state="gone")
    daemon = Passing(*([one(look), two(look), old] for look in range(5)))
    daemon.events = [
        {"seq": 10, "time": NOW + 2, "kind": "pause", "job": "train", "text": "paused by <you>"},
        {"seq": 8, "time": NOW - 9, "kind": "limit", "job": "train", "text": "long ago"},
    ]
    path = tmp_path / "run.html"
    assert main(["report", "-o", str(path), "--json"], edges_of(daemon)) == 0
    told = json.loads(capsys.readouterr().out)
    assert [job["job"] for job in told["jobs"]] == ["train", "<b>&'\""]
    train = told["jobs"][0]
    assert train["iterations"] == 30 and train["end"] == "exit code 0"
    assert train["memory_peak"] == 101 * MIB
    assert sum(train["shares"].values()) == pytest.approx(1)
    assert train["shares"]["paused"] == pytest.approx(0.25)
    root = document(path)
    text = "".join(root.itertext())
    assert "paused by <you>" in text and "long ago" not in text
    assert "<b>&'\"" in text and "yesterday" not in text
    kinds = [r.get("class") for r in root.iter("rect")]
    assert kinds.count("state paused") == 1 and kinds.count("state running") == 3
    assert len(list(root.iter("polygon"))) == 2
    assert sum("mark" in (p.get("class") or "") for p in root.iter("path")) == 1


def remembering(*looks: tuple[float, list[list[Any]]], jobs: list[dict[str, Any]]) -> FakeDaemon:
    """A daemon that has seen this, and answers two looks at a time."""
    daemon = FakeDaemon(*jobs)
    answered = daemon.request

    def request(kind: str, body: bytes, timeout_s: float) -> tuple[str, bytes]:
        asked = msgpack.unpackb(body)
        if asked["what"] != "history":
            return answered(kind, body, timeout_s)
        later = [look for look in looks if look[0] * 1000 > asked["since"]]
        samples = [[int(at * 1000), GIB, seen] for at, seen in later[:2]]
        told = [{"id": 1, "name": "train", "script": "t.py"}, {"id": -77, "name": "lonely"}]
        data = {"samples": samples, "jobs": told, "more": len(later) > 2}
        return "Answer", msgpack.packb({"ok": True, "data": data})

    daemon.request = request  # type: ignore[method-assign]
    return daemon


def seen(number: int, state: str, look: int) -> list[Any]:
    return [number, state, 100 * MIB, 7 * MIB, 10 * look]


def test_what_is_over_is_told_from_what_the_daemon_has_seen(
    tmp_path: pathlib.Path, capsys: Said
) -> None:
    states = ["running", "paused", "running", "waiting", "running"]
    looks = [
        (NOW - 100 + at, [seen(1, state, at), *([seen(-77, "running", at)] if at > 2 else [])])
        for at, state in enumerate(states)
    ]
    gone = job_record("train", state="gone", exit={"code": 3, "time": NOW - 90})
    daemon = remembering(*looks, (NOW - 95, []), jobs=[gone])
    daemon.events = [
        {"seq": 10, "time": NOW - 98, "kind": "pause", "job": "train", "text": "paused by you"},
        {"seq": 8, "time": NOW - 5000, "kind": "limit", "job": "train", "text": "ages ago"},
    ]
    started: list[Any] = []
    edges = dataclasses.replace(edges_of(daemon), ensure_daemon=started.append)
    path = tmp_path / "run.html"
    assert main(["report", "--last", "5m", "-o", str(path), "--json"], edges) == 0
    assert len(started) == 1, "the daemon may have ended since"
    told = json.loads(capsys.readouterr().out)
    assert told["samples"] == 6 and told["seconds"] == pytest.approx(5)
    train, lonely = told["jobs"]
    assert (train["job"], train["end"], train["iterations"]) == ("train", "exit code 3", 40)
    assert train["memory_peak"] == 100 * MIB and train["demoted_peak"] == 7 * MIB
    assert train["shares"]["paused"] == pytest.approx(0.2)
    assert (lonely["job"], lonely["end"], lonely["iterations"]) == ("lonely", "ended", 10)
    text = "".join(document(path).itertext())
    assert "paused by you" in text and "ages ago" not in text
    assert "remembers less of what is long ago" in text


def test_a_job_that_still_runs_goes_on_in_the_page_of_the_past(
    tmp_path: pathlib.Path, capsys: Said
) -> None:
    daemon = remembering(
        *[(NOW - 9 + at, [seen(1, "running", at)]) for at in range(8)],
        jobs=[job_record("train", state="running")],
    )
    edges = dataclasses.replace(edges_of(daemon), ensure_daemon=lambda folder: None)
    assert main(["report", "--last", "all", "-o", str(tmp_path / "x.html"), "--json"], edges) == 0
    (job,) = json.loads(capsys.readouterr().out)["jobs"]
    assert job["end"] == "running (goes on)"


@pytest.mark.parametrize("span", ["0", "-1h", "soon", "1w", "", "1h30m", "nan"])
def test_a_span_that_is_none_is_refused(span: str, tmp_path: pathlib.Path, capsys: Said) -> None:
    daemon = remembering(jobs=[])
    assert main(["report", f"--last={span}", "-o", str(tmp_path / "x.html")], edges_of(daemon)) == 2
    assert "not a span of time" in capsys.readouterr().err


def test_nothing_in_that_time_is_no_page(tmp_path: pathlib.Path, capsys: Said) -> None:
    daemon = remembering((NOW - 9000, [seen(1, "running", 1)]), jobs=[])
    edges = dataclasses.replace(edges_of(daemon), ensure_daemon=lambda folder: None)
    assert main(["report", "--last", "1h", "-o", str(tmp_path / "x.html")], edges) == 3
    assert "--last all" in capsys.readouterr().err
    assert not (tmp_path / "x.html").exists()


def test_without_a_job_there_is_no_page(
    tmp_path: pathlib.Path, capsys: Said, at_once: None
) -> None:
    path = tmp_path / "run.html"
    words = ["report", "-o", str(path), "--for", "3"]
    assert main(words, edges_of(Passing([job_record("old", state="gone")]))) == 3
    assert "nothing to report" in capsys.readouterr().err
    assert not path.exists()


def test_what_cannot_be_done_is_said_before_an_hour_has_passed(
    tmp_path: pathlib.Path, capsys: Said, at_once: None
) -> None:
    daemon = Passing([life("train", 1, "gone")(0)])
    for words in (["-o", str(tmp_path)], ["-o", str(tmp_path / "no" / "x.html")], ["--for", "-1"]):
        assert main(["report", *words], edges_of(daemon)) == 2
    assert main(["report", "--interval", "nan"], edges_of(daemon)) == 2
    assert daemon.opened == 0
    assert capsys.readouterr().err.count("do: ") == 4


def test_a_daemon_that_goes_away_ends_the_page_there(tmp_path: pathlib.Path, at_once: None) -> None:
    daemon = Passing([life("train", 1, "running")(0)])
    answered = daemon.request

    def until_gone(kind: str, body: bytes, timeout_s: float) -> tuple[str, bytes]:
        if b"status" in body and until_gone.__dict__.setdefault("left", [1, 1, 1]) == []:
            raise ConnectionError("it is gone")
        if b"status" in body:
            until_gone.__dict__["left"].pop()
        return answered(kind, body, timeout_s)

    daemon.request = until_gone  # type: ignore[method-assign]
    path = tmp_path / "run.html"
    assert main(["report", "-o", str(path)], edges_of(daemon)) == 0
    assert "The daemon went away" in "".join(document(path).itertext())


def test_samples_stay_few_and_peaks_stay_true() -> None:
    recording, now, sizes = report_record.Recording(NOW, 0.5), 0.0, []
    while now <= 9000:
        sizes.append((len(sizes) * 7919) % 1000 * MIB)
        job = job_record("t", state="running", resident=sizes[-1], outside=0)
        recording.add(NOW + now, status({**job, "iterations": int(4 * now)}))
        now += recording.interval_s
    assert len(recording.samples) < report_record.SAMPLES_MAX < len(sizes)
    assert recording.interval_s == 8.0
    figures = recording.figures(1)
    assert figures["memory_peak"] == max(sizes) and figures["iterations"] == int(
        4 * recording.seconds
    )
    assert figures["rate"] == pytest.approx(4)
    assert all(rate == pytest.approx(4) for _, rate in recording.rates(1))
    assert list(recording.spans(1)) == [("running", 0.0, recording.seconds)]


def test_two_jobs_of_one_name_are_told_apart() -> None:
    recording = report_record.Recording(NOW, 0.5)
    recording.add(NOW, status(job_record("t", id=1), job_record("t", id=4), job_record("u", id=5)))
    assert recording.names() == {1: "t #1", 4: "t #4", 5: "u"}


def test_ticks_are_round_and_reach_the_top() -> None:
    seed = random.randrange(1 << 30)
    chosen = random.Random(seed)
    for _ in range(500):
        top = 10 ** chosen.uniform(-6, 12)
        ticks = report_charts.steps(top)
        assert ticks[0] == 0 and ticks[-1] >= top * (1 - 1e-9), (seed, top)
        assert 2 <= len(ticks) <= 12, (seed, top, ticks)
    assert report_charts.byte_steps(3 * GIB)[1] in (0.5 * GIB, GIB)
    assert report_charts.steps(0) == [0.0, 1.0]
    assert report_charts.time_steps(185)[:3] == [0, 30, 60]
    assert [len(report_charts.time_steps(3600 * 10**n)) < 12 for n in range(4)] == [True] * 4


def test_areas_stand_upon_each_other_within_the_frame() -> None:
    frame = report_charts.Frame(10, 4, 200)
    drawn = report_charts.stacked(frame, [("c0", [1, 2]), ("c1", [3, 2])], [0, 10])
    first, second = ElementTree.fromstring(f"<g>{drawn}</g>")
    low = [tuple(map(float, p.split(","))) for p in (first.get("points") or "").split()]
    high = [tuple(map(float, p.split(","))) for p in (second.get("points") or "").split()]
    assert low[:2] == high[:1:-1], "the floor of the second is the roof of the first"
    assert {y for _, y in high[:2]} == {frame.y(4)}


def test_a_signal_writes_the_page_now(tmp_path: pathlib.Path) -> None:
    import os
    import signal

    asked = Passing([life("train", 1, "running")(0)])
    answered = asked.request

    def then_interrupted(kind: str, body: bytes, timeout_s: float) -> tuple[str, bytes]:
        if b"status" in body:
            os.kill(os.getpid(), signal.SIGTERM)
        return answered(kind, body, timeout_s)

    asked.request = then_interrupted  # type: ignore[method-assign]
    before = signal.getsignal(signal.SIGTERM)
    path = tmp_path / "run.html"
    request = report.Request(path, None, 60.0, json_output=True)
    assert report.report(edges_of(asked), request) == 0
    assert signal.getsignal(signal.SIGTERM) is before
    assert path.exists()


def test_a_daemon_that_was_never_there_is_an_error(capsys: Said) -> None:
    def none(path: str, timeout_s: float) -> fake.FakeDaemon:
        raise errors.DaemonUnavailable("no daemon is running", advice="`tide run` starts one")

    assert main(["report"], Edges(connect=none)) == 4
    assert "tide run" in capsys.readouterr().err
