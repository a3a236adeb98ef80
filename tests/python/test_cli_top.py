"""The live view of `tide top`, driven key by key without a terminal."""

from __future__ import annotations

import asyncio
import pathlib
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from cli_fake_daemon import GIB, MIB, FakeDaemon, error, job_record
from torchtide.cli.edges import Edges

pytest.importorskip("textual")

from textual.pilot import Pilot
from torchtide.cli import top_app
from torchtide.cli.top_app import TopApp, sparkline

NOW = 1_700_000_000.0


@pytest.fixture(autouse=True)
def folder(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIDE_RUNTIME_DIR", str(tmp_path))


def three_jobs() -> FakeDaemon:
    daemon = FakeDaemon(
        job_record("train", id=1, turn=True),
        job_record("bert", id=2, state="waiting", limit=0, resident=99 * MIB, steps_per_s=30.0),
        job_record("a-long-name-that-somebody-chose", id=3, state="paused", resident=0),
    )
    daemon.events = [{"seq": 1, "time": NOW, "kind": "start", "job": "bert", "text": "bert began"}]
    return daemon


def text_of(app: TopApp) -> str:
    """What the terminal shows."""
    strips = app.screen._compositor.render_strips()
    return "\n".join("".join(segment.text for segment in line) for line in strips)


def drive(
    daemon: FakeDaemon,
    steps: Callable[[TopApp, Pilot[int]], Awaitable[None]],
    size: tuple[int, int] = (80, 24),
) -> None:
    """Runs the view over a daemon; `steps` press keys and look."""

    async def play() -> None:
        app = TopApp(Edges(connect=daemon.connect, now=lambda: NOW), interval_s=0.05)
        async with app.run_test(size=size) as pilot:
            await until(pilot, lambda: daemon.opened > 1)
            await steps(app, pilot)

    asyncio.run(play())


async def until(pilot: Pilot[int], condition: Callable[[], Any]) -> None:
    """Lets the view go on until something is so; it must become so within 200 turns."""
    for _ in range(200):
        if condition():
            return
        await pilot.pause(0.02)
    raise AssertionError(text_of(pilot.app))  # type: ignore[arg-type]


async def press(pilot: Pilot[int], keys: str) -> None:
    await pilot.press(*keys.split())


def names(app: TopApp) -> list[str]:
    return [str(job["name"]) for job in app.shown()]


@pytest.mark.parametrize("size", [(80, 24), (60, 14), (200, 50)])
def test_it_shows_memory_jobs_events_and_keys(size: tuple[int, int]) -> None:
    async def steps(app: TopApp, pilot: Pilot[int]) -> None:
        # the parts are drawn one after the other
        first = ("bert began", "of 8 GiB", "lane 0  fair", "F1 Help")
        await until(pilot, lambda: all(words in text_of(app) for words in first))
        shown = text_of(app)
        assert "a-long-name" in shown and "99" in shown
        for header in ("STATE", "LIMIT", "RESIDENT", "STEPS/S"):
            assert header in shown
        assert all(len(line) <= size[0] for line in shown.splitlines())

    drive(three_jobs(), steps, size)


def test_jobs_are_sorted_filtered_and_inverted() -> None:
    async def steps(app: TopApp, pilot: Pilot[int]) -> None:
        assert names(app)[0] == "train"
        await press(pilot, "s down down enter")
        await until(pilot, lambda: names(app)[-1].startswith("a-long"))
        await press(pilot, "I")
        assert names(app)[0].startswith("a-long")
        await press(pilot, "slash b e r enter")
        await until(pilot, lambda: names(app) == ["bert"])
        assert "train" not in text_of(app).split("JOB")[1].split("bert began")[0]
        await press(pilot, "f4 escape")
        assert names(app) == ["bert"]

    drive(three_jobs(), steps)


def test_a_limit_goes_to_the_chosen_job_and_is_told_with_its_undo() -> None:
    daemon = three_jobs()

    async def steps(app: TopApp, pilot: Pilot[int]) -> None:
        await press(pilot, "down l 1 G i B enter")
        await until(pilot, lambda: "undo: tide limit bert none" in text_of(app))
        assert daemon.commands[-1]["job"] == "bert" and daemon.commands[-1]["bytes"] == GIB

    drive(daemon, steps)


def test_a_limit_that_is_none_is_refused_on_the_spot() -> None:
    daemon = three_jobs()

    async def steps(app: TopApp, pilot: Pilot[int]) -> None:
        await press(pilot, "l b i g enter")
        await until(pilot, lambda: "size" in text_of(app))
        assert daemon.commands == []

    drive(daemon, steps)


def test_a_pause_asks_first_and_a_paused_job_is_resumed() -> None:
    daemon = three_jobs()

    async def steps(app: TopApp, pilot: Pilot[int]) -> None:
        await press(pilot, "p")
        await until(pilot, lambda: "Pause train? It takes about 700 ms." in text_of(app))
        await press(pilot, "n")
        assert daemon.commands == []
        await press(pilot, "f9 y")
        await until(pilot, lambda: "train is paused in 680 ms" in text_of(app))
        await press(pilot, "down down p y")
        await until(pilot, lambda: "goes on" in text_of(app))
        assert [order["what"] for order in daemon.commands] == ["pause", "resume"]

    drive(daemon, steps)


def test_an_order_that_fails_says_what_to_do_and_the_view_goes_on() -> None:
    daemon = three_jobs()
    daemon.answers["pause"] = error("timeout", "not at a boundary", "give it longer")

    async def steps(app: TopApp, pilot: Pilot[int]) -> None:
        await press(pilot, "p y")
        await until(pilot, lambda: "not at a boundary; give it longer" in text_of(app))
        await press(pilot, "P up up enter")
        await until(pilot, lambda: daemon.commands[-1]["what"] == "priority")

    drive(daemon, steps)


def test_help_and_why_open_and_close() -> None:
    async def steps(app: TopApp, pilot: Pilot[int]) -> None:
        await press(pilot, "f1")
        await until(pilot, lambda: "this help" in text_of(app))
        await press(pilot, "escape enter")
        await until(pilot, lambda: "it waits" in text_of(app))
        await press(pilot, "q")
        await until(pilot, lambda: "it waits" not in text_of(app))

    drive(three_jobs(), steps)


def test_the_choice_stays_with_its_job_when_others_come_and_go() -> None:
    daemon = three_jobs()

    async def steps(app: TopApp, pilot: Pilot[int]) -> None:
        await press(pilot, "down")
        daemon.jobs.insert(0, job_record("new", id=9))
        await until(pilot, lambda: "new" in names(app))
        await press(pilot, "p")
        await until(pilot, lambda: "Pause bert?" in text_of(app))

    drive(daemon, steps)


def test_a_job_that_begins_is_seen_above_those_that_have_ended() -> None:
    daemon = FakeDaemon(*(job_record("old", id=n, state="gone") for n in range(2, 60)))

    async def steps(app: TopApp, pilot: Pilot[int]) -> None:
        await until(pilot, lambda: "old" in text_of(app))
        daemon.jobs.insert(0, job_record("new", id=1))
        await until(pilot, lambda: "new" in text_of(app))
        await press(pilot, "down down")
        daemon.jobs.append(job_record("last", id=99, state="gone"))
        await until(pilot, lambda: "last" in names(app))
        assert app.query_one(top_app.DataTable).cursor_row == 2  # and not the last of that name

    drive(daemon, steps)


def test_a_daemon_that_goes_away_is_told_and_waited_for() -> None:
    daemon = three_jobs()

    async def steps(app: TopApp, pilot: Pilot[int]) -> None:
        connect = daemon.request
        daemon.request = lambda *_: (_ for _ in ()).throw(  # type: ignore[method-assign]
            ConnectionResetError("reset")
        )
        await until(pilot, lambda: "no daemon; jobs train on" in text_of(app))
        daemon.request = connect  # type: ignore[method-assign]
        await until(pilot, lambda: "of 8 GiB" in text_of(app))

    drive(daemon, steps)


def test_a_name_cannot_move_the_cursor() -> None:
    daemon = FakeDaemon(job_record("evil\x1b[2J[red]x"))

    async def steps(app: TopApp, pilot: Pilot[int]) -> None:
        await until(pilot, lambda: "evil" in text_of(app))
        assert "\x1b" not in text_of(app) and "[red]" in text_of(app)

    drive(daemon, steps)


def test_a_sparkline_ends_with_the_newest_and_is_as_wide_as_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert sparkline(deque([0, 4, 8]), 8, 10)[-1] == top_app._BLOCKS[-1]
    assert len(sparkline(deque(range(100)), 100, 10)) == 10

    class Latin:
        encoding = "latin-1"

    monkeypatch.setattr("sys.__stdout__", Latin())
    assert sparkline(deque([0, 8]), 8, 10) == " #"
