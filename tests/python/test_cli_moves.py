"""`tide submit --movable`, `move` and `drain` against a coordinator in this process."""

from __future__ import annotations

import os
import pathlib
import signal
import sys
import threading
from collections.abc import Callable
from typing import Any

import pytest
from cli_fake_daemon import FakeDaemon, error
from torchtide import errors
from torchtide.cli import cluster, main, moves
from torchtide.cli.edges import Edges

Said = pytest.CaptureFixture[str]

#: Writes a line at its start; ends as ENDS says ("m2:1=7", "m1:1#3=0" at the third start), and by
#: SIGTERM with a mark that it has saved.
COMMAND = """
import os, signal
def save(*_):
    print("saved", os.environ["TIDE_NODES"], file=out, flush=True)
    os._exit(int(os.environ.get("LEAVES", "143")))
signal.signal(signal.SIGTERM, save)
out = open(os.environ["OUT"], "a")
words = ("TIDE_NODES", "TIDE_STARTS", "TIDE_JOB_NAME")
print("start", *(os.environ[word] for word in words), file=out, flush=True)
for word in os.environ.get("ENDS", "").split():
    nodes, code = word.rsplit("=", 1)
    here = os.environ["TIDE_NODES"]
    if nodes in (here, here + "#" + os.environ["TIDE_STARTS"]):
        os._exit(int(code))
signal.alarm(30)
while True:
    signal.pause()
"""


class FakeCoordinator(FakeDaemon):
    """A job on m1. Once its command has started `after` times the next change of `script` holds."""

    def __init__(self, out: pathlib.Path, *script: Callable[[FakeCoordinator], None]) -> None:
        super().__init__()
        self.out = out
        self.script = list(script)
        self.record: dict[str, Any] = {
            "state": "running",
            "nodes": {"m1": 1},
            "revision": 1,
            "away": False,
            "reports": 0,
            "text": "train: runs",
        }
        self.said: list[dict[str, Any]] = []
        self.back = {"m1": 1}
        self.silent = 0

    def lines(self) -> list[str]:
        return self.out.read_text().splitlines() if self.out.exists() else []

    def starts(self) -> list[str]:
        return [line for line in self.lines() if line.startswith("start")]

    def _submit(self, body: dict[str, Any]) -> dict[str, Any]:
        self.said.append(body)
        return {"ok": True, "data": {"text": "train: new"}}

    def _finish(self, body: dict[str, Any]) -> dict[str, Any]:
        self.said.append(body)
        return {"ok": True, "data": {}}

    def _drain(self, body: dict[str, Any]) -> dict[str, Any]:
        self.said.append(body)
        return {"ok": True, "data": {"text": f"node {body['node']} is being emptied"}}

    def _move(self, body: dict[str, Any]) -> dict[str, Any]:
        self.said.append(body)
        record, step = self.record, body.get("step", "ask")
        if step == "ask" and body.get("to") == "m9":
            return error("conflict", "m9 is lost")
        if step == "left" and "move" in record:
            record.update(nodes=record.pop("move")["nodes"], revision=record["revision"] + 1)
        if step == "failed":
            record.update(nodes=self.back, revision=record["revision"] + 1)
        if step == "stays":
            record.pop("move", None)
        record["away"] = False
        return {"ok": True, "data": record}

    def _query(self, body: dict[str, Any]) -> dict[str, Any]:
        if body["what"] == "explain":
            return {"ok": True, "data": self.record}
        if body["what"] != "placement":
            return super()._query(body)
        if self.silent > 0:
            self.silent -= 1
            return error("unavailable", "the link to the coordinator is down")
        if self.script and len(self.starts()) > 0:
            self.script.pop(0)(self)
        return {"ok": True, "data": dict(self.record)}


def to_m2(fake: FakeCoordinator) -> None:
    fake.record["move"] = {"nodes": {"m2": 1}, "reason": "m1 is being emptied"}


@pytest.fixture(autouse=True)
def quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(moves, "_POLL_S", 0.05)


def submit(
    fake: FakeCoordinator, leaving: moves.Leaving | None = None, **environ: str
) -> tuple[int, list[dict[str, Any]]]:
    """Ends of `tide submit --movable`, and what it told the coordinator."""
    edges = Edges(connect=fake.connect, environ={**os.environ, "OUT": str(fake.out), **environ})
    request = cluster.Request("train", 1, leaving=leaving or moves.Leaving())
    pause = threading.Event()
    code = cluster.submit(edges, request, [sys.executable, "-c", COMMAND], lambda s: pause.wait(s))
    return code, fake.said


def test_a_job_that_is_to_go_saves_ends_and_is_started_there(
    capsys: Said, tmp_path: pathlib.Path
) -> None:
    fake = FakeCoordinator(tmp_path / "out", to_m2)
    code, said = submit(fake, ENDS="m2:1=0")
    assert code == 0
    assert fake.lines()[:2] == ["start m1:1 1 train", "saved m1:1"]
    assert fake.lines()[2] == "start m2:1 2 train"
    assert said[0]["movable"] is True
    assert [body["step"] for body in said if "step" in body] == ["left"]
    assert said[-1] == {"key": "train", "exit_code": 0}
    out = capsys.readouterr().out
    assert "train is to go from m1:1 to m2:1: it is asked to save and end (m1 is being" in out
    assert "train moved from m1:1 to m2:1 in " in out
    assert "s: m1 is being emptied" in out


