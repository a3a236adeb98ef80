"""What a job has to say is where its user looks, beside a progress bar and beside a logger."""

from __future__ import annotations

import logging
import os
import sys
import types
from collections.abc import Iterator

import pytest
from torchtide import _core, _notice
from torchtide.errors import OptionError

pytestmark = pytest.mark.filterwarnings("error")


LOG = logging.getLogger("torchtide")


@pytest.fixture(autouse=True)
def job(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(_core, "name", lambda: "train")
    monkeypatch.setattr(_core, "report", lambda: {"demoted": 128 << 20})
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.delitem(sys.modules, "tqdm", raising=False)
    monkeypatch.setattr(_core, "keep_log", lambda: None)
    yield
    LOG.setLevel(logging.NOTSET)


def warned(monkeypatch: pytest.MonkeyPatch, *lines: tuple[str, str]) -> None:
    """The library's own threads have warned."""
    monkeypatch.setattr(_core, "take_log", lambda: list(lines))


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
    monkeypatch.setattr(LOG, "propagate", False)
    _notice.say("train is paused")
    assert written == ["torchtide: train is paused"]
    assert capsys.readouterr().err == ""


def test_warnings_of_the_library_are_told_in_every_rank_and_at_their_level(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "1")
    warned(monkeypatch, ("warning", "event=a x=1"), ("error", "event=b"))
    _notice.tell()
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        ("WARNING", "torchtide: event=a x=1"),
        ("ERROR", "torchtide: event=b"),
    ]


@pytest.mark.parametrize(
    ("wanted", "told"), [("warning", ["say", "a", "b"]), ("error", ["b"]), ("off", [])]
)
@pytest.mark.parametrize("configured", [True, False])
def test_the_option_says_what_is_told_with_and_without_handlers(
    wanted: str,
    told: list[str],
    configured: bool,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(LOG, "propagate", configured)
    monkeypatch.setenv("TIDE_LOG", wanted)
    _notice.install()
    warned(monkeypatch, ("warning", "a"), ("error", "b"))
    _notice.say("say")
    _notice.tell()
    lines = caplog.messages if configured else capsys.readouterr().err.splitlines()
    assert lines == [f"torchtide: {words}" for words in told]


def test_a_level_that_the_program_has_set_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    LOG.setLevel(logging.ERROR)
    _notice.install()
    assert LOG.level == logging.ERROR
    monkeypatch.setenv("TIDE_LOG", "loud")
    with pytest.raises(OptionError, match="log 'loud' is not one of warning, error, off"):
        _notice.install()


@pytest.mark.parametrize("end", ["full", "closed", "unread"])
def test_a_stderr_that_takes_nothing_is_not_waited_for(
    end: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader, writer = os.pipe()
    os.set_blocking(writer, False)  # here only, so that a line that is written is an error
    filled = 0
    if end == "full":
        while filled % 4096 == 0:
            try:
                filled += os.write(writer, b"x" * 4096)
            except BlockingIOError:
                break
    elif end == "unread":
        os.close(reader)
    stream = os.fdopen(writer, "w", buffering=1)
    if end == "closed":
        stream.close()
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setattr(LOG, "propagate", False)
    errors: list[object] = []
    monkeypatch.setattr(logging.lastResort, "handleError", errors.append)
    warned(monkeypatch, ("warning", "event=a"))
    _notice.tell()
    assert errors == []
    if end == "full":
        assert len(os.read(reader, 1 << 20)) == filled
        _notice.tell()
        assert os.read(reader, 1 << 20) == b"torchtide: event=a\n"
    stream.close()
    if end != "unread":
        os.close(reader)
