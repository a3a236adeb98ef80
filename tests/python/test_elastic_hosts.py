"""Processes that a launcher connects: they meet under a new name each time, in any order."""

from __future__ import annotations

import threading
from datetime import timedelta

import pytest

torch = pytest.importorskip("torch")
dist = pytest.importorskip("torch.distributed")
if not dist.is_available():
    pytest.skip("this torch has no torch.distributed", allow_module_level=True)

from torchtide.elastic import hosts  # noqa: E402
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
