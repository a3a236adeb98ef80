"""`tide pause --deep` says what became of it."""

from __future__ import annotations

import pytest
from cli_fake_daemon import FakeDaemon, job_record
from torchtide.cli import main
from torchtide.cli.edges import Edges


@pytest.mark.parametrize(
    ("status", "answer", "sentence"),
    [
        ("done", "paused; its contexts are away", "continues it. Its contexts are away"),
        (
            "done",
            "paused; its contexts stayed: no; checkpoint",
            "continues it. Its contexts stayed: no; checkpoint",
        ),
        ("done", "paused", "It is an ordinary pause: the job said nothing of its contexts"),
        ("already_paused", "", "already, and --deep changed nothing: `tide resume train` first"),
    ],
)
def test_a_deep_pause_says_whether_it_is_one(
    capsys: pytest.CaptureFixture[str], status: str, answer: str, sentence: str
) -> None:
    daemon = FakeDaemon(job_record("train"))
    data = {"job": "train", "status": status, "text": answer, "took_ms": 5.0}
    daemon.answers["pause"] = {"ok": True, "data": data}
    assert main(["pause", "train", "--deep"], Edges(connect=daemon.connect)) == 0
    assert sentence in " ".join(capsys.readouterr().out.split())
    assert daemon.commands[0]["deep"] is True
