"""Starts Python scripts on the phantom GPU: the stock PyTorch, and our libraries in front of it."""

from __future__ import annotations

import dataclasses
import functools
import importlib.util
import json
import os
import pathlib
import select
import signal
import subprocess
import sys
import uuid

ROOT = pathlib.Path(__file__).resolve().parents[2]
DRIVER = ROOT / "build" / "phantom"
#: Of one script: the longest takes a minute, on a machine that has time for it.
DEADLINE_S = 900.0


@dataclasses.dataclass(frozen=True)
class Phantom:
    """What to put in front, or why there is no phantom for this Python."""

    preload: str
    reason: str


@functools.cache
def for_this_torch() -> Phantom:
    """Builds the stand-ins for the torch of this Python, once (seconds)."""
    if not (DRIVER / "libcuda.so.1").exists():
        return Phantom("", "the phantom driver is not built; scripts/setup builds it")
    path = ROOT / "tests" / "phantom" / "build_for_torch.py"
    spec = importlib.util.spec_from_file_location("build_for_torch", path)
    assert spec is not None and spec.loader is not None
    builder = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(builder)
    version = builder.importlib.metadata.version("torch").split("+")[0]
    try:
        libraries = builder.build(DRIVER, DRIVER / f"torch-{version}")
    except builder.BuildError as error:
        return Phantom("", f"no phantom GPU for this torch: {error}")
    return Phantom(":".join(libraries), "")


def environment(name: str, runtime_dir: pathlib.Path, **settings: str | int) -> dict[str, str]:
    """Of a process on the phantom; processes of one `name` share its devices."""
    kept = "TIDE_TEST_PHANTOM"  # how much is tested
    result = {
        key: value
        for key, value in os.environ.items()
        if key == kept or not key.startswith("TIDE_")
    }
    result |= {
        "LD_PRELOAD": for_this_torch().preload,
        "PYTHONPATH": f"{ROOT / 'python'}:{ROOT / 'tests' / 'cuda'}",
        "TIDE_PHANTOM_NAME": name,
        "TIDE_PHANTOM_QUIET": "1",
        "TIDE_RUNTIME_DIR": str(runtime_dir),
        "TIDE_DAEMON": "off",
        "TRITON_LIBCUDA_PATH": str(DRIVER),
    }
    return result | {key: str(value) for key, value in settings.items()}


ZYGOTE = """
import json, os, sys
import {imports}
for line in sys.stdin:
    task = json.loads(line)
    if task is None:
        break
    child = os.fork()
    if child == 0:
        os.environ.update(task["settings"])
        for stream, path in ((0, os.devnull), (1, task["output"]), (2, task["output"])):
            os.dup2(os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600), stream)
        sys.stdin = open(os.devnull)
        exec(compile(task["script"], "<script>", "exec"), {{"__name__": "__main__"}})
        break  # an ordinary end of the interpreter
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


class Zygote:
    """A process with PyTorch imported, which forks one child a script: an import takes seconds.

    So does that of torch._dynamo, which every first optimizer makes.
    """

    def __init__(
        self, runtime_dir: pathlib.Path, *, imports: str = "torch._dynamo, torchtide.cuda"
    ) -> None:
        self._process = start(ZYGOTE.format(imports=imports), "zygote", runtime_dir)

    def run(
        self,
        script: str,
        settings: dict[str, str],
        output: pathlib.Path,
        deadline_s: float = DEADLINE_S,
    ) -> int:
        """Exit code of the script, which is killed and told when it has not ended in time."""
        task = {"script": script, "settings": settings, "output": str(output)}
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps(task) + "\n")
        self._process.stdin.flush()
        in_time = select.select([self._process.stdout], [], [], deadline_s)[0]
        if not in_time:
            self._kill_child()
        answer = self._process.stdout.readline()
        assert answer, self._process.communicate()[1][-4000:]
        said = output.read_text()[-4000:] if output.exists() else ""
        assert in_time, f"the script had not ended after {deadline_s:g} s; it said\n{said}"
        return int(answer)

    def _kill_child(self) -> None:
        """Ends the script, whose end is then answered as ever."""
        pid = self._process.pid
        for child in pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
            os.kill(int(child), signal.SIGKILL)

    def end(self) -> None:
        """Ends the process by a word.

        The end of its input would not do: it comes when the last copy of our side is closed, and
        whatever this process has forked since (the workers of a test's DataLoader) has one.
        """
        words = "null\n" if self._process.poll() is None else None
        try:
            self._process.communicate(words, timeout=60)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            raise


def start(
    script: str, name: str, runtime_dir: pathlib.Path, **settings: str | int
) -> subprocess.Popen[str]:
    """A script that talks through its standard input and output."""
    return subprocess.Popen(
        [sys.executable, "-c", script],
        env=environment(name, runtime_dir, **settings),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def forget(name: str) -> None:
    """Removes the ledgers of a phantom."""
    for path in pathlib.Path("/dev/shm").glob(f"tide-phantom-{name}-*"):
        path.unlink()


@dataclasses.dataclass(frozen=True)
class Runner:
    """Runs scripts, each on a phantom of its own."""

    zygote: Zygote
    folder: pathlib.Path

    def __call__(self, script: str, **settings: str | int) -> str:
        """Runs one to its end; its output, standard error too."""
        name = f"t{uuid.uuid4().hex[:12]}"
        runtime_dir = self.folder / name
        runtime_dir.mkdir(mode=0o700)
        output = self.folder / f"{name}.out"
        given = environment(name, runtime_dir, **settings)
        changed = {key: value for key, value in given.items() if key.startswith("TIDE_")}
        try:
            code = self.zygote.run(script, changed, output)
        finally:
            forget(name)
        text = output.read_text()
        assert code == 0, f"exit code {code}\n{text[-4000:]}"
        return text
