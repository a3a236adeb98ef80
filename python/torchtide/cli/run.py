"""`tide run`: prepares the environment, starts the daemon on demand, becomes the command."""

from __future__ import annotations

import errno
import os
import shlex
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from torchtide import _launch, _signal_words
from torchtide.cli import command_line, core, elastic, exits, settings
from torchtide.cli.edges import Edges
from torchtide.cli.text import clean
from torchtide.errors import DaemonUnavailable, OptionError

PRIORITIES: Final = ("guaranteed", "normal", "opportunistic")
LANE_MAX: Final = 15
#: Memory is given and taken in pages of this size (csrc/base/bytes.h).
PAGE_BYTES: Final = 2 << 20
#: Tells an inner `tide run` that the name in TIDE_JOB_NAME was nobody's wish.
NAME_DERIVED: Final = "TIDE_JOB_NAME_DERIVED"


@dataclass(frozen=True)
class RunOptions:
    """What the user said about the job; None and "" where nothing was said."""

    name: str | None = None
    limit: str | None = None
    min_memory: str | None = None
    priority: str | None = None
    lane: int | None = None
    json_output: bool = False
    processes: str | None = None
    iterations: int | None = None
    on_signal: Sequence[str] = ()


def run(options: RunOptions, command: Sequence[str], edges: Edges) -> int:
    """Becomes `command` as a job. Returns only when that is impossible, or from an elastic job.

    Args:
        options: What `tide run` was told.
        command: Program and arguments.
        edges: The world outside.

    Returns:
        126 or 127 when the command cannot be executed; with `processes`, the job's exit code.

    Raises:
        OptionError: A bad option, file or command line; nothing has been started.
        NotPermitted: The runtime directory is somebody else's.
        DaemonUnavailable: There is none and the option `daemon` is "require".
    """
    chosen = checked_options(options)
    bounds = elastic.parse_processes(options.processes) if options.processes is not None else None
    inspection = checked_command(command)
    program = shutil.which(command[0], path=edges.environ.get("PATH"))
    if program is None:
        return _not_executable(command[0])
    settings.check_environment(edges.environ)
    from_files = settings.exported(settings.apply(edges.folder, edges.environ), edges.environ)
    environ = job_environment({**edges.environ, **from_files}, chosen, inspection.name)
    _check_signals(environ, bounds is not None)
    if not _disabled(environ):
        _signal_words.ignore(environ.get(_signal_words.VARIABLE, ""))
    started = _start_daemon(edges, environ)
    if options.json_output:
        exits.emit_json(_told(environ, command, started))
    if bounds is not None:
        return elastic.launch(program, command, environ, bounds)
    try:
        edges.replace_process(program, command, environ)
    except OSError as error:
        if error.errno != errno.ENOEXEC:
            print(f"tide: {command[0]}: {error.strerror}", file=sys.stderr)
            return exits.NOT_EXECUTABLE
    # A script whose first line names no interpreter is the shell's, as execvp(3) has it.
    return edges.replace_process("/bin/sh", ["sh", program, *command[1:]], environ)


