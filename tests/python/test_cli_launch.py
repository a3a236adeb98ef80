"""Claiming a process, and starting the daemon on demand."""

import fcntl
import os
import pathlib
import signal
import socket
import subprocess
import sys
import textwrap
from collections.abc import Iterator

import cli_processes as processes
import pytest
from torchtide import _launch, errors
from torchtide.cli import elastic

OWN_START = _launch.process_start_time(os.getpid())

# A daemon as far as its start goes: takes the lock, leaves a child that listens, and returns.
DAEMON = """\
    #!{python}
    import fcntl, os, socket, sys
    folder = sys.argv[2]
    lock = open(folder + "/lock", "w")
    fcntl.flock(lock, fcntl.LOCK_EX)
    server = socket.socket(socket.AF_UNIX)
    try:
        server.bind(folder + "/tided.sock")
    except OSError:
        sys.exit(0)  # another one serves
    server.listen()
    if os.fork() > 0:
        os._exit(0)
    os.setsid()
    os.dup2(os.open("/dev/null", os.O_RDWR), 2)
    with open(folder + "/pids", "a") as file:
        file.write("%d\\n" % os.getpid())
    with open(folder + "/environ", "w") as file:
        file.write("\\n".join(os.environ))
    lock.close()
    while True:
        server.accept()
"""


@pytest.fixture
def folder() -> Iterator[pathlib.Path]:
    """A runtime directory with a path short enough for a socket; its daemon is ended afterwards."""
    path = pathlib.Path(f"/tmp/tide-launch-{os.getpid()}")
    yield path
    if path.exists():
        for line in (path / "pids").read_text().splitlines() if (path / "pids").exists() else []:
            try:
                os.kill(int(line.split()[0]), signal.SIGKILL)
            except ProcessLookupError:
                pass
        for entry in path.iterdir():
            entry.unlink()
        path.rmdir()


def program(tmp_path: pathlib.Path, text: str) -> pathlib.Path:
    path = tmp_path / "tided"
    path.write_text(textwrap.dedent(text).format(python=sys.executable))
    path.chmod(0o755)
    return path


def served(folder: pathlib.Path) -> list[str]:
    """The daemons of a folder, once the newest has left its traces there."""
    with (folder / "lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
    return (folder / "pids").read_text().splitlines()


def test_a_daemon_is_started_as_nobodys_child(folder: pathlib.Path, tmp_path: pathlib.Path) -> None:
    environ = {**os.environ, "TIDE_JOB_NAME": "x", "TIDE_LIMIT": "1", "TIDE_CAPACITY": "8GiB"}
    started = _launch.ensure_daemon(folder, program=program(tmp_path, DAEMON), environ=environ)
    assert started.started
    assert folder.stat().st_mode & 0o777 == 0o700
    (pid,) = served(folder)
    parent = pathlib.Path(f"/proc/{pid}/stat").read_text().split()[3]
    assert int(parent) != os.getpid()
    told = (folder / "environ").read_text().split()
    assert "TIDE_CAPACITY" in told
    assert not {"TIDE_JOB_NAME", "TIDE_LIMIT"} & set(told)
    assert not _launch.ensure_daemon(folder, program=tmp_path / "none").started


def test_a_daemon_that_answers_is_left_alone(folder: pathlib.Path, tmp_path: pathlib.Path) -> None:
    folder.mkdir(mode=0o700)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(folder / "tided.sock"))
        server.listen()
        started = _launch.ensure_daemon(folder, program=tmp_path / "none")
    assert not started.started


def test_a_daemon_that_comes_second_says_that_its_options_change_nothing(
    folder: pathlib.Path,
) -> None:
    folder.mkdir(mode=0o700)
    with socket.socket(socket.AF_UNIX) as server, (folder / "tided.lock").open("w") as lock:
        server.bind(str(folder / "tided.sock"))
        server.listen()
        fcntl.flock(lock, fcntl.LOCK_EX)
        for options, said in (["--http", "127.0.0.1:0"], "change nothing"), ([], ""):
            command = [str(_launch.DAEMON_PROGRAM), "--runtime-dir", str(folder), *options]
            second = subprocess.run(
                command, capture_output=True, text=True, timeout=60, check=False
            )
            assert second.returncode == 0
            assert said in second.stderr and bool(said) == bool(second.stderr)


