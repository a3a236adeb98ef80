"""Ranks settle on one step for a signal: every order in which they can look, without torch."""

from __future__ import annotations

import itertools

import pytest
from torchtide._signals import Agreement


class Store:
    """A store of torch.distributed, in memory."""

    def __init__(self) -> None:
        self.kept: dict[str, bytes] = {}

    def set(self, key: str, value: str) -> None:
        self.kept[key] = value.encode()

    def get(self, key: str) -> bytes:
        return self.kept[key]

    def check(self, keys: list[str]) -> bool:
        return all(key in self.kept for key in keys)


class Ranks:
    """Ranks that step together: none begins a step before all have done the last but one."""

    def __init__(self, count: int) -> None:
        store = Store()
        self.agreements = [Agreement(store, rank) for rank in range(count)]
        self.done = [0] * count
        self.acted: list[list[tuple[int, str]]] = [[] for _ in range(count)]

    def boundary(self, rank: int, wish: str = "") -> bool:
        """One rank comes to its boundary and begins the next step; False when it may not yet."""
        if self.done[rank] > min(self.done):  # its step has a collective that another one is in
            return False
        action = self.agreements[rank].settle(wish, self.done[rank])
        if action:
            self.acted[rank].append((self.done[rank], action))
        self.done[rank] += 1
        return True


@pytest.mark.parametrize("signalled", [(0,), (1,), (2,), (1, 2), (0, 1, 2)])
@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_all_ranks_act_after_the_same_step(
    order: tuple[int, ...], signalled: tuple[int, ...]
) -> None:
    ranks = Ranks(3)
    for step, rank in itertools.product(range(8), order):
        wish = "pause 10" if rank in signalled and step >= 2 and not ranks.acted[rank] else ""
        assert ranks.boundary(rank, wish)
    first = ranks.acted[0]
    assert len(first) >= 1 and first[0][1] == "pause 10" and first[0][0] <= 5
    assert ranks.acted == [first] * 3


def test_a_second_signal_is_settled_like_the_first() -> None:
    ranks, order = Ranks(2), (1, 0)
    for step, rank in itertools.product(range(12), order):
        wish = {2: "pause 10", 8: "save-and-end 15"}.get(step, "") if rank == 0 else ""
        assert ranks.boundary(rank, wish)
    assert ranks.acted == [[(3, "pause 10"), (9, "save-and-end 15")]] * 2


def test_the_evaluation_of_one_rank_makes_no_difference() -> None:
    ranks = Ranks(2)
    for step in range(6):
        wish = "save 10" if step == 2 else ""
        if step == 2:  # boundaries of rank 0 with no step between them
            assert [ranks.agreements[0].settle(wish, step) for _ in range(3)] == [""] * 3
        assert ranks.boundary(0, wish)
        assert ranks.boundary(1)
    assert ranks.acted == [[(3, "save 10")]] * 2
