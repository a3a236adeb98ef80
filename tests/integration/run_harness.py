"""A torch and a torchtide of a few lines, so that `tide run` can be watched from inside the job.

The fake `_autostart` writes down which process was made a job; everything else of torchtide is the
real one.
"""

from __future__ import annotations

import pathlib
import subprocess
import sys
import textwrap
from dataclasses import dataclass

import cli_processes as processes

_PACKAGE = "__path__.append({real!r})\n"
_AUTOSTART = """
import json, os, sys, threading

def install():
    assert "torch" in sys.modules and sys.modules["torch"].ready
    with open(os.environ["TRACE"], "a") as file:
        line = {"pid": os.getpid(), "name": os.environ.get("TIDE_JOB_NAME"), "argv": sys.argv,
                "limit": os.environ.get("TIDE_LIMIT"), "python": sys.executable,
                "thread": threading.current_thread().name}
        file.write(json.dumps(line) + "\\n")

def install_when_a_rank():
    pass  # none of these programs joins a process group: test_run_ranks.py has those that do
"""


@dataclass
class Bench:
    """A folder with scripts, and the environment in which `tide run` starts them."""

    folder: pathlib.Path
    environ: dict[str, str]

    def script(self, name: str, text: str) -> pathlib.Path:
        """Writes a program into the folder."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text))
        path.chmod(0o755)
        return path

    def run(
        self, *arguments: str, given: str = "", **variables: str
    ) -> subprocess.CompletedProcess[str]:
        """Runs `tide run ARGUMENTS` to its end."""
        return processes.tide(
            ["run", *arguments], {**self.environ, **variables}, self.folder, given
        )

    def jobs(self) -> list[dict[str, object]]:
        """The processes that became jobs, in order."""
        import json

        trace = pathlib.Path(self.environ["TRACE"])
        return (
            [json.loads(line) for line in trace.read_text().splitlines()] if trace.exists() else []
        )

    def names(self) -> list[str]:
        """Names of the jobs, sorted: ranks start in any order."""
        return sorted(str(job["name"]) for job in self.jobs())


def bench(folder: pathlib.Path, torch: str = "ready = True\n") -> Bench:
    """A new bench; `torch` is the text of the fake torch."""
    library = folder / "library"
    for package in ("torch", "torchtide"):
        (library / package).mkdir(parents=True)
    (library / "torch/__init__.py").write_text(torch)
    real = str(processes.SOURCE / "torchtide")
    (library / "torchtide/__init__.py").write_text(_PACKAGE.format(real=real))
    (library / "torchtide/_autostart.py").write_text(_AUTOSTART)
    environ = processes.environment(
        folder,
        PYTHONPATH=f"{library}:{processes.SOURCE}",
        TRACE=str(folder / "trace"),
        TIDE_DAEMON="off",
    )
    return Bench(folder, environ)


PYTHON = sys.executable
