"""`tide run` up to the moment at which it becomes the command."""

import dataclasses
import errno
import json
import os
import pathlib
import signal
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NoReturn

import pytest
from torchtide import _launch, errors
from torchtide.cli import main
from torchtide.cli.edges import Edges


class Became(BaseException):
    """What `replace_process` would have turned into."""

    def __init__(self, path: str, argv: Sequence[str], environ: Mapping[str, str]) -> None:
        super().__init__(path)
        self.path, self.argv, self.environ = path, list(argv), dict(environ)


def become(path: str, argv: Sequence[str], environ: Mapping[str, str]) -> NoReturn:
    raise Became(path, argv, environ)


class Starter:
    """Stands in for the start of the daemon."""

    def __init__(self, error: errors.TideError | None = None) -> None:
        self.error, self.asked = error, 0

    def __call__(self, runtime_dir: pathlib.Path, **_: Any) -> _launch.Started:
        self.asked += 1
        if self.error:
            raise self.error
        return _launch.Started(runtime_dir / "tided.sock", started=True, took_s=0.02)


@pytest.fixture
def edges(tmp_path: pathlib.Path) -> Edges:
    environ = {"PATH": os.environ["PATH"], "HOME": str(tmp_path)}
    starter = Starter()
    return Edges(environ=environ, folder=tmp_path, replace_process=become, ensure_daemon=starter)


def with_environ(edges: Edges, **variables: str) -> Edges:
    return dataclasses.replace(edges, environ={**edges.environ, **variables})


def started(edges: Edges, *arguments: str) -> Became:
    with pytest.raises(Became) as caught:
        main(["run", *arguments], edges)
    return caught.value


def test_the_command_gets_the_variables_of_a_job(edges: Edges) -> None:
    became = started(
        edges, "--name", "exp 1", "--limit", "1.5GiB", "--min-memory", "512MiB", "--priority",
        "guaranteed", "--lane", "3", "--iterations", "500", "--", "python", "train.py", "--name",
        "not ours",
    )  # fmt: skip
    told = {key: value for key, value in became.environ.items() if key.startswith("TIDE_")}
    assert told == {
        "TIDE_RUN": "1",
        "TIDE_JOB_NAME": "exp 1",
        "TIDE_LIMIT": str(3 << 29),
        "TIDE_MIN_MEMORY": str(1 << 29),
        "TIDE_PRIORITY": "guaranteed",
        "TIDE_LANE": "3",
        "TIDE_JOB_ITERATIONS": "500",
    }
    assert became.environ["PYTHONPATH"] == str(_launch.INJECT_DIR)
    assert became.argv == ["python", "train.py", "--name", "not ours"]
    assert os.access(became.path, os.X_OK)


def test_the_users_python_path_follows_ours(edges: Edges) -> None:
    became = started(with_environ(edges, PYTHONPATH="/a:/b:"), "python", "train.py")
    assert became.environ["PYTHONPATH"] == f"{_launch.INJECT_DIR}:/a:/b:"
    again = started(dataclasses.replace(edges, environ=became.environ), "python", "train.py")
    assert again.environ["PYTHONPATH"] == became.environ["PYTHONPATH"]


def test_an_inner_run_wins_over_an_outer_one(edges: Edges) -> None:
    outer = started(
        edges, "--name", "outer", "--limit", "4GiB", "--lane", "1", "--", "bash", "run.sh"
    )
    inside = dataclasses.replace(edges, environ={**outer.environ, "TIDE_JOB_PID": "1:2:"})
    inner = started(inside, "--name", "inner", "--limit", "2GiB", "--", "python", "train.py")
    assert inner.environ["TIDE_JOB_NAME"] == "inner"
    assert inner.environ["TIDE_LIMIT"] == str(2 << 30)
    assert inner.environ["TIDE_LANE"] == "1"
    assert "TIDE_JOB_PID" not in inner.environ


