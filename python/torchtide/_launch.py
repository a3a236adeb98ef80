"""How a process becomes a job and finds its daemon: the claim, and `tided` started on demand.

Used by `tide run` and by the job itself, so it imports neither torch nor the command line.
"""

from __future__ import annotations

import hashlib
import os
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from torchtide.errors import DaemonUnavailable, NotPermitted, OptionError

#: Folder that `tide run` puts in front of PYTHONPATH.
INJECT_DIR: Final = Path(__file__).resolve().parent / "_inject"
#: The daemon that comes with this package.
DAEMON_PROGRAM: Final = Path(__file__).resolve().parent / "bin" / "tided"
#: Name of the daemon's socket in the runtime directory.
SOCKET_NAME: Final = "tided.sock"
#: Where the daemon logs, in the runtime directory.
LOG_NAME: Final = "tided.log"
#: A Unix socket address holds 108 bytes with its terminating zero.
SOCKET_PATH_BYTES_MAX: Final = 107
#: The daemon serves after about 20 ms; it gives a dying one 5 s to make room and then says so.
START_DEADLINE_S: Final = 10.0

#: Variables that belong to one job and must not reach a daemon or a job of its own name.
JOB_VARIABLES: Final = (
    "TIDE_RUN",
    "TIDE_JOB_NAME",
    "TIDE_JOB_NAME_DERIVED",
    "TIDE_JOB_ID",
    "TIDE_JOB_PID",
    "TIDE_LIMIT",
    "TIDE_MIN_MEMORY",
    "TIDE_PRIORITY",
    "TIDE_LANE",
    "TIDE_ELASTIC_FD",
    "TIDE_GANG",
    "TIDE_ON_SIGNAL",
)
CLAIM_VARIABLE: Final = "TIDE_JOB_PID"
#: Value of TIDE_LANE for a process that takes no turns.
NO_LANE: Final = "-1"
#: "KEY:RANK:SIZE" of a process that has turns with others of its job; key 0: not known yet.
GANG_VARIABLE: Final = "TIDE_GANG"
#: Of a process whose gang is not known yet.
GANG_TO_COME: Final = "0:0:1"
#: Most processes of a gang, as `lane::kGangMax`.
GANG_MAX: Final = 64

#: Programs and modules that start ranks and train nothing themselves.
LAUNCHERS: Final = frozenset({"torchrun", "accelerate", "deepspeed", "composer", "horovodrun"})
LAUNCHER_MODULES: Final = frozenset(
    {
        "torch.distributed.run",
        "torch.distributed.launch",
        "torch.distributed.launcher",
        "accelerate.commands.launch",
        "accelerate.commands.accelerate_cli",
        "deepspeed.launcher.runner",
        "deepspeed.launcher.launch",
    }
)


# ------------------------------------------------------------------------------------------------
# Which processes are jobs


def claim_process(environ: MutableMapping[str, str] | None = None) -> bool:
    """Makes this process the job of its family, unless a living ancestor already is.

    The claim is left in the environment as "PID:START:RANK", so that what this process starts
    (spawned workers of a data loader, helpers) passes through without becoming a job. A rank of
    torchrun is a job: its RANK differs from the one in the claim. A launcher of ranks is none.

    Args:
        environ: The environment to read and mark; `os.environ` by default.

    Returns:
        True when this process is a job; calling again gives the same answer.
    """
    environ = os.environ if environ is None else environ
    pid, start = os.getpid(), process_start_time(os.getpid())
    rank = environ.get("RANK", "")
    own = f"{pid}:{start}:{rank}"
    claim = environ.get(CLAIM_VARIABLE, "")
    if claim == own:
        return True
    if is_launcher(getattr(sys, "orig_argv", sys.argv)):
        return False
    if claim and _claim_holds(claim, pid, start, rank):
        return False
    environ[CLAIM_VARIABLE] = own
    environ["TIDE_JOB_NAME"] = rank_name(environ.get("TIDE_JOB_NAME", ""), environ)
    _note_gang(environ, environ, "")
    return True


