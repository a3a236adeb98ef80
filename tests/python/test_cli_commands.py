"""The commands that talk to the daemon, against one in this process."""

import json
from collections.abc import Callable

import cli_fake_daemon as fake
import pytest
from cli_fake_daemon import GIB, MIB, FakeDaemon, job_record
from torchtide import errors
from torchtide.cli import main
from torchtide.cli.edges import Edges

NOW = 1_772_000_000.0
Said = pytest.CaptureFixture[str]


def edges_of(daemon: FakeDaemon) -> Edges:
    return Edges(connect=daemon.connect, now=lambda: NOW)


def no_daemon(path: str, timeout_s: float) -> FakeDaemon:
    raise errors.DaemonUnavailable("no daemon is running", advice="`tide run` starts one")


def event(seq: int, ago_s: float, job: str, text: str) -> dict[str, object]:
    return {"seq": seq, "time": NOW - ago_s, "kind": "limit", "job": job, "text": text, "data": {}}


def two_jobs() -> FakeDaemon:
    return FakeDaemon(
        job_record("train", turn=True),
        job_record("bert", id=2, limit=0, state="waiting", priority="guaranteed", steps_per_s=0.0),
    )


# ----------------------------------------------------------------------------------------------
# ps and top


def test_ps_shows_each_job_in_eighty_cells(capsys: Said, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    long = job_record("a-very-long-name-of-a-job-that-somebody-chose[12]", demoted=123 * GIB)
    assert main(["ps"], edges_of(FakeDaemon(*two_jobs().jobs, long))) == 0
    lines = capsys.readouterr().out.splitlines()
    assert all(len(line) <= 80 for line in lines)
    assert len(lines) == 4
    for header in (
        "JOB",
        "STATE",
        "PRIO",
        "LIMIT",
        "RESIDENT",
        "DEMOTED",
        "SCRATCH",
        "STEPS/S",
        "ITER",
    ):
        assert header in lines[0]
    assert "train" in lines[1] and "running" in lines[1] and "812M" in lines[1]
    assert "none" in lines[2] and "guar" in lines[2]
    assert lines[3].startswith("a-very-long") and "…" in lines[3]


def test_ps_shows_devices_where_some_job_uses_one(
    capsys: Said, monkeypatch: pytest.MonkeyPatch
) -> None:
    devices = [
        {"index": 0, "name": "H100", "limit": 8 * GIB, "device": 5 * GIB, "host_mapped": GIB},
        {"index": 1, "name": "H100", "limit": 0, "device": GIB, "host_mapped": 0, "away": GIB},
    ]
    jobs = [job_record("train", devices=devices), job_record("host", id=2)]
    monkeypatch.setenv("COLUMNS", "200")
    assert main(["ps"], edges_of(FakeDaemon(*jobs))) == 0
    head, train, host = capsys.readouterr().out.splitlines()
    assert head.index("DEMOTED") < head.index("GPU AWAY") < head.index("GPU LIMIT")
    assert "6 GiB" in train and "2 GiB" in train and "8 GiB, none" in train
    assert host.split().count("-") >= 3
    assert main(["ps", "--json"], edges_of(FakeDaemon(*jobs))) == 0
    assert json.loads(capsys.readouterr().out)["jobs"][0]["devices"] == devices
    assert main(["ps"], edges_of(two_jobs())) == 0
    assert "GPU" not in capsys.readouterr().out


def test_ps_drops_columns_before_it_cuts_numbers(
    capsys: Said, monkeypatch: pytest.MonkeyPatch
) -> None:
    for width in range(24, 121):
        monkeypatch.setenv("COLUMNS", str(width))
        assert main(["ps"], edges_of(two_jobs())) == 0
        said = capsys.readouterr().out
        assert max(len(line) for line in said.splitlines()) <= width
        if width >= 40:
            assert "812" in said and "running" in said


def test_ps_in_a_pipe_cuts_nothing_and_has_no_colour(
    capsys: Said, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    assert main(["ps"], edges_of(FakeDaemon(job_record("n" * 63)))) == 0
    said = capsys.readouterr().out
    assert "n" * 63 in said and "12,345" in said and "\x1b" not in said


def test_names_are_shown_as_they_are_but_cannot_move_the_cursor(capsys: Said) -> None:
    daemon = FakeDaemon(job_record("x[0]"), job_record("[bold]b\x1b[2J"), job_record("模型 🚂"))
    assert main(["ps"], edges_of(daemon)) == 0
    said = capsys.readouterr().out
    assert "x[0]" in said and "[bold]b [2J" in said and "模型 🚂" in said


def test_ps_without_jobs_says_how_to_start_one(capsys: Said) -> None:
    assert main(["ps"], edges_of(FakeDaemon())) == 0
    assert "tide run" in capsys.readouterr().out


def test_ps_without_a_daemon_lists_nothing_and_ends_with_four(capsys: Said) -> None:
    assert main(["ps", "--json"], Edges(connect=no_daemon)) == 4
    said = capsys.readouterr()
    assert json.loads(said.out) == {"jobs": []}
    assert "no daemon is running" in said.err
    assert main(["ps"], Edges(connect=no_daemon)) == 4
    assert capsys.readouterr().out == ""


def test_ps_json_is_what_the_daemon_knows(capsys: Said) -> None:
    daemon = two_jobs()
    assert main(["ps", "--json"], edges_of(daemon)) == 0
    assert json.loads(capsys.readouterr().out) == {"jobs": daemon.jobs}


@pytest.mark.parametrize(
    "command",
    [
        ["top"],
        ["limit", "a", "2GiB"],
        ["pause", "a"],
        ["resume", "a"],
        ["explain", "a"],
        ["events"],
        ["policy"],
        ["shutdown"],
    ],
)
def test_everything_else_without_a_daemon_ends_with_four_and_the_way_to_start_one(
    capsys: Said, command: list[str]
) -> None:
    assert main(command, Edges(connect=no_daemon)) == 4
    assert "no daemon is running\n  do: `tide run` starts one" in capsys.readouterr().err
    assert main([*command, "--json"], Edges(connect=no_daemon)) == 4
    assert json.loads(capsys.readouterr().out)["error"]["kind"] == "DaemonUnavailable"


def test_top_once_shows_memory_lanes_jobs_and_the_last_events(capsys: Said) -> None:
    daemon = two_jobs()
    daemon.events = [event(i, 10 - i, "train", f"event number {i}") for i in range(5)]
    assert main(["top", "--once"], edges_of(daemon)) == 0
    said = capsys.readouterr().out
    assert "of 8 GiB" in said
    assert "lane 0" in said and "fair" in said and "turn: train" in said and "1,204" in said
    assert "bert" in said and "12.4" in said
    assert "event number 4" in said and "event number 2" in said and "event number 1" not in said


def test_top_json_is_one_object(capsys: Said) -> None:
    daemon = two_jobs()
    assert main(["top", "--json"], edges_of(daemon)) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["capacity"], len(told["jobs"]), told["events"]) == (8 * GIB, 2, [])


@pytest.mark.parametrize("interval", ["0", "-1", "nan", "inf"])
def test_top_refuses_an_interval_that_is_none(interval: str) -> None:
    assert main(["top", "--interval", interval], edges_of(two_jobs())) == 2


# ----------------------------------------------------------------------------------------------
# limit


def test_limit_echoes_what_moved_how_long_it_took_and_how_to_undo_it(capsys: Said) -> None:
    daemon = two_jobs()
    assert main(["limit", "train", "1GiB"], edges_of(daemon)) == 0
    assert capsys.readouterr().out == (
        "limit of train is 1 GiB: moved 512 MiB in 140 ms; undo: tide limit train 2GiB\n"
    )
    assert daemon.commands[0]["bytes"] == GIB


def test_limit_takes_none_and_percentages(capsys: Said) -> None:
    daemon = two_jobs()
    assert main(["limit", "train", "none"], edges_of(daemon)) == 0
    assert main(["limit", "train", "25%"], edges_of(daemon)) == 0
    assert [command["bytes"] for command in daemon.commands] == [0, 2 * GIB]
    assert "undo: tide limit train none" in capsys.readouterr().out


def test_ps_has_a_column_of_paces_where_some_job_is_slowed(capsys: Said) -> None:
    jobs = [job_record("paper", pace=1.0), job_record("sweep", id=2, pace=0.0213)]
    assert main(["ps"], edges_of(FakeDaemon(*jobs))) == 0
    head, paper, sweep = capsys.readouterr().out.splitlines()
    assert head.index("PRIO") < head.index("PACE") < head.index("LIMIT")
    assert "100%" in paper and "2.13%" in sweep
    assert main(["ps"], edges_of(FakeDaemon(jobs[0]))) == 0
    assert "PACE" not in capsys.readouterr().out


def test_a_percentage_of_an_unlimited_device_is_refused(capsys: Said) -> None:
    daemon = two_jobs()
    daemon.capacity = 0
    assert main(["limit", "train", "25%"], edges_of(daemon)) == 2
    assert "TIDE_CAPACITY" in capsys.readouterr().err


@pytest.mark.parametrize(
    "size", ["5", "0", "-1GiB", "1XB", "", "0%", "101%", "x%", "nan", "1e99GiB"]
)
def test_sizes_that_make_no_sense_are_usage_errors(capsys: Said, size: str) -> None:
    daemon = two_jobs()
    assert main(["limit", "train", "--", size], edges_of(daemon)) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"tide: tide limit train {size}".rstrip()) and "  do: " in said
    assert daemon.commands == []


