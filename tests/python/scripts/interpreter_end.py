"""Ends while a daemon thread of it stands in a call of ours: interpreter_end.py CALL FOLDER."""

from __future__ import annotations

import array
import pathlib
import socket
import sys
import threading
from collections.abc import Callable
from typing import Any

from torchtide import _core

MEMORY = array.array("d", bytes(8 << 20))
ADDRESS = MEMORY.buffer_info()[0]
inside = threading.Event()


def daemon_thread(call: Callable[[], Any]) -> None:
    threading.Thread(target=call, daemon=True).start()


def nothing() -> None:
    pass


def client() -> Callable[[], Any]:
    """Waits for the answer of a daemon, that is gone when the interpreter ends."""
    path = str(pathlib.Path(sys.argv[2]) / "socket")
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen()
    daemon_thread(lambda: _core.Client(path, 60.0))
    connection, _ = listener.accept()
    connection.recv(1)
    return connection.close


def exchange() -> Callable[[], Any]:
    """Waits for the second process of an elastic job, that never comes."""

    def join() -> None:
        part.attach(descriptor, "contract")
        inside.set()
        part.stand()

    descriptor = _core.elastic_create(2, 2, 2)
    part = _core.ElasticExchange(2, [(0, 4)], 64)
    daemon_thread(join)
    return nothing


class Policy:
    """Starts what fits."""

    name = "python"

    def decide(self, view: Any) -> None:
        inside.set()
        free = view.free
        for job in view.waiting:
            if job.gpus <= free:
                free -= job.gpus
                view.start(job)


def simulation(policy: Any = "fifo") -> Callable[[], Any]:
    def replay() -> None:
        while True:
            inside.set()
            _core.simulate(trace, policy, 1, 64)

    trace = _core.draw_trace(20_000, 64, 0.9, 1)
    daemon_thread(replay)
    return nothing


def python_policy() -> Callable[[], Any]:
    return simulation(Policy())


def checksum() -> Callable[[], Any]:
    def sum_up() -> None:
        while True:
            _core.elastic_checksum(ADDRESS, 8 << 20)
            inside.set()

    daemon_thread(sum_up)
    return nothing


class Late:
    """The first to go in the end: while it does, the thread comes to ask for the interpreter."""

    def __init__(self, wake: Callable[[], Any]) -> None:
        self.wake = wake

    def __del__(self) -> None:
        self.wake()
        threading.Event().wait(0.2)  # a program with torch takes longer to end
        _core.elastic_checksum(ADDRESS, 8)  # as any call of the thread that ends the interpreter
        print("the end", flush=True)


sys.modules["late"] = Late(globals()[sys.argv[1]]())  # type: ignore[assignment]
if sys.argv[1] != "client":
    assert inside.wait(60)
sys.exit(7)
