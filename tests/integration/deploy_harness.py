"""A cluster of one machine for the recipes in deploy/: what Slurm and Kubernetes do to a job.

Slurm: `srun` puts the command into a cgroup with the memory of --mem, and a signal reaches every
process in there. Kubernetes: the command is process 1 of a namespace of its own, alone in its
cgroup; probes and preStop are executed inside.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
import select
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence

import cli_processes as processes
from torchtide.demo.groups import Group, open_group

ROOT = pathlib.Path(__file__).resolve().parents[2]
DEADLINE_S = 120.0
MEMORY_BYTES = 3 << 30


class Running:
    """A process whose output is read line by line, each wait with a deadline."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.process = process
        self.seen: list[str] = []
        self._begun = b""

    def until(self, words: str) -> str:
        """Reads up to the line that has `words`, and returns it."""
        end = time.monotonic() + DEADLINE_S
        while (line := self._line(end)) is not None:
            if words in line:
                return line
        raise AssertionError(f"no {words!r} in\n{''.join(self.seen)}")

    def _line(self, end: float) -> str | None:
        """The next line, or None when there is none any more, or not in time."""
        assert self.process.stdout is not None
        while b"\n" not in self._begun:
            left = max(0.0, end - time.monotonic())
            if not select.select([self.process.stdout], [], [], left)[0]:
                return None
            more = os.read(self.process.stdout.fileno(), 1 << 16)
            if not more:
                return None
            self._begun += more
        line, _, self._begun = self._begun.partition(b"\n")
        self.seen.append(line.decode() + "\n")
        return self.seen[-1]

    def rest(self) -> tuple[int, str]:
        """Exit code, and all that it said."""
        end = time.monotonic() + DEADLINE_S
        while self._line(end) is not None:
            pass
        code = self.process.wait(max(0.1, end - time.monotonic()))
        return code, "".join(self.seen) + self._begun.decode()


class Node:
    """A folder with the programs that a recipe calls, and a cgroup for what it starts."""

    def __init__(self, folder: pathlib.Path, name: str) -> None:
        self.folder = folder
        self.group: Group = open_group(name, MEMORY_BYTES)
        self.bin = folder / "bin"
        self.bin.mkdir()
        self.program("tide", f'exec {shlex.join(processes.TIDE)} "$@"')
        self.environ = processes.environment(
            folder, OMP_NUM_THREADS="1", TMPDIR=str(folder), PYTHONUNBUFFERED="1"
        )
        self.environ["PATH"] = f"{self.bin}:{self.environ['PATH']}"
        (folder / "train.py").write_text((ROOT / "examples/preemptible.py").read_text())

    def program(self, name: str, text: str) -> None:
        """A shell script on the path."""
        path = self.bin / name
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)

    def signal_all(self, *numbers: int) -> None:
        """To each process of the job, whatever it is, as Slurm does it."""
        pids = self.group.pids()
        assert pids
        for number in numbers:
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, number)

    def start(self, command: Sequence[str], **variables: str) -> Running:
        """Starts a command outside of the cgroup."""
        return Running(
            subprocess.Popen(
                list(command),
                env={**self.environ, **variables},
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
            )
        )

    def plain(self, checkpoint: pathlib.Path, *arguments: str) -> None:
        """The same training without torchtide."""
        command = [sys.executable, "train.py", "--checkpoint", str(checkpoint), *arguments]
        code, said = self.start(command, TIDE_DISABLE="1").rest()
        assert code == 0, said


@contextlib.contextmanager
def node(folder: pathlib.Path, name: str) -> Iterator[Node]:
    """A node that is left clean."""
    made = Node(folder, name)
    try:
        yield made
    finally:
        made.group.close()