def test_a_limit_below_the_minimum_names_its_parts_and_a_command_that_works(capsys: Said) -> None:
    daemon = two_jobs()
    parts = {"outside": 389 * MIB, "pinned": 0, "scratch": 18 * MIB, "smallest": 423 * MIB + 1}
    daemon.answers["limit"] = {
        **fake.error("conflict", "refused by the job", "give more"),
        "data": {"job": "train", "status": "conflict", "parts": parts},
    }
    assert main(["limit", "train", "50MiB"], edges_of(daemon)) == 6
    assert capsys.readouterr().err.splitlines() == [
        "tide: tide limit train 50MiB: train cannot run in less than 423 MiB; the old limit stays",
        "  made up of: outside 389 MiB + pinned 0 B + scratch 18 MiB",
        "  do: `tide limit train 432MiB`, or `tide pause train` for all of it",
    ]
    assert main(["limit", "train", "50MiB", "--json"], edges_of(daemon)) == 6
    told = json.loads(capsys.readouterr().out)
    assert told["error"]["parts"] == {key: parts[key] for key in ("outside", "pinned", "scratch")}


def test_a_conflict_without_sizes_is_told_in_the_daemons_words(capsys: Said) -> None:
    daemon = two_jobs()
    daemon.answers["limit"] = fake.error("conflict", "below what is guaranteed", "lower that first")
    assert main(["limit", "train", "50MiB"], edges_of(daemon)) == 6
    assert "below what is guaranteed\n  do: lower that first" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("status", "code", "said"),
    [
        ("deferred", 0, "at its next iteration"),
        ("pending", 7, "no answer yet"),
        ("stale", 6, "newer limit"),
    ],
)
def test_each_status_of_a_limit_has_its_words_and_code(
    capsys: Said, status: str, code: int, said: str
) -> None:
    daemon = two_jobs()
    daemon.answers["limit"] = {"ok": True, "data": {"job": "train", "status": status}}
    assert main(["limit", "train", "1GiB"], edges_of(daemon)) == code
    captured = capsys.readouterr()
    assert said in captured.out + captured.err


