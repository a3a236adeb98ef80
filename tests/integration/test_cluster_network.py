"""A coordinator and a machine in two network namespaces: TLS over a real link that is cut."""

from __future__ import annotations

import os
import pathlib
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import msgpack  # type: ignore[import-untyped,unused-ignore]
import pytest
from torchtide import _core

pytestmark = pytest.mark.integration

ROOT = pathlib.Path(__file__).resolve().parents[2]
TIDED = ROOT / "python" / "torchtide" / "bin" / "tided"
PATIENCE_S = 60.0


def sh(*words: str, check: bool = True) -> int:
    """Runs a command of the system."""
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    assert not check or done.returncode == 0, (words, done.stderr)
    return done.returncode


def permitted() -> bool:
    """Whether namespaces and links may be made here."""
    name = f"tide-try-{os.getpid()}"
    if shutil.which("ip") is None or shutil.which("openssl") is None:
        return False
    if sh("ip", "netns", "add", name, check=False) != 0:
        return False
    linked = sh("ip", "-n", name, "link", "add", "a0", "type", "veth", check=False)
    sh("ip", "netns", "del", name)
    return linked == 0


@pytest.fixture
def network() -> Iterator[tuple[str, str]]:
    """Names of two namespaces with a link between them: 10.91.0.1 and 10.91.0.2."""
    if not permitted():
        pytest.skip("network namespaces with veth links are not permitted here")
    one, two = (f"tide-{os.getpid()}-{side}" for side in "ab")
    try:
        for name in (one, two):
            sh("ip", "netns", "add", name)
            sh("ip", "-n", name, "link", "set", "lo", "up")
        sh("ip", "-n", one, "link", "add", "v0", "type", "veth", "peer", "name", "v0", "netns", two)
        for number, name in enumerate((one, two), 1):
            sh("ip", "-n", name, "address", "add", f"10.91.0.{number}/24", "dev", "v0")
            sh("ip", "-n", name, "link", "set", "v0", "up")
        yield one, two
    finally:
        for name in (one, two):
            sh("ip", "netns", "del", name, check=False)


def ask(folder: pathlib.Path, kind: str, **fields: Any) -> dict[str, Any]:
    """Data of one answer of the daemon in `folder`."""
    client = _core.Client(str(folder / "tided.sock"), PATIENCE_S)
    try:
        _, packed = client.request(kind, msgpack.packb(fields), PATIENCE_S)
    finally:
        client.close()
    answer: dict[str, Any] = msgpack.unpackb(packed)
    assert answer["ok"], answer
    return answer["data"]  # type: ignore[no-any-return]


def until(what: str, holds: Callable[[], bool]) -> None:
    """Waits for a state of a daemon, with a deadline."""
    deadline = time.monotonic() + PATIENCE_S
    pause = threading.Event()
    while not holds():
        assert time.monotonic() < deadline, what
        pause.wait(0.05)


def kill(folder: pathlib.Path) -> None:
    """Ends the daemon in `folder` if there is one."""
    try:
        os.kill(int((folder / "tided.pid").read_text(encoding="ascii")), signal.SIGKILL)
    except (OSError, ValueError):
        pass


def test_a_machine_joins_over_tls_is_lost_with_its_link_and_comes_back(
    network: tuple[str, str], tmp_path: pathlib.Path
) -> None:
    folders = [tmp_path / name for name in ("coordinator", "machine")]
    for folder in folders:
        folder.mkdir(mode=0o700)
    secret = tmp_path / "secret"
    secret.touch(mode=0o600)
    secret.write_text("a secret of enough bytes", encoding="ascii")
    certificate, key = tmp_path / "c.crt", tmp_path / "c.key"
    made = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
    made += ["-nodes", "-days", "1", "-subj", "/CN=coordinator"]
    sh(*made, "-keyout", str(key), "-out", str(certificate))

    def start(side: int, *words: str) -> None:
        shared = ["--runtime-dir", str(folders[side]), "--idle-exit-s", "0"]
        shared += ["--secret-file", str(secret)]
        sh("ip", "netns", "exec", network[side], str(TIDED), *shared, *words)

    def devices() -> int:
        return int(ask(folders[0], "Query", what="cluster")["devices"])

    try:
        tls = ["--tls-cert", str(certificate), "--tls-key", str(key)]
        start(0, "--listen", "tcp://10.91.0.1:7070", "--lease-s", "1.5", *tls)
        joining = ["--join", "tcp://10.91.0.1:7070", "--tls-ca", str(certificate)]
        start(1, *joining, "--node", "machine", "--devices", "3")
        until("the machine joins", lambda: devices() == 3)
        ask(folders[1], "Submit", key="job", devices=2)
        explain = {"what": "explain", "job": "job"}
        until("it is granted", lambda: ask(folders[1], "Query", **explain)["state"] == "running")
        sh("ip", "-n", network[1], "link", "set", "v0", "down")
        until("its lease ends", lambda: devices() == 0)
        assert ask(folders[0], "Query", **explain)["state"] != "running"
        sh("ip", "-n", network[1], "link", "set", "v0", "up")
        until("it is back", lambda: devices() == 3)
        until("its job runs", lambda: ask(folders[0], "Query", **explain)["state"] == "running")
    finally:
        for folder in folders:
            kill(folder)