def checked_options(options: RunOptions) -> dict[str, str]:
    """The variables that the options stand for.

    Raises:
        OptionError: One of them makes no sense, alone or with another.
    """
    chosen: dict[str, str] = {}
    if options.name is not None:
        chosen["TIDE_JOB_NAME"] = _checked_name(options.name)
    limit = minimum = 0
    if options.limit is not None:
        limit = (
            0 if options.limit == "none" else parse_size(options.limit, f"--limit {options.limit}")
        )
        chosen["TIDE_LIMIT"] = str(limit)
    if options.min_memory is not None:
        minimum = parse_size(options.min_memory, f"--min-memory {options.min_memory}")
        chosen["TIDE_MIN_MEMORY"] = str(minimum)
    if limit and minimum > limit:
        raise OptionError(
            f"{core.format_bytes(minimum)} guaranteed, but only {core.format_bytes(limit)} allowed",
            asked=f"--min-memory {options.min_memory} with --limit {options.limit}",
            advice="raise --limit or lower --min-memory",
        )
    if options.priority is not None:
        if options.priority not in PRIORITIES:
            raise OptionError(
                f"not one of {', '.join(PRIORITIES)}",
                asked=f"--priority {options.priority}",
                advice="guaranteed jobs are served first, opportunistic ones give way",
            )
        chosen["TIDE_PRIORITY"] = options.priority
    if options.lane is not None:
        if not -1 <= options.lane <= LANE_MAX:
            raise OptionError(
                f"lanes are numbered 0 to {LANE_MAX}; -1 joins none",
                asked=f"--lane {options.lane}",
                advice="`tide policy` lists the lanes",
            )
        chosen["TIDE_LANE"] = str(options.lane)
    if options.iterations is not None:
        if options.iterations < 1:
            raise OptionError(
                "a job has at least one iteration",
                asked=f"--iterations {options.iterations}",
                advice="leave it out where the number is not known",
            )
        chosen["TIDE_JOB_ITERATIONS"] = str(options.iterations)
    if options.on_signal:
        chosen[_signal_words.VARIABLE] = _checked_signals(options.on_signal)
    return chosen


def _checked_signals(words: Sequence[str]) -> str:
    """What `--on-signal` says, in the words of the job's variable.

    Raises:
        OptionError: It makes no sense.
    """
    text = ",".join(words)
    actions = _signal_words.parse(text, f"--on-signal {text}")
    if not actions:
        raise OptionError(
            "it names no signal", asked=f"--on-signal {text!r}", advice="--on-signal USR1=pause"
        )
    return ",".join(f"{name}={action}" for name, action in actions.items())


def _check_signals(environ: Mapping[str, str], elastic_job: bool) -> None:
    """Checks the signals of the job, said here or by the user's own variable.

    Raises:
        OptionError: They make no sense, or the job cannot do what they say.
    """
    text = environ.get(_signal_words.VARIABLE, "")
    actions = _signal_words.parse(text, f"{_signal_words.VARIABLE}={text}")
    writes = sorted(action for action in actions.values() if action in _signal_words.WRITING)
    if elastic_job and writes:
        raise OptionError(
            f"an elastic job cannot {writes[0]} on a signal",
            asked=f"--on-signal {text} with --processes",
            advice="save in the loop: if run.step() and run.is_main: run.save(PATH)",
        )


def parse_size(text: str, asked: str) -> int:
    """Bytes of a size that a job can have.

    Raises:
        OptionError: It is no size, zero, or less than a page; `asked` says in whose words.
    """
    if text.strip().endswith("%"):
        raise OptionError(
            "a percentage needs a running daemon",
            asked=asked,
            advice="write a size such as 2GiB, or `tide limit JOB 60%` afterwards",
        )
    size = core.parse_bytes(text, asked)
    if size == 0:
        raise OptionError(
            "a job cannot live in nothing",
            asked=asked,
            advice='"none" means no limit; `tide pause JOB` takes all memory away',
        )
    if size < PAGE_BYTES:
        raise OptionError(
            f"{core.format_bytes(size)} is less than one page (2 MiB)",
            asked=asked,
            advice=f"did you forget the unit? {text.strip()}GiB, {text.strip()}MiB"
            if text.strip().isdigit()
            else "write a size such as 2GiB",
        )
    return size


def checked_command(command: Sequence[str]) -> command_line.Inspection:
    """Reads the command.

    Raises:
        OptionError: Python was told to ignore what tide is loaded through, or there is no command.
    """
    if not command or not command[0]:
        raise OptionError(
            "no command", asked="tide run", advice="name one: tide run -- python train.py"
        )
    inspection = command_line.inspect(command)
    if inspection.refused_option:
        raise OptionError(
            f"{inspection.refused_option} keeps tide out of this Python",
            asked=f"tide run -- {shlex.join(command)}",
            advice=inspection.advice,
        )
    return inspection