def is_spawned(argv: Sequence[str]) -> bool:
    """True for a process that multiprocessing has spawned: a rank, a loader's worker, a helper.

    Args:
        argv: The whole command line with the interpreter in front, as `sys.orig_argv`.
    """
    return "--multiprocessing-fork" in argv


def claim_as_rank(rank: int, world_size: int, environ: MutableMapping[str, str]) -> None:
    """Makes this spawned process a job of its own, as a rank of torchrun is one.

    Args:
        rank: What it has told to `init_process_group`; its environment need not have it.
        world_size: As told there.
        environ: The environment to mark.
    """
    given = {"RANK": str(rank), "WORLD_SIZE": str(world_size)}
    environ["TIDE_JOB_NAME"] = rank_name(environ.get("TIDE_JOB_NAME", ""), given)
    parent = os.getppid()
    _note_gang(environ, given, f"{parent}:{process_start_time(parent)}")
    # With the RANK of the environment: what this process spawns in turn has the same one.
    own = f"{os.getpid()}:{process_start_time(os.getpid())}:{environ.get('RANK', '')}"
    environ[CLAIM_VARIABLE] = own


def _claim_holds(claim: str, pid: int, start: int, rank: str) -> bool:
    """True when another living process of the same rank made the claim."""
    try:
        claim_pid, claim_start, claim_rank = claim.split(":", 2)
        holder = int(claim_pid), int(claim_start)
    except ValueError:
        return False
    if holder == (pid, start) or claim_rank != rank:
        return False
    return process_start_time(holder[0]) == holder[1]


def _note_gang(environ: MutableMapping[str, str], given: Mapping[str, str], parent: str) -> None:
    """Leaves in the environment of this process which gang it belongs to, if to any."""
    if not has_peers(given):
        environ.pop(GANG_VARIABLE, None)
        return
    gang = gang_of_rank(environ, given, parent)
    if gang is None:
        environ["TIDE_LANE"] = NO_LANE
        environ.pop(GANG_VARIABLE, None)
        return
    environ[GANG_VARIABLE] = ":".join(map(str, gang))


def gang_of_rank(
    environ: Mapping[str, str], given: Mapping[str, str], parent: str = ""
) -> tuple[int, int, int] | None:
    """Key, rank and size of the gang that a rank of several belongs to.

    Args:
        environ: Environment of the process.
        given: RANK, WORLD_SIZE and perhaps LOCAL_WORLD_SIZE.
        parent: As for `gang_key`.

    Returns:
        None where it can have none: ranks on other machines cannot be asked to stop.
    """
    rank, size = int(given["RANK"]), int(given["WORLD_SIZE"])
    if size > GANG_MAX or given.get("LOCAL_WORLD_SIZE", str(size)) != str(size):
        return None
    return gang_key(environ, parent), rank, size


def gang_key(environ: Mapping[str, str], parent: str = "") -> int:
    """What the ranks of one job on this machine have in common, and no other job's have.

    Args:
        environ: Environment that a launcher prepared. Two jobs of one machine differ in the port
            where their ranks meet; a job that torchrun starts anew in the count of its restarts.
        parent: Names the parent of spawned ranks, which may meet in a file.

    Returns:
        A number of 63 bits that is not 0.
    """
    names = ("TORCHELASTIC_RUN_ID", "TORCHELASTIC_RESTART_COUNT", "MASTER_ADDR", "MASTER_PORT")
    if not parent and not environ.get("MASTER_PORT"):
        parent = f"{os.getppid()}:{process_start_time(os.getppid())}"
    return short_hash(parent, *(environ.get(name, "") for name in names))


def short_hash(*words: str) -> int:
    """63 bits of the words, never 0."""
    found = hashlib.sha256("\0".join(words).encode(errors="replace")).digest()
    return int.from_bytes(found[:8], "little") >> 1 or 1