def test_an_unknown_job_comes_with_close_names(capsys: Said) -> None:
    for command in (["limit", "trian", "1GiB"], ["pause", "trian"], ["explain", "trian"]):
        assert main(command, edges_of(two_jobs())) == 3
        assert 'no job is called "trian"; did you mean train?' in capsys.readouterr().err
    assert main(["pause", "zzz"], edges_of(two_jobs())) == 3
    assert "there are train, bert" in capsys.readouterr().err
    assert main(["pause", "zzz"], edges_of(FakeDaemon())) == 3
    assert "there is none at all" in capsys.readouterr().err


@pytest.mark.parametrize("timeout", ["0", "-1", "nan", "1e9"])
def test_a_deadline_that_is_none_is_a_usage_error(timeout: str) -> None:
    for command in (["limit", "train", "1GiB"], ["pause", "train"]):
        assert main([*command, "--timeout", timeout], edges_of(two_jobs())) == 2


# ----------------------------------------------------------------------------------------------
# pause, resume, explain, events, policy, shutdown


def test_pause_tells_beforehand_how_long_it_takes_and_how_to_undo_it(capsys: Said) -> None:
    daemon = two_jobs()
    assert main(["pause", "train", "--timeout", "3"], edges_of(daemon)) == 0
    assert capsys.readouterr().out.splitlines() == [
        "pausing train: about 700 ms",
        "train is paused in 680 ms; `tide resume train` continues it",
    ]
    assert daemon.commands[0]["timeout_ms"] == 3000
    assert "deep" not in daemon.commands[0]
    assert main(["resume", "train"], edges_of(daemon)) == 0
    assert capsys.readouterr().out == "train goes on in 680 ms\n"


