"""Processes that a launcher connects: they meet under a new name each time, in any order."""

from __future__ import annotations

import threading
from datetime import timedelta

import pytest

torch = pytest.importorskip("torch")
dist = pytest.importorskip("torch.distributed")
if not dist.is_available():
    pytest.skip("this torch has no torch.distributed", allow_module_level=True)

from torchtide.elastic import hosts, reduction  # noqa: E402
from torchtide.errors import OptionError, ResizeAborted  # noqa: E402

DEADLINE = timedelta(seconds=20)


def meet(store: object, ranks: list[int], size: int) -> dict[int, str]:
    """What each rank was told; ranks come in the order given."""
    found: dict[int, str] = {}

    def come(rank: int) -> None:
        found[rank] = hosts._meet(store, rank, size, DEADLINE)

    threads = [threading.Thread(target=come, args=(rank,)) for rank in ranks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE.total_seconds())
    return found


@pytest.mark.parametrize("ranks", [[0, 1, 2], [2, 1, 0]])
def test_each_set_of_processes_meets_under_one_new_name(ranks: list[int]) -> None:
    store = dist.HashStore()
    first, second = meet(store, ranks, 3), meet(store, ranks, 3)
    for found in (first, second):
        assert sorted(found) == [0, 1, 2] and len(set(found.values())) == 1
    assert first[0] != second[0]


def test_what_dead_processes_have_left_deceives_nobody() -> None:
    store = dist.HashStore()
    store.set("hello/1", "a dead process")  # it came, and was killed before anybody answered
    store.set("welcome/2/x", "an old meeting")
    found = meet(store, [0, 1, 2], 3)
    assert sorted(found) == [0, 1, 2] and len(set(found.values())) == 1


def test_a_rank_that_does_not_come_is_named() -> None:
    with pytest.raises(ResizeAborted, match=r"ranks \[1\] have not come"):
        hosts._meet(dist.HashStore(), 0, 2, timedelta(milliseconds=1))


def test_more_processes_than_logical_workers_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    given = {"is_initialized": True, "get_backend": "gloo", "get_rank": 0, "get_world_size": 7}
    for name, value in given.items():
        monkeypatch.setattr(hosts.dist, name, lambda value=value: value)
    with pytest.raises(OptionError, match="6 logical workers cannot occupy 7 processes"):
        hosts.HostsExchange(6, [(0, 4)], 64)
    exchange = hosts.HostsExchange(7, [(0, 4)], 64)
    with pytest.raises(OptionError, match="wants 1 to 4 processes, the launcher has 7"):
        exchange.bound(1, 4)


def test_pieces_cover_all_bytes_and_know_their_gradients() -> None:
    places = [(0, 4 << 20), (4 << 20, 100), ((4 << 20) + 128, 3 << 20)]
    total = places[-1][0] + places[-1][1]
    for processes in (1, 2, 3, 7):
        pieces = reduction.Pieces(total, places, processes)
        ends = [0, *(span.stop for span in pieces.spans)]
        assert [span.start for span in pieces.spans] == ends[:-1] and ends[-1] == total
        assert all(start % 64 == 0 for start in ends[:-1])
        assert sum(pieces.bytes_of(rank) for rank in range(processes)) == total
        for (at, size), touched in zip(places, pieces.of_array, strict=True):
            spans = [pieces.spans[piece] for piece in touched]
            assert spans[0].start <= at < spans[0].stop
            assert spans[-1].start < at + size <= spans[-1].stop


@pytest.mark.parametrize("gain", [0.5, 2.0])
def test_what_is_faster_is_chosen_and_looked_at_again(gain: float) -> None:
    overlap = reduction.Overlap("auto")
    assert not overlap.early
    ways = []
    for step in range(4100):
        ways.append(overlap.early)
        slow_again = step >= 2000
        seconds = 1.0 if overlap.early == slow_again else gain
        overlap.record(None if step == 0 else seconds)
    tried = ways[2:18]
    assert ways[:2] == [False, False] and sorted(tried) == [False] * 8 + [True] * 8
    assert set(ways[18:2000]) == {gain < 1}
    assert set(ways[2018:4000]) == {gain > 1}


def test_how_gradients_leave_can_be_said() -> None:
    for mode in ("on", "off"):
        overlap = reduction.Overlap(mode)
        for _ in range(50):
            overlap.record(1.0)
        assert overlap.early == (mode == "on")
        overlap.never()
        assert not overlap.early
    with pytest.raises(OptionError, match="auto, on or off"):
        reduction.Overlap("1")