def job_environment(
    environ: Mapping[str, str], chosen: Mapping[str, str], derived_name: str
) -> dict[str, str]:
    """The environment of the command.

    What was said here beats what is set already, by the user or by an outer `tide run`; a name that
    an outer one only derived gives way to the one derived here.

    Args:
        environ: Where we stand.
        chosen: From `checked_options`.
        derived_name: From the command line.
    """
    result = {**environ, **chosen, "TIDE_RUN": "1"}
    result.pop(_launch.CLAIM_VARIABLE, None)
    stated = chosen.get("TIDE_JOB_NAME") or (
        "" if environ.get(NAME_DERIVED) == "1" else environ.get("TIDE_JOB_NAME", "")
    )
    result["TIDE_JOB_NAME"] = stated or derived_name
    if stated:
        result.pop(NAME_DERIVED, None)
    else:
        result[NAME_DERIVED] = "1"
    inject = str(_launch.INJECT_DIR)
    if os.pathsep in inject:
        raise OptionError(
            f"torchtide is installed under {inject}; a colon separates folders in PYTHONPATH",
            asked="tide run",
            advice="install it into a folder without a colon in its name",
        )
    before = environ.get("PYTHONPATH", "")
    if before.split(os.pathsep)[0] != inject:
        result["PYTHONPATH"] = f"{inject}{os.pathsep}{before}" if before else inject
    return result


def _checked_name(name: str) -> str:
    asked = f"--name {name!r}"
    if not name.strip():
        raise OptionError(
            "a name needs a letter", asked=asked, advice="leave --name out for the script's name"
        )
    if clean(name) != name:
        raise OptionError(
            "it has control characters", asked=asked, advice="choose a printable name"
        )
    if len(name.encode()) > command_line.NAME_BYTES_MAX:
        raise OptionError(
            f"{len(name.encode())} bytes in UTF-8, {command_line.NAME_BYTES_MAX} at most",
            asked=asked,
            advice="choose a shorter name",
        )
    return name


def _disabled(environ: Mapping[str, str]) -> bool:
    return environ.get("TIDE_DISABLE", "").lower() in ("1", "true", "t", "yes", "y")


def _start_daemon(edges: Edges, environ: Mapping[str, str]) -> dict[str, Any]:
    """Starts the daemon if the options say so; a job can live without one: trouble is only told."""
    mode = {option["name"]: option["value"] for option in core.options()}.get("daemon", "auto")
    if mode == "off" or _disabled(environ):
        return {"state": "off"}
    folder = core.runtime_dir()
    try:
        started = edges.ensure_daemon(folder, environ=environ)
    except DaemonUnavailable as error:
        if mode == "require":
            raise
        print(exits.as_text(error), file=sys.stderr)
        print("tide: the command runs without a daemon; its own limit still holds", file=sys.stderr)
        return {"state": "unavailable"}
    state = "started" if started.started else "running"
    return {"state": state, "socket": str(started.socket_path), "took_ms": started.took_s * 1000}


def _told(
    environ: Mapping[str, str], command: Sequence[str], daemon: dict[str, Any]
) -> dict[str, Any]:
    """What --json says before the command starts."""
    return {
        "name": environ["TIDE_JOB_NAME"],
        "command": list(command),
        "limit": int(environ.get("TIDE_LIMIT") or 0)
        if environ.get("TIDE_LIMIT", "").isdigit()
        else None,
        "min_memory": environ.get("TIDE_MIN_MEMORY"),
        "priority": environ.get("TIDE_PRIORITY", "normal"),
        "lane": environ.get("TIDE_LANE"),
        "pid": os.getpid(),
        "daemon": daemon,
    }


def _not_executable(program: str) -> int:
    """Says why a program cannot be started; 126 and 127 as with env(1)."""
    if Path(program).exists() and os.sep in program:
        print(
            f"tide: {program}: not an executable file\n  do: chmod +x {program}, "
            f"or name its interpreter: tide run -- python {program}",
            file=sys.stderr,
        )
        return exits.NOT_EXECUTABLE
    print(f"tide: {program}: no such program in PATH", file=sys.stderr)
    if Path(program).exists():
        print(f"  do: tide run -- python {program}", file=sys.stderr)
    return exits.NOT_FOUND
