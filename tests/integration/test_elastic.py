"""Histories of sizes and kills give the bits of one process; what is left out breaks them."""

from __future__ import annotations

import json
import os
import pathlib
import random
import subprocess
import sys
from typing import Any

import pytest
from cli_processes import LEAN

pytest.importorskip("torch")

ROOT = pathlib.Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "tests/python/scripts/elastic_histories.py"
ALONE: dict[str, Any] = {"start": 1, "alone": True}
WORKERS = 4
#: Starts data workers in each process: slow where cores are few.
LONG_ONLY = ["readers"] if "TIDE_TEST_HISTORIES" in os.environ else []
#: More for one script of a long run.
LONG_S = 3600 if {"TIDE_TEST_HISTORIES", "TIDE_TEST_KILLS"} & set(os.environ) else 0


def play(model: str, histories: list[dict[str, Any]], workers: int = WORKERS) -> list[Any]:
    """One result a history; see the script."""
    wish = {"model": model, "workers": workers, "histories": histories}
    environment = os.environ | {"PYTHONPATH": LEAN, "TIDE_DAEMON": "off"}
    result = subprocess.run(
        [sys.executable, str(SCRIPT), json.dumps(wish)],
        capture_output=True,
        text=True,
        env=environment,
        timeout=120 + LONG_S,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout)
    for history, played in zip(histories, found, strict=True):
        expected = {0} | ({-9} if history.get("kills") else set())
        assert set(played["codes"]) <= expected, (history, played["codes"], result.stderr)
    return found


def digests(played: Any) -> list[tuple[int, list[str]]]:
    """(step, digests of all processes): one digest a step when they agree."""
    return [(step, found) for step, _, found in played["steps"]]


def sizes(played: Any) -> list[int]:
    """The number of processes of each step."""
    return [size[0] for _, size, _ in played["steps"]]


def random_history(seed: int, steps: int = 14) -> dict[str, Any]:
    source = random.Random(seed)
    size = source.randint(1, WORKERS)
    history: dict[str, Any] = {"start": size, "sizes": {}}
    for step in sorted(source.sample(range(1, steps - 1), 3)):
        size = source.choice([other for other in range(1, WORKERS + 1) if other != size])
        history["sizes"][str(step)] = size
    return history


@pytest.mark.slow
@pytest.mark.parametrize(
    "model",
    ["resnet", "gpt", "tied", "lstm", "amp", "sparse", "bag", "stream", *LONG_ONLY],
)
def test_histories_of_sizes_and_kills_give_the_bits_of_one_process(model: str) -> None:
    seed = int(os.environ.get("TIDE_TEST_SEED", "11")) + len(model)
    rounds = int(os.environ.get("TIDE_TEST_HISTORIES", "1"))
    print(f"seed {seed}, {rounds} random histories")
    kills = {"3": [1, "backward", 0], "6": [0, "forward", 1]}
    histories = [ALONE, {"start": 3, "kills": kills}]
    histories += [random_history(seed + round_) for round_ in range(rounds)]
    alone, killed, *moved = play(model, histories)
    assert len(alone["steps"]) > 10
    for played in (killed, *moved):
        assert digests(played) == digests(alone)
    assert sizes(killed)[2:7] == [3, 2, 2, 2, 1]  # each kill cost a process and no step
    for played, history in zip(moved, histories[2:], strict=True):
        # Joiners that are ready one after the other come one after the other.
        assert set(sizes(played)) >= {history["start"], *history["sizes"].values()}


@pytest.mark.one_torch
@pytest.mark.slow
def test_a_number_of_workers_that_is_no_power_of_two() -> None:
    alone, three, moved = play(
        "gpt", [ALONE, {"start": 4}, {"start": 2, "sizes": {"1": 5, "3": 3}}], workers=6
    )
    assert digests(three) == digests(alone)
    assert digests(moved) == digests(alone)


@pytest.mark.one_torch
@pytest.mark.slow
def test_kills_at_random_moments_lose_and_double_nothing() -> None:
    seed = int(os.environ.get("TIDE_TEST_SEED", "23"))
    kills = int(os.environ.get("TIDE_TEST_KILLS", "8"))
    print(f"seed {seed}, {kills} kills")
    epochs = 6 + 2 * kills
    alone, killed = play(
        "lstm",
        [
            ALONE | {"epochs": epochs},
            {"start": 3, "epochs": epochs, "random_kills": kills, "seed": seed},
        ],
    )
    assert killed["killed"] >= kills // 2  # the training may end first; see the script
    assert digests(killed) == digests(alone)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "how"),
    [
        ("gpt", "order"),
        ("gpt", "random"),
        ("resnet", "buffers"),
        ("resnet", "threads"),
        ("bag", "rows"),
    ],
)
def test_what_is_done_as_usual_breaks_the_bits(model: str, how: str) -> None:
    one, two = play(model, [{"start": 1, "broken": how}, {"start": 2, "broken": how}])
    assert all(len(found) == 1 for _, found in digests(one))
    assert digests(one) != digests(two)


@pytest.mark.slow
@pytest.mark.parametrize("model", ["resnet", "sparse"])
def test_a_checkpoint_goes_on_in_any_number_of_processes(
    model: str, tmp_path: pathlib.Path
) -> None:
    path = str(tmp_path / "run.pt")
    alone, saved, loaded, grown, forgot = play(
        model,
        [
            ALONE,
            {"start": 3, "save": [5, path], "sizes": {"8": 2}},
            ALONE | {"load": path},
            {"start": 2, "load": path, "sizes": {"8": 4}},
            ALONE | {"load": path, "broken": "forget"},
        ],
    )
    assert digests(saved) == digests(alone)
    rest = [(step, found) for step, found in digests(alone) if step > 5]
    assert digests(loaded) == rest
    assert digests(grown) == rest
    assert digests(forgot) != rest  # what the contexts of logical workers are for
