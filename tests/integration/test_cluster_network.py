"""A coordinator and a machine in two network namespaces: TLS over a real link that is cut."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Iterator

import pytest
from namespaces import TIDED, ask, certify, kill, permitted, sh, until

pytestmark = pytest.mark.integration


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


def test_a_machine_joins_over_tls_is_lost_with_its_link_and_comes_back(
    network: tuple[str, str], tmp_path: pathlib.Path
) -> None:
    folders = [tmp_path / name for name in ("coordinator", "machine")]
    for folder in folders:
        folder.mkdir(mode=0o700)
    tls = certify(tmp_path)

    def start(side: int, *words: str) -> None:
        shared = ["--runtime-dir", str(folders[side]), "--idle-exit-s", "0"]
        shared += ["--secret-file", str(tmp_path / "secret")]
        sh("ip", "netns", "exec", network[side], str(TIDED), *shared, *words)

    def devices() -> int:
        return int(ask(folders[0], "Query", what="cluster")["devices"])

    try:
        start(0, "--listen", "tcp://10.91.0.1:7070", "--lease-s", "1.5", *tls)
        joining = ["--join", "tcp://10.91.0.1:7070", "--tls-ca", str(tmp_path / "c.crt")]
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
