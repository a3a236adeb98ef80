"""Two network namespaces with a link of a known rate between them, and processes inside."""

from __future__ import annotations

import contextlib
import ctypes
import os
import pathlib
import subprocess
from collections.abc import Iterator
from typing import Any

from benchmarks import elastic_bodies as bodies

RATE = "1gbit"
_NEW_NETWORK = 0x40000000  # CLONE_NEWNET of linux/sched.h
_PORT = "29871"


def ip(*words: str) -> None:
    """Runs ip or tc. Raises RuntimeError with what it said."""
    result = subprocess.run(words, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        raise RuntimeError(f"{' '.join(words)}: {result.stderr.strip()}")


@contextlib.contextmanager
def slow_link() -> Iterator[list[str]]:
    """Names of two namespaces whose only link is `v0`, 10.77.0.1 and 10.77.0.2.

    Raises:
        RuntimeError: namespaces or the queue that limits the rate are not permitted here.
        OSError: there is no `ip` or `tc`.
    """
    names = [f"tide-{side}-{os.getpid()}" for side in ("a", "b")]
    try:
        for name in names:
            ip("ip", "netns", "add", name)
        one, two = names
        ip(*f"ip -n {one} link add v0 type veth peer name v0 netns {two}".split())
        for index, name in enumerate(names):
            ip(*f"ip -n {name} addr add 10.77.0.{index + 1}/24 dev v0".split())
            for device in ("lo", "v0"):
                ip(*f"ip -n {name} link set {device} up".split())
            limit = f"tc qdisc add dev v0 root tbf rate {RATE} burst 256kb latency 20ms"
            ip(*f"ip netns exec {name} {limit}".split())
        yield names
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)


def _enter(namespace: str, rank: int, size: int) -> None:
    """Moves this process, which has one thread yet, and connects it to the others."""
    library = ctypes.CDLL(None, use_errno=True)
    with pathlib.Path(f"/var/run/netns/{namespace}").open() as place:
        if library.setns(place.fileno(), _NEW_NETWORK) != 0:
            raise OSError(ctypes.get_errno(), f"setns to {namespace}")
    given = {"MASTER_ADDR": "10.77.0.1", "MASTER_PORT": _PORT, "GLOO_SOCKET_IFNAME": "v0"}
    os.environ.update(given)
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=size)


def arms(namespace: str, rank: int, size: int, workers: int, megabytes: int) -> Iterator[Any]:
    """Each request is (arm, step): trains up to it with ours, early or late, or with DDP."""
    _enter(namespace, rank, size)
    running: dict[str, Iterator[Any]] = {}
    for arm, mode in (("early", "on"), ("late", "off")):
        os.environ["TIDE_ELASTIC_OVERLAP"] = mode
        running[arm] = bodies.elastic(None, workers, megabytes)
        next(running[arm])
    running["ddp"] = bodies.ddp_steps(size, workers, megabytes)
    next(running["ddp"])
    arm, step = yield "ready"
    while True:
        arm, step = yield running[arm].send(step)  # type: ignore[attr-defined]
