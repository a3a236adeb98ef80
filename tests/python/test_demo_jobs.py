"""The quickstart's jobs: the capacity rule, the bitwise comparison, kept measurements."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from torchtide.demo import jobs
from torchtide.demo.confine import Sample
from torchtide.demo.jobs import Record, Solo

MIB = 1 << 20


def record(**changes: object) -> Record:
    values = {
        "digests": {"parameter w": "aa", "random state": "bb"},
        "losses": [(0.5).hex(), (0.25).hex()],
        "times": [10.0, 11.0, 12.0, 13.0],
        "state_bytes": 300 * MIB,
        "parameter_bytes": 100 * MIB,
    }
    return Record(**{**values, **changes})  # type: ignore[arg-type]


def sample(seconds: float, used_mib: int) -> Sample:
    return Sample(seconds, used_mib * MIB, 0, 0, {})


def test_capacity_is_a_share_of_the_sum_when_jobs_are_alike() -> None:
    assert jobs.capacity_bytes([1000 * MIB] * 4) == 2600 * MIB


def test_capacity_leaves_room_for_a_job_that_is_larger_than_the_rest() -> None:
    assert jobs.capacity_bytes([4000 * MIB, 100 * MIB]) == 5000 * MIB


def test_capacity_is_whole_mebibytes() -> None:
    assert jobs.capacity_bytes([1000 * MIB + 7, 1000 * MIB]) % MIB == 0


def test_equal_records_have_no_differences() -> None:
    assert jobs.differences(record(), record()) == []


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"digests": {"parameter w": "ab", "random state": "bb"}}, ["parameter w"]),
        ({"digests": {"parameter w": "aa"}}, ["random state"]),
        ({"losses": [(0.5).hex(), (0.75).hex()]}, ["loss 2"]),
        ({"losses": [(0.5).hex()]}, ["loss 2"]),
    ],
)
def test_each_difference_is_named(changes: dict[str, object], named: list[str]) -> None:
    assert jobs.differences(record(), record(**changes)) == named
    assert jobs.differences(record(**changes), record()) == named


def test_times_and_sizes_are_no_differences() -> None:
    assert jobs.differences(record(), record(times=[1.0, 9.0], state_bytes=1)) == []


def test_persistent_bytes_are_what_is_left_between_iterations() -> None:
    started = 5.0  # so the first iteration begins at second 5 of the samples
    samples = [sample(4.5, 400), sample(5.5, 900), sample(7.2, 550), sample(7.8, 900)]
    assert jobs.persistent_bytes(samples, started, record()) == 550 * MIB


def test_memory_that_the_c_library_keeps_is_not_persistent() -> None:
    samples = [sample(4.5, 400), sample(7.2, 850), sample(7.8, 900)]
    # 400 before training and 200 of optimizer state
    assert jobs.persistent_bytes(samples, 5.0, record()) == 600 * MIB


def test_persistent_bytes_of_no_samples_are_zero() -> None:
    assert jobs.persistent_bytes([], 5.0, record()) == 0


def test_a_kept_measurement_comes_back_as_it_was(tmp_path: Path) -> None:
    solo = Solo(record(), 1000, 400, 12.5)
    jobs.save_solo(tmp_path / "solo.json", solo, "print")
    assert jobs.load_solo(tmp_path / "solo.json", "print") == solo
    assert solo.scratch_bytes == 600


def test_a_measurement_of_other_code_is_not_used(tmp_path: Path) -> None:
    script = tmp_path / "job.py"
    script.write_text("one")
    before = jobs.fingerprint(script, 5, "torch 2")
    jobs.save_solo(tmp_path / "solo.json", Solo(record(), 1, 1, 1.0), before)
    assert jobs.fingerprint(script, 6, "torch 2") != before
    assert jobs.fingerprint(script, 5, "torch 3") != before
    script.write_text("two")
    after = jobs.fingerprint(script, 5, "torch 2")
    assert jobs.load_solo(tmp_path / "solo.json", after) is None


@pytest.mark.parametrize("text", ["", "{", "[]", '{"fingerprint": "print"}'])
def test_a_broken_measurement_is_measured_again(tmp_path: Path, text: str) -> None:
    (tmp_path / "solo.json").write_text(text)
    assert jobs.load_solo(tmp_path / "solo.json", "print") is None


def test_a_job_that_did_not_live_has_no_record(tmp_path: Path) -> None:
    assert Record.read(tmp_path / "none.json") is None
    path = tmp_path / "some.json"
    path.write_text(json.dumps({**vars(record()), "max_rss_bytes": 1}))
    assert Record.read(path) == record()


def test_every_job_is_a_script_of_examples() -> None:
    examples = Path(__file__).parents[2] / "examples"
    for job in jobs.JOBS:
        assert (examples / f"{job.name}.py").is_file()
        argv = job.argv("python", examples / f"{job.name}.py", job.steps, Path("x.json"))
        assert argv[-4:] == ["--steps", str(job.steps), "--out", "x.json"]
