"""The benchmark driver: its arithmetic, its line of JSON, and one figure run as a user would."""

from __future__ import annotations

import json
import os
import pathlib
import random
import subprocess
import sys

import pytest

from benchmarks import coordinator, estimates, harness, torchrun, turn_mix
from benchmarks import figure as figures

ROOT = pathlib.Path(__file__).resolve().parents[2]


def test_the_paired_interval_covers_the_true_ratio_of_noisy_rounds() -> None:
    covered = 0
    for seed in range(40):
        source = random.Random(seed)
        weather = [source.uniform(1, 5) for _ in range(30)]  # hits both arms of a round alike
        ours = [1.1 * state * source.gauss(1, 0.02) for state in weather]
        theirs = [state * source.gauss(1, 0.02) for state in weather]
        estimate = estimates.paired_ratio(ours, theirs, seed)
        covered += estimate.low <= 1.1 <= estimate.high
        assert estimate.high - estimate.low < 0.1
    assert covered >= 34, "a 95 % interval that covers in under 34 of 40 draws is too narrow"


def test_rounds_of_unequal_number_are_refused() -> None:
    with pytest.raises(ValueError, match="2 rounds of ours, 1 of the baseline"):
        estimates.paired_ratio([1.0, 2.0], [1.0])


def test_a_quantile_lies_between_its_neighbours() -> None:
    assert estimates.quantile([3.0, 1.0, 2.0], 0.5) == 2.0
    assert estimates.quantile([0.0, 10.0], 0.25) == 2.5
    assert estimates.quantile([7.0], 0.99) == 7.0


def test_arms_run_once_a_round_in_changing_order() -> None:
    calls: list[str] = []
    arms = {name: (lambda name=name: calls.append(name) or len(calls)) for name in "abc"}
    measured = harness.interleave(arms, 20, harness.Deadline(60), seed=3)
    assert {name: len(values) for name, values in measured.items()} == dict.fromkeys("abc", 20)
    rounds = ["".join(calls[i : i + 3]) for i in range(0, 60, 3)]
    assert all(sorted(round_) == ["a", "b", "c"] for round_ in rounds)
    assert len(set(rounds)) > 3


def test_news_of_ranks_come_line_by_line_however_they_were_written(tmp_path: pathlib.Path) -> None:
    os.mkfifo(tmp_path / "news")
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as agent:
        news = torchrun.news_of(tmp_path / "news", agent, 60)
        writer = os.open(tmp_path / "news", os.O_RDWR)
        os.write(writer, b'{"step": 1}\n{"step": 2}\n{"st')
        assert [next(news)["step"], next(news)["step"]] == [1, 2]
        os.write(writer, b'ep": 3}\n')
        assert next(news)["step"] == 3
        agent.communicate(b"\n")
        with pytest.raises(RuntimeError, match="torchrun ended before a step after the restart"):
            next(news)
        os.close(writer)


def test_a_job_that_comes_to_no_step_is_ended_with_its_time(tmp_path: pathlib.Path) -> None:
    with pytest.raises(RuntimeError, match="no step after the restart within 0 s") as raised:
        torchrun.gap(tmp_path, 2, 1, 0.0)
    assert "torchrun said" in str(raised.value)


def test_a_spent_deadline_still_leaves_the_least_number_of_rounds() -> None:
    measured = harness.interleave({"a": lambda: 1.0}, 20, harness.Deadline(-1))
    assert len(measured["a"]) == harness.ROUNDS_MIN


def test_the_line_of_json_has_the_keys_of_the_contract_and_a_reason_for_each_null() -> None:
    figure = figures.Figure("x")
    figure.put("ratio", estimates.Estimate(1.0, 0.9, 1.1, 5))
    figure.missing("gone", "needs a device that is not here")
    figure.require(("ratio", "late"), "ran out of time")
    line = figures.as_json(figure, 1.23, quick=True, load=[0.0, 0.0, 0.0])
    found = json.loads(line)
    assert "\n" not in line
    assert {"bench", "values", "baselines", "seconds", "versions", "why"} <= found.keys()
    assert found["values"]["ratio"] == 1.0
    assert found["values"]["ratio_ci95"] == [0.9, 1.1]
    nulls = {key for key, value in found["values"].items() if value is None}
    assert nulls == {"gone", "late"} == found["why"].keys()
    assert {"torch", "python", "kernel", "processor", "cores"} <= found["versions"].keys()


def test_the_mix_is_the_published_one_and_short_jobs_first_help_it() -> None:
    jobs = turn_mix.mix()
    assert jobs == turn_mix.mix()
    assert len(jobs) == turn_mix.COUNT
    assert 3.0 < turn_mix.ideal_ratio(jobs) < 4.0


def test_ideal_completion_follows_the_policy() -> None:
    jobs = [turn_mix.ShortJob(10, 0.0), turn_mix.ShortJob(2, 1.0)]
    assert turn_mix.ideal_completion(jobs, turn_mix.first_come) == (10 + 11) / 2
    assert turn_mix.ideal_completion(jobs, turn_mix.shortest_left) == (12 + 2) / 2
    assert turn_mix.ideal_completion(jobs, turn_mix.first_come, first=3.0) == (12 + 15) / 2
    assert turn_mix.ideal_completion(jobs, turn_mix.shortest_left, first=3.0) == (16 + 6) / 2


def test_a_device_that_idles_between_arrivals_waits_for_the_next() -> None:
    jobs = [turn_mix.ShortJob(1, 0.0), turn_mix.ShortJob(1, 5.0)]
    assert turn_mix.ideal_completion(jobs, turn_mix.first_come) == 1.0


@pytest.mark.slow
@pytest.mark.torch
def test_the_quickest_figure_ends_with_its_line_of_json() -> None:
    command = [sys.executable, "-m", "benchmarks.run", "hook", "--quick", "--json"]
    path = os.pathsep.join([str(ROOT / "python"), str(ROOT)])
    result = subprocess.run(
        command,
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": path},
        timeout=300,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout.strip().splitlines()[-1])
    assert found["bench"] == "hook"
    assert found["values"]["alloc_ns"].keys() == found["baselines"]["alloc_ns"].keys()
    assert all(value > 0 for value in found["values"]["alloc_ns"].values())
    assert {key for key, value in found["values"].items() if value is None} == found["why"].keys()


@pytest.mark.slow
def test_the_load_of_a_coordinator_is_read_back_and_loses_nothing() -> None:
    numbers = {"jobs": 200, "nodes": 40, "probes": 20, "reports": 2000, "reports_per_s": 500}
    line = coordinator.run_load(coordinator.load_program(), **numbers)
    assert line["jobs_registered"] == 200
    assert line["connections"] == 40
    assert line["lost_changes"] == 0
    assert line["reports_per_s"] > 0
    assert 0 < line["grant_rtt_us_p50"] <= line["grant_rtt_us_p99"]
    assert line["restart_s"] < 60
