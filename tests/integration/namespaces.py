"""Machines of a test in network namespaces, and the daemons in them, asked over their sockets."""

from __future__ import annotations

import os
import pathlib
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from typing import Any

import msgpack  # type: ignore[import-untyped,unused-ignore]
from torchtide import _core

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


def certify(folder: pathlib.Path) -> list[str]:
    """Makes a secret and a certificate; the options of a coordinator for them."""
    secret = folder / "secret"
    secret.touch(mode=0o600)
    secret.write_text("a secret of enough bytes", encoding="ascii")
    certificate, key = folder / "c.crt", folder / "c.key"
    made = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
    made += ["-nodes", "-days", "1", "-subj", "/CN=coordinator"]
    sh(*made, "-keyout", str(key), "-out", str(certificate))
    return ["--tls-cert", str(certificate), "--tls-key", str(key)]