def test_a_stated_outer_name_beats_a_derived_inner_one_and_a_derived_one_does_not(
    edges: Edges,
) -> None:
    stated = started(edges, "--name", "outer", "--", "bash", "run.sh")
    inside = dataclasses.replace(edges, environ=stated.environ)
    assert started(inside, "python", "train.py").environ["TIDE_JOB_NAME"] == "outer"
    derived = started(edges, "bash", "run.sh")
    assert derived.environ["TIDE_JOB_NAME"] == "run"
    inside = dataclasses.replace(edges, environ=derived.environ)
    assert started(inside, "python", "train.py").environ["TIDE_JOB_NAME"] == "train"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--limit", "5"], "did you forget the unit? 5GiB"),
        (["--limit", "0"], '"none" means no limit'),
        (["--limit", "much"], '"much"'),
        (["--limit", "-2GiB"], "negative"),
        (["--limit", "nan"], '"nan"'),
        (["--limit", "60%"], "percentage"),
        (["--limit", "1GiB", "--min-memory", "2GiB"], "raise --limit"),
        (["--min-memory", "2XB"], "XB"),
        (["--priority", "urgent"], "guaranteed, normal, opportunistic"),
        (["--lane", "16"], "0 to 15"),
        (["--iterations", "0"], "at least one iteration"),
        (["--name", " "], "letter"),
        (["--name", "a\nb"], "control"),
        (["--name", "n" * 64], "63 at most"),
        (["--nme", "x"], "No such option"),
    ],
)
def test_bad_options_fail_before_anything_starts(
    edges: Edges, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    assert main(["run", *arguments, "--", "python", "train.py"], edges) == 2
    assert said in capsys.readouterr().err
    assert isinstance(edges.ensure_daemon, Starter)
    assert edges.ensure_daemon.asked == 0


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("TIDE_LIMIT", "abc"),
        ("TIDE_PRIORITY", "urgent"),
        ("TIDE_LANE", "one"),
        ("TIDE_DAEMON", "no"),
    ],
)
def test_bad_variables_fail_like_bad_options(
    edges: Edges, capsys: pytest.CaptureFixture[str], variable: str, value: str
) -> None:
    assert main(["run", "python", "train.py"], with_environ(edges, **{variable: value})) == 2
    assert variable in capsys.readouterr().err


def test_no_command_is_a_usage_error(edges: Edges) -> None:
    assert main(["run"], edges) == 2
    assert main(["run", "--"], edges) == 2
    assert main(["run", "--", ""], edges) == 2