class Slurm:
    """Runs batch scripts on a node."""

    def __init__(self, on: Node) -> None:
        self.node = on
        enter = shlex.join(on.group.wrap(["sh", "-c", 'exec "$@"', "step"]))
        on.program("srun", f'{enter} "$@" &\nwait $!')
        on.program("scontrol", f'echo "$@" >>{shlex.quote(str(on.folder / "scontrol"))}')

    def sbatch(self, script: str, *arguments: str) -> Running:
        """Starts a batch script in the job's folder."""
        return self.node.start(
            ["bash", str(ROOT / "deploy/slurm" / script), *arguments],
            SLURM_JOB_ID="77",
            SLURM_JOB_NAME="train",
        )

    def orders(self) -> list[str]:
        """What was asked of scontrol."""
        path = self.node.folder / "scontrol"
        return path.read_text().splitlines() if path.exists() else []

    @staticmethod
    def directives(script: str) -> dict[str, str]:
        """The #SBATCH lines of a script."""
        text = (ROOT / "deploy/slurm" / script).read_text()
        words = [line.split()[1] for line in text.splitlines() if line.startswith("#SBATCH ")]
        return {
            name.removeprefix("--"): value for name, _, value in (w.partition("=") for w in words)
        }

    @classmethod
    def warning(cls, script: str) -> int:
        """The signal that the script asks for before its time is up."""
        return int(getattr(signal, f"SIG{cls.directives(script)['signal'].split('@')[0]}"))


NAMESPACE = ("unshare", "--pid", "--fork", "--kill-child", "--mount-proc")


def namespaces_allowed() -> bool:
    """Whether this user may make process 1 of a namespace."""
    with contextlib.suppress(OSError):
        return subprocess.run([*NAMESPACE, "true"], capture_output=True).returncode == 0
    return False


class Pod:
    """The container of a manifest on a node; its mounts are folders there."""

    def __init__(self, on: Node, container: dict[str, object], *arguments: str) -> None:
        self._node = on
        self._container = container
        for name in ("checkpoints", "tide/run"):
            (on.folder / name).mkdir(mode=0o700, parents=True, exist_ok=True)
        entries = container["env"]
        assert isinstance(entries, list)
        self._environ = {entry["name"]: self._here(entry["value"]) for entry in entries}
        words = [*self._words("command"), *self._words("args"), *arguments]
        command = [*NAMESPACE, *map(self._here, words)]
        self.running = on.start(on.group.wrap(command), **self._environ)

    def _words(self, key: str) -> list[str]:
        words = self._container[key]
        assert isinstance(words, list)
        return [str(word) for word in words]

    def _here(self, text: str) -> str:
        """The node's folders in the place of the container's mounts."""
        return text.replace("/checkpoints", f"{self._node.folder}/checkpoints").replace(
            "/var/tide", f"{self._node.folder}/tide"
        )

    def first(self) -> int:
        """Process 1, by its number outside."""
        pid = self.running.process.pid
        children = pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        return int(children[0])

    def execute(self, command: Sequence[str]) -> subprocess.CompletedProcess[str]:
        """A probe or a hook, inside."""
        inside = ["nsenter", "--target", str(self.first()), "--pid", "--mount", *command]
        return subprocess.run(
            inside,
            env={**self._node.environ, **self._environ},
            cwd=self._node.folder,
            capture_output=True,
            text=True,
            timeout=DEADLINE_S,
            check=False,
        )

    def await_probe(self, name: str) -> None:
        """Until the probe succeeds, as the kubelet does."""
        probe = self._container[name]
        assert isinstance(probe, dict)
        end = time.monotonic() + DEADLINE_S
        while (asked := self.execute(probe["exec"]["command"])).returncode != 0:
            assert time.monotonic() < end, asked.stdout + asked.stderr

    def delete(self) -> tuple[int, str]:
        """preStop, then SIGTERM to process 1."""
        lifecycle = self._container["lifecycle"]
        assert isinstance(lifecycle, dict)
        told = self.execute(lifecycle["preStop"]["exec"]["command"])
        assert told.returncode == 0, told.stdout + told.stderr
        with contextlib.suppress(ProcessLookupError, IndexError):
            os.kill(self.first(), signal.SIGTERM)
        return self.running.rest()
