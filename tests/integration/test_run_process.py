"""`tide run` is the command: exit codes, signals, terminal, streams and descriptors are its own."""

import os
import pathlib
import pty
import select
import signal
import subprocess
import termios

import cli_processes as processes
import pytest
import run_harness
from run_harness import Bench

pytestmark = pytest.mark.integration


@pytest.fixture
def bench(tmp_path: pathlib.Path) -> Bench:
    return run_harness.bench(tmp_path)


def started(bench: Bench, *command: str) -> subprocess.Popen[str]:
    """`tide run` in the background, its output in a pipe."""
    return subprocess.Popen(
        [*processes.TIDE, "run", "--", *command],
        env=bench.environ,
        cwd=bench.folder,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize("code", [0, 1, 2, 3, 77, 255])
def test_the_exit_code_is_the_commands(bench: Bench, code: int) -> None:
    assert bench.run("--", "python", "-c", f"raise SystemExit({code})").returncode == code


def test_a_command_that_dies_of_a_signal_is_seen_to_die_of_it(bench: Bench) -> None:
    ended = bench.run("--", "sh", "-c", "kill -9 $$")
    assert ended.returncode == -signal.SIGKILL
    shell = f"{' '.join(processes.TIDE)} run -- sh -c 'kill -TERM $$'; echo code $?"
    told = subprocess.run(
        ["sh", "-c", shell], env=bench.environ, capture_output=True, text=True, check=True
    )
    assert f"code {128 + signal.SIGTERM}" in told.stdout


def test_the_command_is_this_very_process(bench: Bench) -> None:
    run = started(
        bench, "python", "-c", "import os; print(os.getpid(), os.getpgrp(), os.getsid(0))"
    )
    out, _ = run.communicate(timeout=60)
    assert list(map(int, out.split())) == [run.pid, os.getpgrp(), os.getsid(0)]


def test_signals_reach_the_command(bench: Bench) -> None:
    code = (
        "import signal, sys; signal.signal(signal.SIGUSR1, lambda *a: sys.exit(42)); "
        "print('ready', flush=True); signal.pause()"
    )
    run = started(bench, "python", "-c", code)
    assert run.stdout is not None and run.stdout.readline() == "ready\n"
    run.send_signal(signal.SIGUSR1)
    assert run.wait(60) == 42


def test_signals_that_python_ignores_are_not_ignored_by_the_command(bench: Bench) -> None:
    ended = bench.run("--", "sh", "-c", "grep SigIgn /proc/self/status")
    ignored = int(ended.stdout.split()[1], 16)
    for number in (signal.SIGPIPE, signal.SIGXFSZ):
        assert not ignored & 1 << number - 1


def test_streams_are_passed_through_byte_by_byte(bench: Bench) -> None:
    ended = bench.run("--", "sh", "-c", "cat; echo to stderr >&2", given="line 1\nüñ")
    assert (ended.stdout, ended.stderr) == ("line 1\nüñ", "to stderr\n")


def test_a_script_without_a_first_line_runs_as_a_shell_would_run_it(bench: Bench) -> None:
    bench.script("run", "echo from the shell $1\n")
    assert bench.run("--", "./run", "a b").stdout == "from the shell a b\n"


def test_arguments_are_not_ours_to_read(bench: Bench) -> None:
    code = "import sys; print(sys.argv[1:])"
    ended = bench.run("python", "-c", code, "--name", "x", "--", "--json", "", "a b", "*", "-h")
    assert ended.stdout == "['--name', 'x', '--', '--json', '', 'a b', '*', '-h']\n"


def on_a_terminal(bench: Bench, *command: str) -> tuple[int, int]:
    """Starts `tide run` with a terminal of its own: its pid and the other end."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(bench.folder)
        os.execve(processes.TIDE[0], [*processes.TIDE, "run", "--", *command], bench.environ)
    return pid, terminal


def read_until(terminal: int, end: bytes, timeout_s: float = 60.0) -> bytes:
    """What the terminal shows until `end`, or until the program has left it."""
    shown = b""
    while end not in shown and select.select([terminal], [], [], timeout_s)[0]:
        try:
            more = os.read(terminal, 4096)
        except OSError:
            break
        if not more:
            break
        shown += more
    return shown


def test_the_terminal_is_the_commands(bench: Bench) -> None:
    code = (
        "import os, sys; assert os.isatty(0) and os.isatty(1) and os.isatty(2); "
        "assert os.tcgetpgrp(0) == os.getpgrp(); print('you said', input('say: '))"
    )
    pid, terminal = on_a_terminal(bench, "python", "-c", code)
    assert b"say: " in read_until(terminal, b"say: ")
    os.write(terminal, b"hello\n")
    assert b"you said hello" in read_until(terminal, b"you said hello")
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    os.close(terminal)


def test_control_c_interrupts_the_command(bench: Bench) -> None:
    code = (
        "import signal\ntry: print('ready', flush=True); signal.pause()\n"
        "except KeyboardInterrupt: print('caught'); raise SystemExit(9)"
    )
    pid, terminal = on_a_terminal(bench, "python", "-c", code)
    assert b"ready" in read_until(terminal, b"ready")
    interrupt = termios.tcgetattr(terminal)[6][termios.VINTR]
    os.write(terminal, interrupt if isinstance(interrupt, bytes) else b"\x03")
    assert b"caught" in read_until(terminal, b"caught")
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 9
    os.close(terminal)


def test_control_c_without_a_handler_ends_it_as_always(bench: Bench) -> None:
    pid, terminal = on_a_terminal(bench, "sh", "-c", "echo ready; exec tail -f /dev/null")
    assert b"ready" in read_until(terminal, b"ready")
    os.write(terminal, b"\x03")
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGINT
    os.close(terminal)


def test_colour_is_for_terminals_without_no_color(bench: Bench) -> None:
    for variables, coloured in (({}, True), ({"NO_COLOR": "1"}, False)):
        pid, terminal = pty.fork()
        if pid == 0:
            environ = {**bench.environ, "TERM": "xterm-256color", **variables}
            os.execve(processes.TIDE[0], [*processes.TIDE, "doctor"], environ)
        shown = read_until(terminal, b"never")
        os.waitpid(pid, 0)
        os.close(terminal)
        assert (b"\x1b[32m" in shown) == coloured
        assert b"python" in shown
    assert "\x1b" not in processes.tide(["doctor"], bench.environ, bench.folder).stdout
