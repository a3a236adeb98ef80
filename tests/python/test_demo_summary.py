"""What the quickstart tells: the daemon's words, the comparison, the table, the picture."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from rich.console import Console
from torchtide.demo import live, picture
from torchtide.demo.confine import Outcome, Report, Sample
from torchtide.demo.jobs import Record, Solo
from torchtide.demo.live import LiveStatus
from torchtide.demo.screen import Screen
from torchtide.demo.summary import Comparison

GIB = 1 << 30
STATUS = {
    "version": "0.1.0",
    "capacity": 4 * GIB,
    "used": 3 * GIB,
    "lanes": [{"id": 0, "holder": 7, "handovers": 12, "scratch_bytes": GIB, "members": [7, 8]}],
    "jobs": [
        {"name": "a", "state": "running", "turn": True, "resident": GIB, "iterations": 5},
        {"name": "b", "state": "waiting", "turn": False, "demoted": 7, "steps_per_s": 0.5},
    ],
}


def record(digest: str = "aa", begin: float = 100.0) -> Record:
    return Record({"parameter w": digest}, [(0.5).hex()], [begin, begin + 1, begin + 2], 10, 5)


def report(**ends: Outcome) -> Report:
    outcomes = {name: ends.get(name, Outcome(name, 0, 3.0)) for name in ("a", "b")}
    samples = [Sample(i / 10, i * GIB // 10, GIB // 10, 0, {"a": GIB // 20}) for i in range(30)]
    return Report("cgroup v1", 4 * GIB, 99.0, outcomes, samples, peak_bytes=3 * GIB, seconds=3.0)


def comparison() -> Comparison:
    solos = {"a": Solo(record(), 3 * GIB, GIB, 5.0), "b": Solo(record(), 2 * GIB, GIB, 5.0)}
    found = Comparison(solos, [], "a", 4 * GIB, "torch 2")
    killed = Outcome("b", -9, 2.0, killed_for_memory=True)
    found.plain, found.plain_records = report(b=killed), {"a": record()}
    found.tide = report()
    found.tide_records = {"a": record(begin=100.0), "b": record(begin=101.5)}
    found.ledger.look = lambda seconds: None  # type: ignore[method-assign]
    found.ledger.peak_used_bytes = 3 * GIB
    found.ledger.handovers = 12
    return found


def test_the_daemons_answer_is_read() -> None:
    snapshot = live.parse(STATUS)
    assert (snapshot.capacity_bytes, snapshot.used_bytes) == (4 * GIB, 3 * GIB)
    assert (snapshot.handovers, snapshot.holder, snapshot.demoted_bytes) == (12, "a", 7)
    assert [job.iterations for job in snapshot.jobs] == [5, 0]


@pytest.mark.parametrize("status", [{}, {"lanes": None, "jobs": None}, {"jobs": [{}]}])
def test_an_answer_that_lacks_fields_is_read_too(status: dict[str, object]) -> None:
    assert live.parse(status).used_bytes == 0


def test_the_most_that_was_seen_is_remembered() -> None:
    gone = [{"name": "a", "state": "gone", "iterations": 0}]
    answers = [STATUS, {**STATUS, "used": GIB, "jobs": gone}]
    status = LiveStatus(ask=lambda: answers.pop(0))
    status.look(1.0)
    last = status.look(2.0)
    assert last is not None and last.jobs[0].iterations == 5
    assert status.peak_used_bytes == 3 * GIB
    assert status.peak_demoted_bytes == 7
    assert status.turns == [(1.0, "a"), (2.0, "")]
    assert status.used == [(1.0, 3 * GIB), (2.0, GIB)]


def test_no_daemon_is_no_error() -> None:
    def refuse() -> live.Status:
        raise ConnectionRefusedError("nobody there")

    status = LiveStatus(ask=refuse)
    assert status.look(1.0) is None
    assert status.last_error == "ConnectionRefusedError: nobody there"


def test_the_promise_holds_when_plain_fails_and_tide_is_bitwise_as_alone() -> None:
    found = comparison()
    assert found.held()
    data = found.json()
    assert json.loads(json.dumps(data)) == data
    assert (data["jobs_failed_plain"], data["jobs_failed_tide"]) == (1, 0)
    assert data["bitwise_equal"] is True
    assert data["sum_solo_peaks"] == 5 * GIB
    assert data["bound_bytes"] == 4 * GIB
    assert (data["peak_kernel"], data["peak_ledger"]) == (3 * GIB, 3 * GIB)
    assert data["peak_kernel_without_cache"] == 29 * GIB // 10
    assert data["peak_over_sum"] == 0.6
    assert data["ledger_over_kernel"] == 1.0
    assert data["makespan_serial_s"] == 4.0
    assert data["makespan_tide_s"] == 3.5
    assert data["makespan_over_serial"] == 0.875
    assert [job["name"] for job in data["jobs"]] == ["a", "b"]


def test_the_promise_is_broken_when_a_tensor_differs() -> None:
    found = comparison()
    found.tide_records = {**found.tide_records, "b": record("ab")}
    assert found.json()["bitwise_equal"] is False
    assert not found.held()
    assert found.json()["jobs"][1]["differences"] == ["parameter w"]


def test_the_promise_is_broken_when_a_job_leaves_no_result() -> None:
    found = comparison()
    found.tide_records = {"a": record()}
    assert found.json()["bitwise_equal"] is False
    assert not found.held()


def test_the_promise_is_broken_when_a_job_fails_under_tide() -> None:
    found = comparison()
    found.tide = report(b=Outcome("b", 1, 2.0))
    assert not found.held()


def test_nothing_is_shown_when_the_plain_jobs_fit() -> None:
    found = comparison()
    found.plain = report()
    assert not found.held()


def test_nothing_is_shown_when_two_solo_runs_differ() -> None:
    found = comparison()
    found.control_differences = ["parameter w"]
    assert not found.held()
    assert any("differ already" in sentence for sentence in found.sentences())


def test_runs_that_did_not_take_place_are_null() -> None:
    found = comparison()
    found.plain = found.tide = None
    found.plain_records = found.tide_records = {}
    data = found.json()
    assert data["jobs_failed_tide"] is data["peak_kernel"] is data["makespan_tide_s"] is None
    assert data["bitwise_equal"] is None
    assert not found.held()


def printed(found: Comparison) -> str:
    console = Console(file=io.StringIO(), width=120)
    console.print(found.table())
    for sentence in found.sentences():
        console.print(sentence)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_the_table_says_how_each_job_ended() -> None:
    text = printed(comparison())
    assert "killed: out of memory" in text
    assert text.count("bitwise as alone") == 2
    assert "12 hand-overs" in text


def test_without_a_terminal_there_are_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    console = Console(file=io.StringIO(), width=120)
    now = [0.0]
    monkeypatch.setattr("torchtide.demo.screen.time.monotonic", lambda: now[0])
    with Screen(console, "a phase") as screen:
        for now[0] in (1.0, 2.0, 5.0, 6.0, 10.5):
            screen.show(report(), live.parse(STATUS))
    assert isinstance(console.file, io.StringIO)
    lines = console.file.getvalue().splitlines()
    assert lines[0] == "a phase"
    assert len(lines) == 3 and "turn: a, hand-overs 12" in lines[1]


def test_on_a_terminal_there_is_a_table() -> None:
    console = Console(file=io.StringIO(), width=120, force_terminal=True)
    with Screen(console, "a phase") as screen:
        screen.show(Report("watching", None, 0.0, {}))
        screen.show(report(b=Outcome("b", -9, 2.0, killed_for_memory=True)), live.parse(STATUS))
    assert isinstance(console.file, io.StringIO)
    assert "killed: out of memory" in console.file.getvalue()


def test_turns_do_not_overlap_and_waiting_is_nobodys_turn() -> None:
    # b's second iteration began, by its own time, while a still had the turn
    a = Record({}, [], [100.0, 101.0, 103.0], 0, 0)
    b = Record({}, [], [100.5, 102.0, 104.0], 0, 0)
    spans = picture.turns(report(), {"a": a, "b": b})
    assert spans == {"a": [(1.0, 2.0), (3.0, 4.0)], "b": [(2.0, 3.0), (4.0, 5.0)]}


@pytest.mark.parametrize("tide", [True, False])
def test_the_picture_is_drawn(tmp_path: Path, tide: bool) -> None:
    found = comparison()
    assert found.plain is not None
    path = tmp_path / "quickstart.png"
    records = {"plain": found.plain_records, "tide": found.tide_records}
    ledger = [(0.0, 0), (1.0, GIB)]
    picture.draw(path, found.plain, found.tide if tide else None, records, ledger)
    assert path.read_bytes().startswith(b"\x89PNG")


def test_a_picture_of_a_run_that_ended_at_once_is_drawn(tmp_path: Path) -> None:
    empty = Report("watching", 1, 0.0, {"a": Outcome("a", 127)})
    picture.draw(tmp_path / "quickstart.png", empty, None, {"plain": {}})
    assert (tmp_path / "quickstart.png").stat().st_size > 0