def test_a_start_that_comes_to_nothing_is_tried_once_more_where_it_was(
    capsys: Said, tmp_path: pathlib.Path
) -> None:
    fake = FakeCoordinator(tmp_path / "out", to_m2)
    code, said = submit(fake, ENDS="m2:1=255 m1:1#3=7")
    assert [line.split()[1] for line in fake.starts()] == ["m1:1", "m2:1", "m1:1"]
    failed = next(body for body in said if body.get("step") == "failed")
    assert failed["revision"] == 2
    assert failed["reason"] == "the command ended there with 255 and no iteration"
    assert code == 7
    assert said[-1] == {"key": "train", "exit_code": 7}
    out = capsys.readouterr().out
    assert "train could not be started on m2:1: the command ended there with 255" in out
    assert "train is started again on m1:1" in out


def test_two_starts_that_come_to_nothing_end_the_job(tmp_path: pathlib.Path) -> None:
    fake = FakeCoordinator(tmp_path / "out", to_m2)
    fake.back = {"m3": 1}
    code, said = submit(fake, ENDS="m2:1=255 m3:1=254")
    assert code == 254
    assert len(fake.starts()) == 3
    assert said[-1] == {"key": "train", "exit_code": 254}


def test_a_failure_after_some_iterations_is_the_end_of_the_job(tmp_path: pathlib.Path) -> None:
    fake = FakeCoordinator(tmp_path / "out", to_m2)
    moved = fake._move

    def reports(body: dict[str, Any]) -> dict[str, Any]:
        answer = moved(body)
        # Looked at after `left`: where it is; and when it has ended.
        fake.script += [lambda fake: None, lambda fake: fake.record.update(reports=5)]
        return answer

    fake._move = reports  # type: ignore[method-assign]
    code, said = submit(fake, ENDS="m2:1=9")
    assert code == 9
    assert [body["step"] for body in said if "step" in body] == ["left"]


def test_a_job_that_does_not_end_in_time_stays_and_is_told_once(
    capsys: Said, tmp_path: pathlib.Path
) -> None:
    fake = FakeCoordinator(tmp_path / "out", to_m2)
    stays = fake._move

    def told(body: dict[str, Any]) -> dict[str, Any]:
        if body.get("step") == "stays":
            os.kill(os.getpid(), signal.SIGINT)  # Ctrl-C, which the command gets
        return stays(body)

    fake._move = told  # type: ignore[method-assign]
    command = COMMAND.replace("os._exit(int(os", "return (int(os")  # saves, and does not end
    edges = Edges(connect=fake.connect, environ={**os.environ, "OUT": str(fake.out)})
    request = cluster.Request("train", 1, leaving=moves.Leaving(within_s=0.2))
    code = cluster.submit(edges, request, [sys.executable, "-c", command], lambda _: None)
    assert fake.lines().count("saved m1:1") == 1
    assert [body["step"] for body in fake.said if "step" in body] == ["stays"]
    assert code == 130
    assert "train stays where it is: it has not ended 0.2 s after" in capsys.readouterr().out


def test_a_job_that_ends_by_itself_meanwhile_has_ended(tmp_path: pathlib.Path) -> None:
    fake = FakeCoordinator(tmp_path / "out", to_m2)
    code, said = submit(fake, LEAVES="0")
    assert code == 0
    assert [body for body in said if "step" in body] == []
    assert said[-1] == {"key": "train", "exit_code": 0}


def test_another_code_says_that_it_has_saved_where_one_was_given(tmp_path: pathlib.Path) -> None:
    fake = FakeCoordinator(tmp_path / "out", to_m2)
    code, _ = submit(fake, moves.Leaving(code=1), LEAVES="1", ENDS="m2:1=0")
    assert code == 0
    assert [line.split()[1] for line in fake.starts()] == ["m1:1", "m2:1"]


def test_a_users_own_signal_is_no_move(tmp_path: pathlib.Path) -> None:
    fake = FakeCoordinator(
        tmp_path / "out", lambda fake: os.kill(os.getpid(), signal.SIGTERM), to_m2
    )
    code, said = submit(fake)
    assert code == 143
    assert len(fake.starts()) == 1
    assert said[-1] == {"key": "train", "exit_code": 143}


def test_a_job_that_the_policy_put_elsewhere_follows(tmp_path: pathlib.Path) -> None:
    def waits(fake: FakeCoordinator) -> None:
        fake.record.update(state="waiting", nodes={})

    def elsewhere(fake: FakeCoordinator) -> None:
        fake.record.update(state="running", nodes={"m2": 1}, away=True)

    fake = FakeCoordinator(tmp_path / "out", waits, elsewhere)
    code, said = submit(fake, ENDS="m2:1=0")
    assert code == 0
    assert fake.lines()[1:] == ["saved m1:1", "start m2:1 2 train"]
    assert [body["step"] for body in said if "step" in body] == ["left"]