def test_the_limit_of_a_gpu_is_an_order_of_its_own(capsys: Said) -> None:
    daemon = two_jobs()
    daemon.answers["limit_device"] = {
        "ok": True,
        "data": {"job": "train", "took_ms": 40, "text": "limit of train; moved 2 GiB off"},
    }
    assert main(["limit", "train", "40GiB", "--device", "1"], edges_of(daemon)) == 0
    out = capsys.readouterr().out
    assert out == "limit of train on GPU 1 is 40 GiB in 40 ms: moved 2 GiB off\n"
    assert daemon.commands[0]["device"] == 1 and daemon.commands[0]["bytes"] == 40 << 30
    assert main(["limit", "train", "none", "--device", "0"], edges_of(daemon)) == 0
    assert daemon.commands[1]["bytes"] == 0
    assert main(["limit", "train", "60%", "--device", "0"], edges_of(daemon)) == 2
    assert "how large a GPU is" in capsys.readouterr().err
    assert main(["limit", "train", "1GiB", "--device", "-1"], edges_of(daemon)) == 2


def test_pausing_twice_is_no_error(capsys: Said) -> None:
    daemon = two_jobs()
    daemon.answers["pause"] = {"ok": True, "data": {"job": "train", "status": "already_paused"}}
    assert main(["pause", "train"], edges_of(daemon)) == 0
    assert "was paused already" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("code", "exit_code"),
    [("timeout", 7), ("failed", 1), ("unavailable", 1), ("not_permitted", 5), ("invalid", 2)],
)
def test_a_refused_pause_says_why_and_has_its_code(capsys: Said, code: str, exit_code: int) -> None:
    daemon = two_jobs()
    daemon.answers["pause"] = fake.error(code, "the job is deep in an op", "wait")
    assert main(["pause", "train", "--json"], edges_of(daemon)) == exit_code
    said = capsys.readouterr()
    assert said.err == "tide: tide pause train: the job is deep in an op\n  do: wait\n"
    assert json.loads(said.out)["exit_code"] == exit_code


def test_explain_prints_the_daemons_sentences(capsys: Said) -> None:
    daemon = two_jobs()
    data = {
        "job": "bert",
        "text": "bert waits: train holds lane 0 for 1.2 s more.",
        "ahead": ["train", "x"],
        "advice": ["tide limit train 1GiB"],
        "events": [event(1, 5, "bert", "bert joined lane 0")],
    }
    daemon.answers["explain"] = {"ok": True, "data": data}
    assert main(["explain", "bert"], edges_of(daemon)) == 0
    said = capsys.readouterr().out
    assert said.startswith(
        "bert waits: train holds lane 0 for 1.2 s more.\nahead of it: train, x\n"
    )
    assert "do: tide limit train 1GiB\n" in said and "bert joined lane 0" in said


def test_events_read_like_sentences_with_the_local_time(capsys: Said) -> None:
    daemon = two_jobs()
    daemon.events = [
        event(1, 7200, "train", "budget 6.0 -> 4.2 GiB: bert asked for 2.0 GiB"),
        event(2, 60, "bert", "bert joined lane 0"),
    ]
    assert main(["events"], edges_of(daemon)) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first.endswith("  train: budget 6.0 -> 4.2 GiB: bert asked for 2.0 GiB")
    assert second.endswith("  bert joined lane 0") and second[2] == ":"
    assert main(["events", "--since", "10m"], edges_of(daemon)) == 0
    assert len(capsys.readouterr().out.splitlines()) == 1
    assert main(["events", "--json", "-n", "1"], edges_of(daemon)) == 0
    assert [e["seq"] for e in json.loads(capsys.readouterr().out)["events"]] == [2]
    assert main(["events", "--since", "soon"], edges_of(daemon)) == 2