def test_an_isolated_python_is_refused_with_the_fix(
    edges: Edges, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", "--", "python", "-I", "train.py"], edges) == 2
    said = capsys.readouterr().err
    assert "tide run -- python -I train.py" in said
    assert "-s -P" in said


def test_a_command_that_is_not_there_ends_with_127(
    edges: Edges, capsys: pytest.CaptureFixture[str], tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    assert main(["run", "no-such-program-anywhere"], edges) == 127
    monkeypatch.chdir(tmp_path)
    (tmp_path / "train.py").write_text("")
    assert main(["run", "train.py"], edges) == 127
    assert "tide run -- python train.py" in capsys.readouterr().err
    assert main(["run", "./train.py"], edges) == 126
    assert "chmod +x" in capsys.readouterr().err


def test_a_script_without_a_first_line_is_given_to_the_shell(
    edges: Edges, tmp_path: pathlib.Path
) -> None:
    script = tmp_path / "run"
    script.write_text("exit 3\n")
    script.chmod(0o755)

    def refuse_then_become(path: str, argv: Sequence[str], environ: Mapping[str, str]) -> NoReturn:
        if path == str(script):
            raise OSError(errno.ENOEXEC, "Exec format error")
        raise Became(path, argv, environ)

    became = started(
        dataclasses.replace(edges, replace_process=refuse_then_become), str(script), "a"
    )
    assert (became.path, became.argv) == ("/bin/sh", ["sh", str(script), "a"])


def test_json_is_one_line_before_the_command_starts(
    edges: Edges, capsys: pytest.CaptureFixture[str]
) -> None:
    started(edges, "--json", "--limit", "2GiB", "python", "train.py")
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1
    told = json.loads(lines[0])
    assert (told["name"], told["limit"], told["command"]) == (
        "train",
        2 << 30,
        ["python", "train.py"],
    )
    assert told["daemon"]["state"] == "started"


def test_json_reports_an_error_as_one_object(
    edges: Edges, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", "--json", "--limit", "5", "--", "python", "train.py"], edges) == 2
    told = json.loads(capsys.readouterr().out)
    assert (told["ok"], told["exit_code"], told["error"]["kind"]) == (False, 2, "OptionError")
    assert told["error"]["asked"] == "--limit 5"


NO_DAEMON = errors.DaemonUnavailable("there is no program tided", asked="start", advice="build it")


def test_a_daemon_that_cannot_start_does_not_keep_the_command_from_running(
    edges: Edges, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = dataclasses.replace(edges, ensure_daemon=Starter(NO_DAEMON))
    started(broken, "python", "train.py")
    assert "runs without a daemon" in capsys.readouterr().err


def test_somebody_elses_runtime_directory_is_a_permission_error(edges: Edges) -> None:
    foreign = errors.NotPermitted("it belongs to user 0", advice="use your own")
    refused = dataclasses.replace(edges, ensure_daemon=Starter(foreign))
    assert main(["run", "python", "train.py"], refused) == 5


def test_the_option_daemon_decides_whether_one_is_started(
    edges: Edges, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = dataclasses.replace(edges, ensure_daemon=Starter(NO_DAEMON))
    monkeypatch.setenv("TIDE_DAEMON", "require")
    assert main(["run", "python", "train.py"], broken) == 4
    monkeypatch.setenv("TIDE_DAEMON", "off")
    started(broken, "python", "train.py")
    monkeypatch.delenv("TIDE_DAEMON")
    started(with_environ(broken, TIDE_DISABLE="1"), "python", "train.py")
    assert isinstance(broken.ensure_daemon, Starter)
    assert broken.ensure_daemon.asked == 1


# ------------------------------------------------------------------------------------------------
# Signals


@pytest.fixture
def dispositions() -> Iterator[None]:
    """What this process does on the words is as before afterwards."""
    words = (signal.SIGUSR1, signal.SIGUSR2, signal.SIGTSTP)
    before = {number: signal.getsignal(number) for number in words}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def test_signals_become_a_variable_of_the_job(edges: Edges, dispositions: None) -> None:
    became = started(
        edges, "--on-signal", "SIGUSR1=pause,usr2=resume", "--on-signal", "TERM=save", "--", "true"
    )
    assert became.environ["TIDE_ON_SIGNAL"] == "USR1=pause,USR2=resume,TERM=save"
    # Until the job is hooked the words do nothing; what ends a process otherwise still does.
    assert signal.getsignal(signal.SIGUSR1) == signal.SIG_IGN
    assert signal.getsignal(signal.SIGTERM) != signal.SIG_IGN


def test_without_signals_nothing_is_ignored(edges: Edges, dispositions: None) -> None:
    before = signal.getsignal(signal.SIGUSR1)
    assert "TIDE_ON_SIGNAL" not in started(edges, "--", "true").environ
    switched_off = with_environ(edges, TIDE_DISABLE="1")
    started(switched_off, "--on-signal", "USR1=pause", "--", "true")
    assert signal.getsignal(signal.SIGUSR1) == before


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--on-signal", "KILL=pause"], "KILL is not one of USR1"),
        (["--on-signal", "USR1"], '"" is not one of pause'),
        (["--on-signal", "USR1=stop"], '"stop" is not one of pause'),
        (["--on-signal", "=pause"], "an empty word is not one of"),
        (["--on-signal", ","], "it names no signal"),
        (["--on-signal", "USR1=pause,USR1=save"], "USR1 is to do two things"),
        (["--on-signal", "USR1=save", "--processes", "2"], "an elastic job cannot save"),
    ],
)
def test_signals_that_make_no_sense_are_refused(
    edges: Edges, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    assert main(["run", *arguments, "--", "true"], edges) == 2
    assert said in capsys.readouterr().err


def test_a_variable_of_the_users_own_is_checked_too(
    edges: Edges, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", "--", "true"], with_environ(edges, TIDE_ON_SIGNAL="USR1=what")) == 2
    assert 'TIDE_ON_SIGNAL=USR1=what: "what" is not one of' in capsys.readouterr().err
