"""The status page, the API and the metrics of a real daemon; the page in a headless Chromium."""

from __future__ import annotations

import json
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

import msgpack  # type: ignore[import-untyped,unused-ignore]
import pytest
from torchtide import _core

pytestmark = pytest.mark.integration

ROOT = pathlib.Path(__file__).resolve().parents[2]
TIDED = ROOT / "python" / "torchtide" / "bin" / "tided"
CHROMIUM = shutil.which("chromium")
SECRET = "a secret of enough bytes"
PATIENCE_S = 60


class Served:
    """A coordinator with its page, in a folder of its own."""

    def __init__(self, folder: pathlib.Path, *more: str) -> None:
        self.folder = folder
        (folder / "secret").touch(mode=0o600)
        (folder / "secret").write_text(SECRET, encoding="ascii")
        words = ["--runtime-dir", str(folder), "--idle-exit-s", "0", "--http", "127.0.0.1:0"]
        words += ["--listen", "tcp://127.0.0.1:0", "--secret-file", str(folder / "secret")]
        subprocess.run([TIDED, *words, *more], check=True, timeout=PATIENCE_S)
        self.base = "http://" + (folder / "http").read_text(encoding="ascii").strip()

    def get(self, path: str, **headers: str) -> tuple[int, str, str]:
        """Status, type and text."""
        request = urllib.request.Request(self.base + path, headers=headers)
        try:
            with urllib.request.urlopen(request, timeout=PATIENCE_S) as answer:
                return answer.status, answer.headers["Content-Type"], answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.headers["Content-Type"], error.read().decode()

    def ask(self, kind: str, **fields: Any) -> dict[str, Any]:
        """Data of one answer over the Unix socket."""
        client = _core.Client(str(self.folder / "tided.sock"), PATIENCE_S)
        try:
            _, packed = client.request(kind, msgpack.packb(fields), PATIENCE_S)
        finally:
            client.close()
        answer: dict[str, Any] = msgpack.unpackb(packed)
        assert answer["ok"], answer
        return answer["data"]  # type: ignore[no-any-return]

    def stop(self) -> None:
        """Ends the daemon."""
        os.kill(int((self.folder / "tided.pid").read_text(encoding="ascii")), signal.SIGKILL)


@pytest.fixture
def served(tmp_path: pathlib.Path) -> Iterator[Served]:
    """A coordinator with three jobs that wait, one of them a name that is markup."""
    tmp_path.chmod(0o700)
    daemon = Served(tmp_path)
    try:
        for key in ("resnet", "bert", "<img src=x onerror=alert(1)>"):
            daemon.ask("Submit", key=key, user="ann", devices=2)
        yield daemon
    finally:
        daemon.stop()


def test_the_api_says_what_the_socket_says(served: Served) -> None:
    status, kind, text = served.get("/api/state")
    state = json.loads(text)
    assert status == 200 and kind == "application/json"
    assert state["cluster"]["jobs_open"] == 3
    assert state["cluster"]["jobs"][0]["text"] == (
        "it asks for 2 devices at once; 0 work in the cluster"
    )
    assert json.loads(served.get("/api/cluster")[2])["policy"] == "fifo"
    events = json.loads(served.get("/api/events")[2])
    assert events["events"][0]["kind"] == "daemon_started"
    assert json.loads(served.get(f"/api/events?since={events['last_seq']}")[2])["events"] == []
    assert served.get("/api/events?since=x")[0] == 400
    assert json.loads(served.get("/api/history")[2]) == {"samples": [], "jobs": [], "more": False}
    assert served.get("/nothing")[0] == 404


def test_metrics_are_openmetrics_in_base_units(served: Served) -> None:
    status, kind, text = served.get("/metrics")
    assert status == 200 and kind.startswith("application/openmetrics-text")
    lines = text.splitlines()
    assert lines[-1] == "# EOF"
    families = [line.split()[2] for line in lines if line.startswith("# TYPE")]
    assert len(families) == len(set(families)) > 15, "each family stands once"
    sample = re.compile(r'^(torchtide_[a-z_]+)(\{[a-z]+="(?:[^"\\]|\\.)*"\})? -?[0-9.e+-]+$')
    of = ""
    for line in lines[:-1]:
        if line.startswith("# TYPE"):
            of = line.split()[2]
        if line.startswith("#"):
            continue
        match = sample.match(line)
        assert match and match[1].removesuffix("_total") == of, line
    assert 'torchtide_cluster_jobs{state="held"} 3' in lines
    assert not [name for name in families if name.endswith(("_ms", "_mib", "_kb"))]


def test_a_page_elsewhere_cannot_read_it_by_a_name_of_its_own(served: Served) -> None:
    assert served.get("/api/state", Host="evil.example")[0] == 403
    assert served.get("/api/state", Host="localhost:1")[0] == 200


def test_the_page_takes_no_orders_and_says_so(served: Served) -> None:
    address = served.base.removeprefix("http://").split(":")
    with socket.create_connection((address[0], int(address[1])), timeout=PATIENCE_S) as one:
        one.sendall(b"POST /api/state HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")  # and no body
        answer = one.makefile("rb")
        said = answer.readline()
        assert said.startswith(b"HTTP/1.1 405") and b"Allow: GET, HEAD" in answer.read(), said


def test_beyond_loopback_a_token_is_needed(tmp_path: pathlib.Path) -> None:
    tmp_path.chmod(0o700)
    words = [TIDED, "--runtime-dir", str(tmp_path), "--http", "0.0.0.0:0"]
    refused = subprocess.run(words, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    assert refused.returncode == 1
    token = tmp_path / "token"
    token.touch(mode=0o600)
    token.write_text("a token of enough bytes\n", encoding="ascii")
    daemon = Served(tmp_path, "--http-token-file", str(token))
    try:
        assert daemon.get("/metrics")[0] == 403
        assert daemon.get("/metrics", Authorization="Bearer wrong")[0] == 403
        given = {"Authorization": "Bearer a token of enough bytes"}
        assert daemon.get("/metrics", **given)[0] == 200
    finally:
        daemon.stop()


def chromium(served: Served, folder: pathlib.Path, *more: str) -> str:
    """The document after the page has asked and drawn a few times."""
    assert CHROMIUM is not None
    words = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
    words += [f"--user-data-dir={folder}", "--virtual-time-budget=5000", "--window-size=1200,900"]
    output = subprocess.run(
        [*words, *more, "--dump-dom", served.base + "/"],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    return output.stdout


@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed (Debian: chromium)")
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_draws_itself_in_chromium(
    served: Served, tmp_path_factory: pytest.TempPathFactory, scheme: str
) -> None:
    folder = tmp_path_factory.mktemp("chromium")
    dark = ["--force-dark-mode", "--blink-settings=preferredColorScheme=0"]
    document = chromium(served, folder, *(dark if scheme == "dark" else []))
    assert 'data-ready="yes"' in document, document[-2000:]
    assert "it asks for 2 devices at once" in document
    assert "resnet" in document and "bert" in document
    assert "&lt;img src=x onerror" in document and "<img" not in document
    assert ">live</span>" in document
