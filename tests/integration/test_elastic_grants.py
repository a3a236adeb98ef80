"""Grants of a coordinator reach a running elastic job: its size follows, it is held as one."""

from __future__ import annotations

import json
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import msgpack  # type: ignore[import-untyped,unused-ignore]
import pytest
from cli_processes import LEAN
from elastic_harness import DEADLINE_S, PACED, ROOT, started, tide
from torchtide import _core

pytest.importorskip("sklearn")
pytestmark = [pytest.mark.slow, pytest.mark.one_torch]

TIDED = str(ROOT / "python/torchtide/bin/tided")


def ask(folder: pathlib.Path, kind: str, **fields: Any) -> dict[str, Any]:
    """Data of one answer of the daemon in `folder`."""
    client = _core.Client(str(folder / "tided.sock"), DEADLINE_S)
    try:
        _, packed = client.request(kind, msgpack.packb(fields), DEADLINE_S)
    finally:
        client.close()
    answer: dict[str, Any] = msgpack.unpackb(packed)
    assert answer["ok"], answer
    return answer["data"]  # type: ignore[no-any-return]


def until(what: str, holds: Callable[[], bool]) -> None:
    """Waits for a state, with a deadline."""
    deadline = time.monotonic() + DEADLINE_S
    pause = threading.Event()
    while not holds():
        assert time.monotonic() < deadline, what
        pause.wait(0.05)


@pytest.fixture
def machine(tmp_path: pathlib.Path) -> Iterator[pathlib.Path]:
    """The runtime directory of a machine of three devices in a cluster of one."""
    folders = [tmp_path / name for name in ("coordinator", "machine")]
    for folder in folders:
        folder.mkdir(mode=0o700)
    secret = tmp_path / "secret"
    secret.touch(mode=0o600)
    secret.write_text("a secret of enough bytes", encoding="ascii")

    def start(folder: pathlib.Path, *words: str) -> None:
        shared = ["--runtime-dir", str(folder), "--idle-exit-s", "0", "--secret-file", str(secret)]
        subprocess.run([TIDED, *shared, *words], check=True, timeout=60, capture_output=True)

    try:
        start(folders[0], "--listen", "tcp://127.0.0.1:0")
        address = (folders[0] / "cluster").read_text(encoding="ascii").strip()
        start(folders[1], "--join", address, "--node", "machine", "--devices", "3")
        until("the machine joins", lambda: ask(folders[0], "Query", what="cluster")["devices"] == 3)
        yield folders[1]
    finally:
        for folder in folders:
            pid = folder / "tided.pid"
            if pid.exists():
                os.kill(int(pid.read_text(encoding="ascii")), signal.SIGKILL)


def test_a_job_grows_shrinks_and_is_held_by_the_grants_of_its_cluster(
    tmp_path: pathlib.Path, machine: pathlib.Path
) -> None:
    alone, moved, pipe = tmp_path / "alone.json", tmp_path / "moved.json", tmp_path / "go"
    os.mkfifo(pipe)
    environment = os.environ | {
        "PYTHONPATH": LEAN,
        "TIDE_RUNTIME_DIR": str(machine),
    }
    command = [sys.executable, PACED, "-", "--epochs", "2", "--out", str(alone)]
    subprocess.run(
        command,
        env=environment | {"TIDE_DAEMON": "off"},
        check=True,
        timeout=DEADLINE_S,
        capture_output=True,
    )

    def report() -> dict[str, Any]:
        found: dict[str, Any] = tide(environment, "explain", "digits")[1].get("elastic", {})
        return found

    def size(wanted: int) -> Callable[[], bool]:
        return lambda: len(report().get("pids", ())) == wanted

    ask(machine, "Submit", key="digits", user="ann", devices=1, devices_max=3)
    command = [sys.executable, PACED, str(pipe), "0.03", "--epochs", "2", "--out", str(moved)]
    with started(environment, "--processes", "1:3", "--name", "digits", "--", *command) as job:
        threading.Thread(target=job.stdout.read, daemon=True).start()  # type: ignore[union-attr]
        go = os.open(pipe, os.O_RDWR)
        until("what is idle is its own", size(3))
        ask(machine, "Submit", key="other", user="bob", devices=2)
        until("it gives back what another job asks for", size(1))
        ask(machine, "Finish", key="other")
        until("it takes it again", size(3))

        ask(machine, "Reserve", name="all", user="bob", devices=3)
        until(
            "all of its processes are held",
            lambda: [one["paused"] for one in report()["members"]] == [True] * 3,
        )
        steps = report()["steps"]
        ask(machine, "Reserve", name="all", devices=0)
        until("it goes on", lambda: int(report()["steps"]) > steps)
        os.write(go, b"go")
        job.wait(timeout=DEADLINE_S)
        os.close(go)
        assert job.returncode == 0
    said = [event["text"] for event in ask(machine, "Query", what="events")["events"]]
    assert any("digits has 1 process by the cluster" in text for text in said), said
    assert json.loads(moved.read_text()) == json.loads(alone.read_text())