def test_a_socket_that_a_killed_daemon_left_behind_is_no_daemon(
    folder: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    folder.mkdir(mode=0o700)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(folder / "tided.sock"))
    assert not _launch.daemon_answers(folder / "tided.sock")


def test_a_daemon_that_cannot_serve_is_told_in_its_own_words(
    folder: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    broken = program(tmp_path, "#!/bin/sh\necho 'tided: the disk is on fire' >&2\nexit 1\n")
    with pytest.raises(errors.DaemonUnavailable, match="start the daemon: the disk is on fire"):
        _launch.ensure_daemon(folder, program=broken)
    silent = program(tmp_path, "#!/bin/sh\nexit 3\n")
    with pytest.raises(errors.DaemonUnavailable, match="exit code 3"):
        _launch.ensure_daemon(folder, program=silent)
    gone = program(tmp_path, "#!/bin/sh\nexit 0\n")
    with pytest.raises(errors.DaemonUnavailable, match="ended as soon"):
        _launch.ensure_daemon(folder, program=gone)


def test_a_daemon_that_is_never_ready_is_given_up_at_the_deadline(
    folder: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    mute = program(tmp_path, "#!/bin/sh\nexec tail -f /dev/null\n")
    with pytest.raises(errors.DaemonUnavailable, match=r"not ready in 0\.2 s"):
        _launch.ensure_daemon(folder, program=mute, deadline_s=0.2)


def test_a_program_for_another_machine_is_told(
    folder: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    with pytest.raises(errors.DaemonUnavailable, match="cannot be executed"):
        _launch.ensure_daemon(folder, program=program(tmp_path, "\x00\x01"))


def test_callers_at_the_same_time_end_up_with_one_daemon(
    folder: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    code = (
        "import pathlib, sys; from torchtide import _launch; "
        "_launch.ensure_daemon(pathlib.Path(sys.argv[1]), program=pathlib.Path(sys.argv[2]))"
    )
    arguments = [sys.executable, "-c", code, str(folder), str(program(tmp_path, DAEMON))]
    environ = processes.environment(tmp_path)
    callers = [subprocess.Popen(arguments, env=environ) for _ in range(4)]
    assert [caller.wait(60) for caller in callers] == [0, 0, 0, 0]
    assert len(served(folder)) == 1


def test_a_missing_program_is_told_with_the_fix(folder: pathlib.Path) -> None:
    with pytest.raises(errors.DaemonUnavailable, match=r"no program .*; build it"):
        _launch.ensure_daemon(folder, program=pathlib.Path("/nowhere/tided"))


def test_a_runtime_directory_that_others_may_enter_is_refused(folder: pathlib.Path) -> None:
    folder.mkdir()
    folder.chmod(0o755)
    with pytest.raises(errors.NotPermitted, match="chmod 700"):
        _launch.prepare_runtime_dir(folder)


def test_a_link_in_place_of_the_runtime_directory_is_refused(
    tmp_path: pathlib.Path,
) -> None:
    (tmp_path / "real").mkdir(mode=0o700)
    (tmp_path / "link").symlink_to(tmp_path / "real")
    with pytest.raises(errors.NotPermitted, match="link"):
        _launch.prepare_runtime_dir(tmp_path / "link")
    (tmp_path / "file").write_text("")
    with pytest.raises(errors.NotPermitted, match="not a folder"):
        _launch.prepare_runtime_dir(tmp_path / "file")


@pytest.mark.skipif(os.geteuid() != 0, reason="needs to give a folder to somebody else")
def test_another_users_runtime_directory_is_refused(tmp_path: pathlib.Path) -> None:
    tmp_path.chmod(0o700)
    os.chown(tmp_path, 12345, 12345)
    with pytest.raises(errors.NotPermitted, match="belongs to user 12345"):
        _launch.prepare_runtime_dir(tmp_path)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs to become somebody else")
def test_another_users_socket_is_a_permission_error(folder: pathlib.Path) -> None:
    folder.mkdir(mode=0o700)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(folder / "tided.sock"))
        server.listen()
        child = os.fork()
        if child == 0:
            os.setuid(12345)
            try:
                _launch.daemon_answers(folder / "tided.sock")
            except errors.NotPermitted:
                os._exit(7)
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7


def test_a_path_that_no_socket_address_holds_is_an_option_error(tmp_path: pathlib.Path) -> None:
    with pytest.raises(errors.OptionError, match="107"):
        _launch.ensure_daemon(tmp_path / ("d" * 120))


# ----------------------------------------------------------------------------------------------
# Claims


def test_the_first_process_claims_and_claiming_again_changes_nothing() -> None:
    environ = {"TIDE_JOB_NAME": "x"}
    assert _launch.claim_process(environ)
    claimed = dict(environ)
    assert claimed["TIDE_JOB_PID"] == f"{os.getpid()}:{OWN_START}:"
    assert _launch.claim_process(environ)
    assert environ == claimed


def test_a_child_of_a_living_job_passes_through() -> None:
    parent = os.getppid()
    claim = f"{parent}:{_launch.process_start_time(parent)}:"
    environ = {"TIDE_JOB_PID": claim}
    assert not _launch.claim_process(environ)
    assert environ["TIDE_JOB_PID"] == claim


@pytest.mark.parametrize("claim", ["1:1:", f"{os.getppid()}:5:", "rubbish", "999999999:1:"])
def test_a_claim_of_a_process_that_is_gone_does_not_count(claim: str) -> None:
    assert _launch.claim_process({"TIDE_JOB_PID": claim})


def test_ranks_are_jobs_of_their_own_and_their_workers_are_not() -> None:
    parent = os.getppid()
    start = _launch.process_start_time(parent)
    environ = {
        "TIDE_JOB_PID": f"{parent}:{start}:",
        "RANK": "1",
        "WORLD_SIZE": "2",
        "TIDE_JOB_NAME": "x",
    }
    assert _launch.claim_process(environ)
    assert environ["TIDE_JOB_NAME"] == "x[1]"
    assert environ["TIDE_GANG"] == f"{_launch.gang_key({})}:1:2" and "TIDE_LANE" not in environ
    worker = {**environ, "TIDE_JOB_PID": f"{parent}:{start}:1"}
    assert not _launch.claim_process(worker)


def test_one_rank_alone_keeps_the_plain_name_and_its_lane() -> None:
    environ = {"RANK": "0", "WORLD_SIZE": "1", "TIDE_JOB_NAME": "x", "TIDE_LANE": "2"}
    assert _launch.claim_process(environ)
    assert (environ["TIDE_JOB_NAME"], environ["TIDE_LANE"]) == ("x", "2")
    assert "TIDE_GANG" not in environ
    assert _launch.rank_name("x", {"RANK": "11", "WORLD_SIZE": "16"}) == "x[11]"
    assert _launch.rank_name("x[3]", {"RANK": "3", "WORLD_SIZE": "8"}) == "x[3]"
    assert _launch.rank_name("", {"RANK": "3", "WORLD_SIZE": "8"}) == ""


@pytest.mark.parametrize(
    ("argv", "launcher"),
    [
        (["python", "/venv/bin/torchrun", "--nproc-per-node", "2", "x.py"], True),
        (["python", "-u", "-m", "torch.distributed.run", "x.py"], True),
        (["python", "-um", "torch.distributed.run", "x.py"], True),
        (["python", "-W", "ignore", "/bin/accelerate", "launch", "x.py"], True),
        (["python", "x.py", "torchrun"], False),
        (["python", "-m", "x"], False),
        (["python", "-c", "import torch"], False),
        (["python"], False),
    ],
)
def test_launchers_of_ranks_are_no_jobs(argv: list[str], launcher: bool) -> None:
    assert _launch.is_launcher(argv) == launcher


def test_a_process_that_is_gone_has_no_start_time() -> None:
    child = subprocess.Popen(["true"])
    child.wait()
    assert _launch.process_start_time(child.pid) == 0
    assert OWN_START > 0


def test_a_spawned_rank_takes_the_job_over_from_its_parent_and_its_workers_pass_through() -> None:
    claimed = {_launch.CLAIM_VARIABLE: "", "TIDE_JOB_NAME": "train"}
    _launch.claim_as_rank(1, 4, claimed)
    assert claimed["TIDE_JOB_NAME"] == "train[1]" and "TIDE_LANE" not in claimed
    key = _launch.gang_key({}, f"{os.getppid()}:{_launch.process_start_time(os.getppid())}")
    assert claimed["TIDE_GANG"] == f"{key}:1:4"
    child = "import os; from torchtide import _launch; print(_launch.claim_process())"
    environ = {**os.environ, **claimed, "PYTHONPATH": str(processes.SOURCE)}
    said = subprocess.run(
        [sys.executable, "-c", child], env=environ, capture_output=True, text=True, check=True
    )
    assert said.stdout == "False\n"


def test_one_spawned_process_alone_keeps_its_name_and_lane() -> None:
    claimed = {"TIDE_JOB_NAME": "train"}
    _launch.claim_as_rank(0, 1, claimed)
    assert claimed["TIDE_JOB_NAME"] == "train" and "TIDE_LANE" not in claimed


@pytest.mark.parametrize(
    "given",
    [
        {"RANK": "1", "WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "2"},
        {"RANK": "1", "WORLD_SIZE": "65", "LOCAL_WORLD_SIZE": "65"},
    ],
)
def test_ranks_that_cannot_be_a_gang_take_no_turns(given: dict[str, str]) -> None:
    environ = {**given, "TIDE_GANG": "5:0:2"}
    assert _launch.gang_of_rank(environ, given) is None
    assert _launch.claim_process(environ)
    assert environ["TIDE_LANE"] == "-1" and "TIDE_GANG" not in environ


def test_ranks_of_one_job_have_one_gang_and_those_of_another_have_another() -> None:
    first = {"TORCHELASTIC_RUN_ID": "a", "MASTER_ADDR": "localhost", "MASTER_PORT": "29400"}
    keys = {
        _launch.gang_key({**first, "RANK": "0"}),
        _launch.gang_key({**first, "MASTER_PORT": "29401"}),
        _launch.gang_key({**first, "TORCHELASTIC_RESTART_COUNT": "1"}),
        _launch.gang_key(first, "5:6"),
        _launch.gang_key({}),
    }
    assert len(keys) == 5 and min(keys) > 0 and max(keys) < 1 << 63
    assert _launch.gang_key({**first, "RANK": "1"}) in keys


@pytest.mark.parametrize("text", ["", "1", "1:2", "a:0:1", "1:2:3:4"])
def test_rubbish_names_no_gang(text: str) -> None:
    assert _launch.gang_of({"TIDE_GANG": text}) is None
    assert _launch.gang_of({"TIDE_GANG": "9:1:2"}) == (9, 1, 2)


def test_what_multiprocessing_has_spawned_is_known_by_its_command_line() -> None:
    assert _launch.is_spawned(
        ["python", "-c", "from m import spawn_main", "--multiprocessing-fork"]
    )
    assert not _launch.is_spawned(["python", "train.py"])


@pytest.mark.parametrize("finished", [True, False])
def test_a_size_that_is_refused_is_no_trouble_when_the_training_has_just_ended(
    finished: bool,
) -> None:
    class Group:
        def resize(self, wanted: int) -> None:
            raise RuntimeError("the training is over")

        def report(self) -> dict[str, bool]:
            return {"finished": finished}

    launcher = elastic.Launcher("true", ["true"], {}, "job", 0, Group())
    if finished:
        launcher._resize(1)
    else:
        with pytest.raises(RuntimeError):
            launcher._resize(1)
