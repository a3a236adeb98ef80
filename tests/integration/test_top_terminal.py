"""`tide top` in a terminal of 80 by 24, over a real daemon and a job that trains."""

from __future__ import annotations

import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator

import cli_processes as processes
import pytest
import torch  # noqa: F401  (the job needs it)
from torchtide import _launch

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(shutil.which("tmux") is None, reason="tmux is missing"),
]
pytest.importorskip("textual")

JOB = str(pathlib.Path(__file__).parent / "strangers" / "neighbour.py")
DEADLINE_S = 120.0
# The exit code goes into a file: tmux 3.3 misses the end of its child at times.
NOTE_EXIT_CODE = '"$@"; echo $? > ended'
COLOURS = {str(code) for code in (*range(30, 39), *range(40, 49), *range(90, 98))}


class Terminal:
    """A tmux server of its own with one window."""

    def __init__(self, folder: pathlib.Path) -> None:
        self.folder = folder
        self.environ = processes.environment(folder, OMP_NUM_THREADS="1", TIDE_CAPACITY="4GiB")
        self.environ.pop("TMUX", None)
        _launch.ensure_daemon(folder / "run", environ=self.environ)
        with (folder / "log").open("w") as log:
            self.job = subprocess.Popen(
                [*processes.TIDE, "run", "--name", "train", "--", sys.executable, JOB],
                env=self.environ, cwd=folder, stdout=log, stderr=log,
            )  # fmt: skip

    def tmux(self, *words: str) -> str:
        command = ["tmux", "-f", "/dev/null", "-S", str(self.folder / "tmux"), *words]
        environ = {**self.environ, "TERM": "xterm-256color", "LC_ALL": "C.UTF-8"}
        ended = subprocess.run(command, env=environ, capture_output=True, text=True, check=True)
        return ended.stdout

    def open(self, *arguments: str, **variables: str) -> None:
        extra = [word for name in variables for word in ("-e", f"{name}={variables[name]}")]
        size = ("-x", "80", "-y", "24")
        self.tmux(
            "new-session", "-d", "-s", "s", "-c", str(self.folder), *size, *extra,
            "sh", "-c", NOTE_EXIT_CODE, "sh", *processes.TIDE, "top", *arguments, ";",
            "set", "-g", "remain-on-exit", "on",
        )  # fmt: skip

    def shown(self, *options: str) -> str:
        return self.tmux("capture-pane", "-p", *options, "-t", "s")

    def press(self, *keys: str) -> None:
        for key in keys:
            self.tmux("send-keys", "-t", "s", key)

    def until(self, condition: Callable[[str], bool]) -> str:
        """Looks again until the screen is as it should be."""
        end = time.monotonic() + DEADLINE_S
        shown = ""
        while time.monotonic() < end:
            shown = self.shown()
            if condition(shown):
                return shown
        raise AssertionError(shown + (self.folder / "log").read_text())

    def exit_code(self) -> int:
        """Of `tide top`, once it has ended."""
        ended = self.folder / "ended"
        end = time.monotonic() + DEADLINE_S
        while not (ended.exists() and ended.read_text().endswith("\n")):
            assert time.monotonic() < end, self.shown()
        return int(ended.read_text())

    def close(self) -> None:
        subprocess.run(["tmux", "-S", str(self.folder / "tmux"), "kill-server"], check=False)
        self.job.kill()
        self.job.wait()
        processes.tide(["shutdown"], self.environ, self.folder)


@pytest.fixture
def terminal() -> Iterator[Terminal]:
    with tempfile.TemporaryDirectory(prefix="tide-top-") as folder:
        found = Terminal(pathlib.Path(folder))
        try:
            yield found
        finally:
            found.close()


def test_a_job_is_limited_and_paused_from_the_keyboard(terminal: Terminal) -> None:
    terminal.open(NO_COLOR="1")
    shown = terminal.until(lambda shown: "train" in shown and "running" in shown)
    lines = shown.splitlines()
    assert len(lines) <= 24 and all(len(line) <= 80 for line in lines)
    assert "F1 Help" in shown and "of 4 GiB" in shown
    coloured = terminal.shown("-e")
    codes = {
        code for group in re.findall(r"\x1b\[([\d;]*)m", coloured) for code in group.split(";")
    }
    assert "7" in codes, "the chosen row stands out"
    assert codes.isdisjoint(COLOURS), codes
    terminal.press("l", "9", "0", "0", "M", "i", "B", "Enter")
    terminal.until(lambda shown: "limit of train is 900 MiB" in shown)
    terminal.press("p")
    terminal.until(lambda shown: "Pause train?" in shown)
    terminal.press("y")
    terminal.until(lambda shown: "paused" in shown and "`tide resume train`" in shown)
    terminal.press("F9")
    terminal.until(lambda shown: "Resume train?" in shown)
    terminal.press("y")
    terminal.until(lambda shown: "train goes on" in shown and "running" in shown)
    terminal.press("F1")
    terminal.until(lambda shown: "this help" in shown)
    terminal.press("Escape")
    terminal.until(lambda shown: "this help" not in shown)
    terminal.press("q")
    assert terminal.exit_code() == 0