def gang_of(environ: Mapping[str, str]) -> tuple[int, int, int] | None:
    """Key, rank and size of the gang that the environment names; None for a process of none."""
    try:
        key, rank, size = map(int, environ.get(GANG_VARIABLE, "").split(":"))
    except ValueError:
        return None
    return key, rank, size


def has_peers(environ: Mapping[str, str]) -> bool:
    """True for a rank of several, which must not take turns by itself.

    A rank that holds the turn waits inside a collective for one that waits for the turn: for ever.
    """
    world = environ.get("WORLD_SIZE", "")
    rank = environ.get("RANK", "")
    return rank.isdigit() and world.isdigit() and int(rank) < int(world) > 1


def rank_name(name: str, environ: Mapping[str, str]) -> str:
    """The name of one rank of a multi-process job: "train[1]"; plain when there is one process.

    Args:
        name: Name of the whole job; empty stays empty.
        environ: Environment that a launcher such as torchrun prepared (RANK, WORLD_SIZE).
    """
    rank = environ.get("RANK", "")
    if not name or not has_peers(environ) or not rank.isdigit() or name.endswith(f"[{rank}]"):
        return name
    return f"{name}[{rank}]"


def is_launcher(argv: Sequence[str]) -> bool:
    """True for the command line of a program that starts ranks and trains nothing itself.

    Args:
        argv: The whole command line with the interpreter in front, as `sys.orig_argv`.
    """
    rest = list(argv[1:])
    while rest and rest[0].startswith("-"):
        flag = rest.pop(0)
        if flag.endswith("m") and not flag.startswith("--"):
            return bool(rest) and rest[0] in LAUNCHER_MODULES
        if flag in ("-W", "-X") and rest:
            rest.pop(0)
    return bool(rest) and Path(rest[0]).name in LAUNCHERS


def process_start_time(pid: int) -> int:
    """Start of a process in clock ticks since boot, which makes a pid unique; 0 if it is gone."""
    try:
        text = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return 0
    fields = text[text.rfind(b")") + 2 :].split()
    return 0 if fields[:1] == [b"Z"] else int(fields[19])


# ------------------------------------------------------------------------------------------------
# The daemon, started on demand


@dataclass(frozen=True)
class Started:
    """What `ensure_daemon` found or did."""

    socket_path: Path
    started: bool
    took_s: float


def socket_path(runtime_dir: Path) -> Path:
    """Where the daemon of a runtime directory listens.

    Raises:
        OptionError: The path does not fit into a socket address.
    """
    path = runtime_dir / SOCKET_NAME
    length = len(os.fsencode(path))
    if length > SOCKET_PATH_BYTES_MAX:
        raise OptionError(
            f"the socket's path has {length} bytes, a Unix socket takes {SOCKET_PATH_BYTES_MAX}",
            asked=f"runtime directory {runtime_dir}",
            advice="choose a shorter one: TIDE_RUNTIME_DIR=/tmp/tide",
        )
    return path


