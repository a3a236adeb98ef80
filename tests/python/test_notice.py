"""A paused job says so where its user looks, beside a progress bar and beside a logger."""

from __future__ import annotations

import logging
import sys
import types

import pytest
from torchtide import _core, _notice

pytestmark = pytest.mark.filterwarnings("error")


@pytest.fixture(autouse=True)
def job(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_core, "name", lambda: "train")
    monkeypatch.setattr(_core, "report", lambda: {"demoted": 128 << 20})
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.delitem(sys.modules, "tqdm", raising=False)


def test_a_pause_is_told_once_and_its_end_with_its_length(
    caplog: pytest.LogCaptureFixture,
) -> None:
    notice = _notice.PauseNotice()
    notice.running()
    assert caplog.messages == []
    notice.paused()
    notice.running()
    notice.running()
    first, second = caplog.messages
    assert "train is paused, 128 MiB are out of memory; `tide resume train` continues it" in first
    assert second.startswith("torchtide: train goes on after ")


def test_only_the_first_rank_speaks(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    for rank, lines in (("1", 0), ("0", 1)):
        monkeypatch.setenv("RANK", rank)
        caplog.clear()
        _notice.say("x")
        assert len(caplog.messages) == lines


def test_a_line_goes_above_a_bar_that_is_being_drawn(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[str] = []

    class Bar:
        _instances = [object()]

        @staticmethod
        def write(line: str, file: object) -> None:
            assert file is sys.stderr
            written.append(line)

    monkeypatch.setitem(sys.modules, "tqdm", types.SimpleNamespace(tqdm=Bar))
    monkeypatch.setattr(logging.getLogger("torchtide"), "propagate", False)
    _notice.say("train is paused")
    assert written == ["torchtide: train is paused"]
    assert capsys.readouterr().err == ""
