"""Claiming a process, and starting the daemon on demand."""

import os
import pathlib
import signal
import socket
import subprocess
import sys
import textwrap
from collections.abc import Iterator

import pytest
from torchtide import _launch, errors

OWN_START = _launch.process_start_time(os.getpid())

# A daemon as far as its start goes: takes the lock, says where it is, listens.
DAEMON = """\
    #!{python}
    import fcntl, os, socket, sys
    folder = sys.argv[2]
    lock = open(folder + "/lock", "w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        sys.exit("another one has the lock")
    with open(folder + "/pids", "a") as file:
        file.write("%d %d %d\\n" % (os.getpid(), os.getppid(), os.getsid(0)))
    with open(folder + "/environ", "w") as file:
        file.write("\\n".join(os.environ))
    server = socket.socket(socket.AF_UNIX)
    server.bind(folder + "/tided.sock")
    server.listen()
    server.accept()  # the probe of the one who waits
    server.accept()  # the test: end
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


def test_a_daemon_is_started_detached_and_waited_for(
    folder: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    environ = {**os.environ, "TIDE_JOB_NAME": "x", "TIDE_LIMIT": "1", "TIDE_CAPACITY": "8GiB"}
    started = _launch.ensure_daemon(folder, program=program(tmp_path, DAEMON), environ=environ)
    assert started.started
    assert folder.stat().st_mode & 0o777 == 0o700
    pid, parent, session = map(int, (folder / "pids").read_text().split())
    assert parent != os.getpid()
    assert session not in (os.getsid(0), pid)
    told = (folder / "environ").read_text().split()
    assert "TIDE_CAPACITY" in told
    assert not {"TIDE_JOB_NAME", "TIDE_LIMIT"} & set(told)


def test_a_daemon_that_answers_is_left_alone(folder: pathlib.Path, tmp_path: pathlib.Path) -> None:
    folder.mkdir(mode=0o700)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(folder / "tided.sock"))
        server.listen()
        started = _launch.ensure_daemon(folder, program=tmp_path / "none")
    assert not started.started


def test_a_socket_that_a_killed_daemon_left_behind_is_no_daemon(
    folder: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    folder.mkdir(mode=0o700)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(folder / "tided.sock"))
    assert not _launch.daemon_answers(folder / "tided.sock")


def test_a_daemon_that_ends_at_once_is_told_with_its_last_words(
    folder: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_launch, "RACE_DEADLINE_S", 0.05)
    broken = program(tmp_path, "#!/bin/sh\necho disk on fire >&2\nexit 1\n")
    with pytest.raises(errors.DaemonUnavailable, match=r"ended at once.*disk on fire"):
        _launch.ensure_daemon(folder, program=broken)


def test_a_daemon_that_does_not_answer_is_given_up_at_the_deadline(
    folder: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    mute = program(tmp_path, '#!/bin/sh\necho "$$ 0 0" >> "$2/pids"\nexec tail -f /dev/null\n')
    with pytest.raises(errors.DaemonUnavailable, match="does not answer"):
        _launch.ensure_daemon(folder, program=mute, deadline_s=0.2)


def test_two_callers_at_once_end_up_with_one_daemon(
    folder: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    code = (
        "import pathlib, sys; from torchtide import _launch; "
        "_launch.ensure_daemon(pathlib.Path(sys.argv[1]), program=pathlib.Path(sys.argv[2]))"
    )
    lasting = program(tmp_path, DAEMON + "    while True: server.accept()\n")
    source = str(_launch.INJECT_DIR.parent.parent)
    callers = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(folder), str(lasting)],
            env={**os.environ, "PYTHONPATH": source},
        )
        for _ in range(4)
    ]
    assert [caller.wait(60) for caller in callers] == [0, 0, 0, 0]
    assert len((folder / "pids").read_text().splitlines()) == 1


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
    worker = {**environ, "TIDE_JOB_PID": f"{parent}:{start}:1"}
    assert not _launch.claim_process(worker)


def test_one_rank_alone_keeps_the_plain_name() -> None:
    assert _launch.rank_name("x", {"RANK": "0", "WORLD_SIZE": "1"}) == "x"
    assert _launch.rank_name("x", {"LOCAL_RANK": "3", "WORLD_SIZE": "8"}) == "x[3]"
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
