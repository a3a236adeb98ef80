"""The rooms of csrc and the arrows between them are those of the table in docs/architecture.md."""

from __future__ import annotations

import re

import pytest
import source_tree as tree

ALONE = re.compile(r"`(?P<room>\w+)/(?P<header>[\w.]+)` alone")


def parse_table(page: str) -> dict[str, tuple[int, str]]:
    """Room -> (floor, text of the last column)."""
    rows = re.findall(r"^\| (\d) \| `(\w+)` \| .* \| ([^|]+) \|$", page, re.MULTILINE)
    return {room: (int(floor), may_use.strip()) for floor, room, may_use in rows}


def reachable(table: dict[str, tuple[int, str]], room: str) -> set[str]:
    """All rooms that `room` may include, itself too: arrows are transitive downward."""
    if room not in table:
        raise KeyError(f"{room} is not in the table")
    may_use = table[room][1]
    found = {room}
    if may_use == "absl" or ALONE.search(may_use):
        return found
    if floors := re.fullmatch(r"all of floors (\d)-(\d)", may_use):
        low, high = map(int, floors.groups())
        return found | {name for name, (floor, _) in table.items() if low <= floor <= high}
    for name in re.split(r",\s*", may_use):
        found |= reachable(table, name)
    return found


def arrow_faults(
    table: dict[str, tuple[int, str]], path: str, included: list[tuple[str, str]]
) -> list[str]:
    """Sentences about the includes of one file of csrc that the table does not have."""
    room = path.split("/")[1]
    if room not in table:
        return [f"{path}: csrc/{room} is not a room of docs/architecture.md"]
    allowed = reachable(table, room)
    alone = ALONE.search(table[room][1])
    faults = []
    for quote, name in included:
        target = name.split("/")[0]
        if quote == "<" or target in allowed:
            continue
        if alone and name == f"{alone['room']}/{alone['header']}":
            continue
        if target in table:
            faults.append(f"{path}: {room} may not use {name}")
        elif "/" not in name:
            faults.append(f'{path}: write "{room}/{name}", includes start at csrc')
    return faults


TABLE = parse_table(tree.text("docs/architecture.md"))


def test_the_table_is_read_whole() -> None:
    rows = re.findall(r"^\| \d \|", tree.text("docs/architecture.md"), re.MULTILINE)
    assert len(TABLE) == len(rows) >= 13
    for room, (_, may_use) in TABLE.items():
        assert may_use == "absl" or ALONE.search(may_use) or reachable(TABLE, room) > {room}, room


def test_includes_follow_the_arrows() -> None:
    paths = tree.files(*tree.CPP, under="csrc/")
    assert paths
    assert [
        fault for path in paths for fault in arrow_faults(TABLE, path, tree.includes(path))
    ] == []


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("csrc/base/x.cc", "shm/layout.h"),
        ("csrc/arena/x.cc", "lane/table.h"),
        ("csrc/torch_hooks/x.cc", "runtime/runtime.h"),
        ("csrc/coordinator/x.cc", "pages/page_table.h"),
        ("csrc/base/x.cc", "neighbour.h"),
        ("csrc/attic/x.cc", "base/bytes.h"),
    ],
)
def test_an_arrow_that_is_not_in_the_table_is_found(path: str, name: str) -> None:
    assert len(arrow_faults(TABLE, path, [('"', name)])) == 1


def test_arrows_are_transitive_and_adapters_see_one_header() -> None:
    allowed = [("csrc/arena/x.cc", "base/bytes.h"), ("csrc/torch_hooks/x.cc", "runtime/core_api.h")]
    for path, name in allowed:
        assert (
            arrow_faults(TABLE, path, [('"', name), ("<", "vector"), ('"', "absl/time/time.h")])
            == []
        )


def test_cmake_links_follow_the_arrows() -> None:
    rooms = re.findall(
        r"^tide_room\((\w+)(?: USES ([\w ]+))?\)", tree.text("CMakeLists.txt"), re.MULTILINE
    )
    assert rooms
    for room, uses in rooms:
        assert set(uses.split()) <= reachable(TABLE, room), f"CMakeLists.txt: {room} USES {uses}"