def test_following_events_ends_with_an_interrupt_and_without_an_error(capsys: Said) -> None:
    daemon = two_jobs()
    daemon.events = [event(1, 5, "train", "old")]
    daemon.followed = [dict(event(2, 0, "train", "new")), dict(event(3, 0, "bert", "other"))]
    assert main(["events", "-f", "--job", "train", "--json"], edges_of(daemon)) == 0
    assert [json.loads(x)["seq"] for x in capsys.readouterr().out.splitlines()] == [1, 2]


def test_policy_lists_lanes_and_sets_one(capsys: Said) -> None:
    daemon = two_jobs()
    assert main(["policy"], edges_of(daemon)) == 0
    said = capsys.readouterr().out
    assert "fair" in said and "train, bert" in said
    assert main(["policy", "3", "srtf"], edges_of(daemon)) == 0
    assert main(["policy", "rr"], edges_of(daemon)) == 0
    assert capsys.readouterr().out == "lane 3 goes by srtf\nlane 0 goes by rr\n"
    assert [(c["lane"], c["policy"]) for c in daemon.commands] == [(3, "srtf"), (0, "rr")]
    for words in (["0"], ["x", "fair"], ["0", "fair", "rr"]):
        assert main(["policy", *words], edges_of(daemon)) == 2
    daemon.answers["policy"] = fake.error("invalid", "there are fair, fifo", "tide policy fair")
    assert main(["policy", "0", "lottery"], edges_of(daemon)) == 2
    assert "tide policy 0 lottery: there are fair, fifo" in capsys.readouterr().err


def test_priority_is_the_daemons_to_judge(capsys: Said) -> None:
    daemon = two_jobs()
    assert main(["priority", "train", "guaranteed"], edges_of(daemon)) == 0
    assert capsys.readouterr().out == "priority of train is guaranteed\n"
    daemon.answers["priority"] = fake.error("invalid", "urgent is no priority", "normal")
    assert main(["priority", "train", "urgent"], edges_of(daemon)) == 2


def test_shutdown_says_that_jobs_train_on(capsys: Said) -> None:
    assert main(["shutdown"], edges_of(two_jobs())) == 0
    assert "train on" in capsys.readouterr().out


# ----------------------------------------------------------------------------------------------
# A daemon that fails in the middle


def failing(error: Exception) -> Callable[[str, float], FakeDaemon]:
    class Failing(FakeDaemon):
        def request(self, kind: str, body: bytes, timeout_s: float) -> tuple[str, bytes]:
            raise error

    return lambda path, timeout_s: Failing()


class ProtocolError(RuntimeError):
    """As the binding names it."""


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (ConnectionResetError("peer closed"), 4, "jobs train on with their last limits"),
        (PermissionError("socket of user 0"), 5, "tide doctor"),
        (TimeoutError("5 s"), 7, "did not answer in time"),
        (ProtocolError("version 2"), 1, "tide shutdown"),
    ],
)
def test_a_daemon_that_fails_in_the_middle_is_told_plainly(
    capsys: Said, error: Exception, code: int, said: str
) -> None:
    assert main(["explain", "train"], Edges(connect=failing(error))) == code
    assert said in capsys.readouterr().err


def test_an_answer_that_is_no_message_is_a_protocol_error(capsys: Said) -> None:
    class Garbled(FakeDaemon):
        def request(self, kind: str, body: bytes, timeout_s: float) -> tuple[str, bytes]:
            return "Answer", b"\xc1"

    assert main(["explain", "train"], Edges(connect=lambda path, timeout_s: Garbled())) == 1
    assert "unreadable" in capsys.readouterr().err


def test_a_wrong_command_says_what_there_is(capsys: Said) -> None:
    assert main(["pss"], edges_of(two_jobs())) == 2
    assert "ps" in capsys.readouterr().err


# ----------------------------------------------------------------------------------------------
# help


def test_each_help_page_ends_with_examples_that_the_command_line_understands(
    capsys: Said,
) -> None:
    import shlex

    from torchtide.cli import examples
    from torchtide.cli.app import app
    from typer.main import get_command

    group = get_command(app)
    names = {c.name or c.callback.__name__ for c in app.registered_commands if c.callback}
    assert set(examples.LINES) == names
    for name in sorted(names):
        assert main([name, "--help"], edges_of(two_jobs())) == 0
        shown = capsys.readouterr().out
        for line in examples.LINES[name]:
            assert f"  {line}\n" in shown
            words = shlex.split(line)
            assert words[:2] == ["tide", name]
            group.commands[name].make_context(name, words[2:])  # type: ignore[attr-defined]