def daemon_answers(path: Path) -> bool:
    """True when something listens on the socket.

    Raises:
        NotPermitted: The socket belongs to another user.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(os.fspath(path))
        except BlockingIOError:
            return True  # its queue of connections is full: it is there, and busy
        except (FileNotFoundError, NotADirectoryError, ConnectionRefusedError):
            return False
        except PermissionError as error:
            raise foreign_folder(path.parent, "the socket does not let you in") from error
        return True


def prepare_runtime_dir(path: Path) -> None:
    """Makes the runtime directory, or checks that the one that is there is the user's alone.

    Raises:
        NotPermitted: It belongs to somebody else, is a link, or others may enter it.
        DaemonUnavailable: It cannot be made.
    """
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = path.lstat()
    except FileExistsError as error:
        raise foreign_folder(path, "there is something that is not a folder") from error
    except PermissionError as error:
        raise foreign_folder(path, "you may not make or enter this folder") from error
    except OSError as error:
        raise DaemonUnavailable(
            f"the folder cannot be made: {error.strerror}",
            asked=f"runtime directory {path}",
            advice="name one that can: TIDE_RUNTIME_DIR=/tmp/tide",
        ) from error
    if not stat.S_ISDIR(found.st_mode):
        raise foreign_folder(path, "it is a link, which somebody else may have put there")
    if found.st_uid != os.geteuid():
        raise foreign_folder(
            path, f"it belongs to user {found.st_uid}, you are user {os.geteuid()}"
        )
    if found.st_mode & 0o077:
        raise NotPermitted(
            f"others may enter it (mode {stat.S_IMODE(found.st_mode):04o})",
            asked=f"runtime directory {path}",
            advice=f"close it: chmod 700 {path}",
        )


def foreign_folder(path: Path, why: str) -> NotPermitted:
    """The error for a runtime directory or socket that is not the user's, not raised."""
    return NotPermitted(
        why,
        asked=f"runtime directory {path}",
        advice="use one of your own: TIDE_RUNTIME_DIR=$HOME/.torchtide",
    )


def ensure_daemon(
    runtime_dir: Path,
    *,
    environ: Mapping[str, str] | None = None,
    program: Path = DAEMON_PROGRAM,
    deadline_s: float = START_DEADLINE_S,
    answers: Callable[[Path], bool] = daemon_answers,
) -> Started:
    """Starts the daemon of a runtime directory when none answers, and waits until it does.

    Two callers at once may both start one; the daemon's own lock lets one of them live. The program
    returns when the daemon serves, so nothing is polled here.

    Args:
        runtime_dir: Folder of the socket; made with mode 0700 if missing.
        environ: Environment of the new daemon, without what belongs to one job.
        program: The daemon.
        deadline_s: How long the start may take.
        answers: Says whether a daemon listens on a path.

    Raises:
        DaemonUnavailable: It cannot be started, or did not answer in time.
        NotPermitted: The folder or the socket is somebody else's.
        OptionError: The path is too long for a socket.
    """
    begin = time.monotonic()
    path = socket_path(runtime_dir)
    if answers(path):
        return Started(path, started=False, took_s=time.monotonic() - begin)
    prepare_runtime_dir(runtime_dir)
    if not os.access(program, os.X_OK):
        raise DaemonUnavailable(
            f"there is no program {program}",
            asked="start the daemon",
            advice="build it (./scripts/setup) or install the wheel again: pip install torchtide",
        )
    _run_daemon(program, runtime_dir, os.environ if environ is None else environ, deadline_s)
    if not answers(path):
        raise _not_started(runtime_dir, "it ended as soon as it was there")
    return Started(path, started=True, took_s=time.monotonic() - begin)


def _run_daemon(
    program: Path, runtime_dir: Path, environ: Mapping[str, str], deadline_s: float
) -> None:
    """Runs the program that leaves the daemon behind as nobody's child; returns when it serves."""
    clean = {key: value for key, value in environ.items() if key not in JOB_VARIABLES}
    try:
        ended = subprocess.run(
            [os.fspath(program), "--runtime-dir", os.fspath(runtime_dir.absolute())],
            env=clean,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            timeout=deadline_s,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise _not_started(runtime_dir, f"it was not ready in {deadline_s:g} s") from error
    except OSError as error:
        raise _not_started(runtime_dir, f"it cannot be executed: {error.strerror}") from error
    if ended.returncode != 0:
        words = ended.stderr.decode(errors="replace").strip().splitlines()
        said = words[-1] if words else f"exit code {ended.returncode}"
        raise _not_started(runtime_dir, said.removeprefix("tided: "))


def _not_started(runtime_dir: Path, why: str) -> DaemonUnavailable:
    log = runtime_dir / LOG_NAME
    return DaemonUnavailable(
        why,
        asked="start the daemon",
        advice=f"read {log} and run `tide doctor`; TIDE_DAEMON=off runs jobs without a daemon",
    )