def test_a_job_whose_machine_is_lost_goes_on_from_its_last_checkpoint(
    capsys: Said, tmp_path: pathlib.Path
) -> None:
    def lost(fake: FakeCoordinator) -> None:
        fake.record.update(state="waiting", nodes={}, text="train: node m1 is lost")

    fake = FakeCoordinator(tmp_path / "out", lost, lambda fake: None)
    fake.script.append(lambda fake: fake.record.update(state="running", nodes={"m2": 1}))
    code, said = submit(fake, ENDS="m1:1=255 m2:1=0")
    assert code == 0
    assert [line.split()[1] for line in fake.starts()] == ["m1:1", "m2:1"]
    assert [body for body in said if "step" in body] == []
    out = capsys.readouterr().out
    assert "train ended with 255 when its devices had been taken away" in out


def test_an_interrupted_start_elsewhere_is_not_tried_again(tmp_path: pathlib.Path) -> None:
    fake = FakeCoordinator(tmp_path / "out", to_m2)
    moved = fake._move

    def then_interrupted(body: dict[str, Any]) -> dict[str, Any]:
        answer = moved(body)
        fake.script.append(interrupt)
        return answer

    def interrupt(fake: FakeCoordinator) -> None:
        if len(fake.starts()) < 2:  # it has not come that far
            fake.script.append(interrupt)
        else:
            os.kill(os.getpid(), signal.SIGINT)

    fake._move = then_interrupted  # type: ignore[method-assign]
    code, said = submit(fake)
    assert code == 130
    assert len(fake.starts()) == 2
    assert said[-1] == {"key": "train", "exit_code": 130}


def test_sigterm_while_nothing_runs_gives_the_devices_back(tmp_path: pathlib.Path) -> None:
    def evicted(fake: FakeCoordinator) -> None:
        del fake.record["move"]
        fake.record.update(state="waiting", nodes={})

    fake = FakeCoordinator(tmp_path / "out", to_m2)
    moved = fake._move

    def left(body: dict[str, Any]) -> dict[str, Any]:
        fake.script += [evicted, lambda fake: os.kill(os.getpid(), signal.SIGTERM)]
        return {"ok": True, "data": fake.record} if body["step"] == "left" else moved(body)

    fake._move = left  # type: ignore[method-assign]
    with pytest.raises(SystemExit) as ended:
        submit(fake)
    assert ended.value.code == 143
    assert fake.said[-1] == {"key": "train", "exit_code": 1}


def test_daemons_may_be_away_in_the_middle_of_a_move(capsys: Said, tmp_path: pathlib.Path) -> None:
    def goes(fake: FakeCoordinator) -> None:
        to_m2(fake)
        fake.silent = 3

    fake = FakeCoordinator(tmp_path / "out", goes)
    moved, refused = fake._move, [1, 1]

    def away(body: dict[str, Any]) -> dict[str, Any]:
        if refused:
            refused.pop()
            return error("unavailable", "the link to the coordinator is down")
        return moved(body)

    fake._move = away  # type: ignore[method-assign]
    code, _ = submit(fake, ENDS="m2:1=0")
    assert code == 0
    assert [line.split()[1] for line in fake.starts()] == ["m1:1", "m2:1"]
    out = capsys.readouterr().out
    assert out.count("train goes on where it is: ") <= 1
    assert out.count("train waits for the daemon: ") >= 1


def test_a_daemon_that_stays_away_is_an_error_after_a_while(tmp_path: pathlib.Path) -> None:
    def gone(*_: object) -> Any:
        raise errors.DaemonUnavailable("no daemon is running")

    waited: list[float] = []
    with pytest.raises(errors.DaemonUnavailable):
        moves.patiently(Edges(connect=gone), lambda daemon: None, waited.append, "train")
    assert sum(waited) == 600


def test_move_and_drain_say_the_coordinators_sentence(capsys: Said, tmp_path: pathlib.Path) -> None:
    fake = FakeCoordinator(tmp_path / "out")
    edges = Edges(connect=fake.connect)
    assert main(["move", "train", "--to", "m2"], edges) == 0
    assert fake.said[-1] == {"key": "train", "to": "m2"}
    assert "train: runs" in capsys.readouterr().out
    assert main(["move", "train", "--to", "m9"], edges) == 6
    assert "tide move train --to m9: m9 is lost" in " ".join(
        capsys.readouterr().err.split("tide: ")
    )
    assert main(["drain", "m1"], edges) == 0
    assert main(["drain", "m1", "--undo", "--json"], edges) == 0
    assert fake.said[-2:] == [{"node": "m1", "undo": False}, {"node": "m1", "undo": True}]
    assert "node m1 is being emptied" in capsys.readouterr().out
