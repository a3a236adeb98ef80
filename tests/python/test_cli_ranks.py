"""`tide pause` and `resume` of a job of several ranks."""

from __future__ import annotations

import json
from typing import Any

import cli_fake_daemon as fake
import pytest
from cli_fake_daemon import FakeDaemon, job_record
from torchtide.cli import main
from torchtide.cli.edges import Edges

Said = pytest.CaptureFixture[str]


def edges_of(daemon: FakeDaemon) -> Edges:
    return Edges(connect=daemon.connect, now=lambda: 0.0)


class Ranks(FakeDaemon):
    """A job of three ranks, of which `stuck` ones reach no boundary; and others of like names."""

    def __init__(self, *stuck: str) -> None:
        ranks = [job_record(f"ddp[{rank}]") for rank in (0, 10, 2)]
        super().__init__(*ranks, job_record("ddp[1]", attached=False), job_record("ddp2[0]"))
        self.stuck = stuck

    def _command(self, body: dict[str, Any]) -> dict[str, Any]:
        if body["what"] == "pause" and body["job"] in self.stuck:
            self.commands.append(body)
            return fake.error("timeout", "no boundary yet", "wait")
        return super()._command(body)

    def ordered(self, what: str) -> list[str]:
        return sorted(body["job"] for body in self.commands if body["what"] == what)


def test_the_name_of_a_job_of_several_ranks_stands_for_all_of_them(capsys: Said) -> None:
    daemon = Ranks()
    assert main(["pause", "ddp"], edges_of(daemon)) == 0
    assert capsys.readouterr().out == (
        "ddp (3 ranks) is paused in 680 ms; `tide resume ddp` continues it\n"
    )
    assert daemon.ordered("pause") == ["ddp[0]", "ddp[10]", "ddp[2]"]
    assert main(["resume", "ddp", "--json"], edges_of(daemon)) == 0
    answer = json.loads(capsys.readouterr().out)
    assert [one["job"] for one in answer["ranks"]] == ["ddp[0]", "ddp[2]", "ddp[10]"]
    assert main(["pause", "ddp[2]"], edges_of(daemon)) == 0
    assert daemon.commands[-1]["job"] == "ddp[2]"


def test_where_one_rank_cannot_be_paused_the_others_go_on(capsys: Said) -> None:
    daemon = Ranks("ddp[2]")
    assert main(["pause", "ddp"], edges_of(daemon)) == 7
    assert "ddp[2]: no boundary yet" in capsys.readouterr().err
    assert daemon.ordered("pause") == ["ddp[0]", "ddp[10]", "ddp[2]"]
    assert daemon.ordered("resume") == ["ddp[0]", "ddp[10]"]
