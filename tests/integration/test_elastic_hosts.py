"""Elastic jobs under torchrun, on one host and on two: one result, across cuts, kills and loss."""

from __future__ import annotations

import contextlib
import os
import pathlib
import select
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest
from cli_processes import LEAN

pytest.importorskip("torch")

ROOT = pathlib.Path(__file__).resolve().parents[2]
SCRIPT = str(ROOT / "tests/integration/scripts/elastic_torchrun.py")
DEADLINE_S = 300.0
CUT_S = 1.0


def environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": LEAN, "TIDE_DAEMON": "off"}


def torchrun(*options: str) -> list[str]:
    return [sys.executable, "-m", "torch.distributed.run", "--monitor-interval", "0.1", *options]


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The last digest of plain python."""
    folder = tmp_path_factory.mktemp("alone")
    command = [sys.executable, SCRIPT, str(folder)]
    subprocess.run(command, env=environment(), check=True, capture_output=True, timeout=DEADLINE_S)
    return (folder / "digest-alone").read_text()


def digests(folder: pathlib.Path) -> dict[str, str]:
    return {file.name: file.read_text() for file in folder.glob("digest-*")}


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@pytest.mark.slow
def test_a_killed_process_under_torchrun_costs_steps_and_no_bits(
    tmp_path: pathlib.Path, expected: str
) -> None:
    options = ("--standalone", "--nproc-per-node", "3", "--max-restarts", "1")
    result = subprocess.run(
        [*torchrun(*options), SCRIPT, str(tmp_path), "--kill", "8"],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert "step 24 of 3 from 6" in result.stdout  # the checkpoint before the kill
    assert digests(tmp_path) == {f"digest-{rank}": expected for rank in range(3)}


class Hosts:
    """Two network namespaces and the link between them."""

    def __init__(self, tag: str) -> None:
        self.names = [f"{tag}a", f"{tag}b"]
        self.interfaces = [f"{tag}va", f"{tag}vb"]
        self.addresses = ["10.199.7.1", "10.199.7.2"]

    def ip(self, *words: str) -> None:
        subprocess.run(["ip", *words], check=True, capture_output=True)

    def make(self) -> None:
        for name in self.names:
            self.ip("netns", "add", name)
        one, other = self.interfaces
        self.ip("link", "add", one, "type", "veth", "peer", "name", other)
        for name, interface, address in zip(
            self.names, self.interfaces, self.addresses, strict=True
        ):
            self.ip("link", "set", interface, "netns", name)
            self.ip("-n", name, "addr", "add", f"{address}/24", "dev", interface)
            self.ip("-n", name, "link", "set", interface, "up")
            self.ip("-n", name, "link", "set", "lo", "up")

    def link(self, state: str) -> None:
        self.ip("-n", self.names[1], "link", "set", self.interfaces[1], state)

    def pids(self, host: int) -> list[int]:
        found = subprocess.run(
            ["ip", "netns", "pids", self.names[host]], capture_output=True, text=True, check=False
        )
        return [int(pid) for pid in found.stdout.split()]

    def lose(self, host: int) -> None:
        for pid in self.pids(host):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def remove(self) -> None:
        for host, name in enumerate(self.names):
            self.lose(host)
            subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)

    def start(self, host: int, folder: pathlib.Path, *options: str) -> subprocess.Popen[str]:
        command = [*torchrun(*options), SCRIPT, str(folder), "--hold"]
        return subprocess.Popen(
            ["ip", "netns", "exec", self.names[host], *command],
            env=environment() | {"GLOO_SOCKET_IFNAME": self.interfaces[host]},
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )


@pytest.fixture
def hosts() -> Iterator[Hosts]:
    if shutil.which("ip") is None:
        pytest.skip("no `ip` to make network namespaces with")
    found = Hosts(f"td{os.getpid() % 10**6}")
    try:
        found.make()
    except subprocess.CalledProcessError as error:
        found.remove()
        pytest.skip(f"network namespaces are not permitted here: {error.stderr.decode().strip()}")
    yield found
    found.remove()


def await_step(job: subprocess.Popen[str], step: int) -> int:
    """Reads until that step; returns the last one that was read."""
    end = time.monotonic() + DEADLINE_S
    assert job.stdout is not None
    for line in job.stdout:
        if line.startswith("step ") and int(line.split()[1]) >= step:
            return int(line.split()[1])
        assert time.monotonic() < end
    raise AssertionError("the job ended before that step")


def drained(job: subprocess.Popen[str]) -> Any:
    """Reads what there is; what is printed from now on makes the pipe readable again."""
    assert job.stdout is not None
    descriptor = job.stdout.fileno()
    while select.select([descriptor], [], [], 0.2)[0]:
        if not os.read(descriptor, 1 << 16):
            break
    return descriptor


@pytest.mark.one_torch
@pytest.mark.slow
def test_two_hosts_survive_a_cut_link_and_one_goes_on_for_both(
    tmp_path: pathlib.Path, hosts: Hosts, expected: str
) -> None:
    folder = tmp_path / "job"
    folder.mkdir()
    os.mkfifo(folder / "go")
    options = ["--nnodes", "2", "--nproc-per-node", "2", "--master-port", str(free_port())]
    options += ["--master-addr", hosts.addresses[0]]
    first, second = (
        hosts.start(host, folder, *options, "--node-rank", str(host)) for host in range(2)
    )
    await_step(first, 3)
    hosts.link("down")
    descriptor = drained(first)
    assert not select.select([descriptor], [], [], CUT_S)[0]  # nothing is applied meanwhile
    hosts.link("up")
    assert select.select([descriptor], [], [], DEADLINE_S)[0]  # and then it goes on
    hosts.lose(1)
    for job in (first, second):
        job.communicate(timeout=DEADLINE_S)
        assert job.returncode != 0
    go = os.open(folder / "go", os.O_RDWR)
    os.write(go, b"go")
    for file in folder.glob("digest-*"):
        file.unlink()
    rest = hosts.start(0, folder, "--standalone", "--nproc-per-node", "3")
    told, _ = rest.communicate(timeout=DEADLINE_S)
    os.close(go)
    assert rest.returncode == 0 and "step 24 of 3 from" in told
    assert "from 0" not in told
    assert digests(folder) == {f"digest-{rank}": expected for rank in range(3)}
