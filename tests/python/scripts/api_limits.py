"""Checks: limits, suspension and running out of memory, as a training process sees them."""

import threading

import torch
import torchtide as tide
from checks import check, main
from torchtide import _core, errors

COUNT = 1 << 19  # 2 MiB
MIB = 1 << 20

torch.set_num_threads(1)
tide.start(name="limits")
TENSORS = [torch.full((COUNT,), float(index)) for index in range(16)]
GATE = tide.runtime.GATE


def boundaries(count):
    for _ in range(count):
        tide.runtime.boundary()
    GATE.end()


def same():
    return [tensor.mean().item() for tensor in TENSORS] == [float(i) for i in range(16)]


@check
def between_iterations_a_limit_applies_at_once_and_its_revision_grows():
    boundaries(8)
    revisions = []
    for room in (512, 256, 400):
        answer = tide.set_limit(tide.report()["outside"] + room * MIB)
        assert answer["status"] == "applied", answer
        assert {"outside", "pinned", "scratch", "window", "smallest"} <= set(answer["parts"])
        assert answer["took_ms"] >= 0 and answer["overage_bytes"] == 0
        revisions.append(answer["revision"])
        assert tide.report()["budget_revision"] == answer["revision"]
    assert revisions == sorted(set(revisions))
    assert tide.set_limit("4GiB")["status"] == "applied"
    assert tide.report()["limit"] == 4096 * MIB
    assert tide.set_limit(None)["revision"] > revisions[-1]
    assert tide.report()["limit"] == 0 and same()


@check
def inside_an_iteration_a_limit_waits_for_the_boundary():
    tide.runtime.boundary()
    before = tide.report()
    answer = tide.set_limit("3GiB")
    assert answer["status"] == "deferred" and "boundary" in answer["text"]
    assert tide.report()["limit"] == before["limit"]
    tide.runtime.boundary()
    assert tide.report()["limit"] == 3 << 30
    assert tide.report()["budget_revision"] == before["budget_revision"] + 1
    GATE.end()
    tide.set_limit(None)


@check
def of_two_limits_before_a_boundary_the_newer_one_wins():
    tide.runtime.boundary()
    before = tide.report()["budget_revision"]
    tide.set_limit("3GiB")
    tide.set_limit("5GiB")
    boundaries(1)
    assert tide.report()["limit"] == 5 << 30
    assert tide.report()["budget_revision"] == before + 2
    tide.set_limit(None)


@check
def a_limit_below_the_smallest_possible_is_a_conflict_that_names_the_parts():
    boundaries(8)
    tide.set_limit("4GiB")
    revision = tide.report()["budget_revision"]
    try:
        tide.set_limit("32MiB")
    except errors.LimitConflict as error:
        told = str(error)
        for word in ("32 MiB", "smallest", "outside", "pinned", "scratch", "window", "old limit"):
            assert word in told, told
    else:
        raise AssertionError("no conflict")
    assert tide.report()["limit"] == 4 << 30
    assert tide.report()["budget_revision"] == revision
    tide.set_limit(None)
    assert same()


@check
def a_conflict_carries_its_parts_for_programs():
    boundaries(8)
    try:
        tide.set_limit("32MiB")
    except errors.LimitConflict as error:
        assert error.parts["smallest"] > 32 * MIB and error.parts["outside"] > 0, error.parts
    else:
        raise AssertionError("no conflict")


@check
def a_limit_that_moves_leaves_what_is_guaranteed():
    boundaries(8)
    tide.set_limit("4GiB", guaranteed="2GiB")
    tide.set_limit("3GiB")
    assert (tide.report()["limit"], tide.report()["guaranteed"]) == (3 << 30, 2 << 30)
    tide.set_limit(None)
    assert (tide.report()["limit"], tide.report()["guaranteed"]) == (0, 2 << 30)
    tide.set_limit("3GiB", guaranteed=0)
    assert tide.report()["guaranteed"] == 0
    tide.set_limit(None)


@check
def a_limit_below_what_is_guaranteed_is_a_conflict_and_changes_nothing():
    boundaries(8)
    revision = tide.set_limit("4GiB", guaranteed="3GiB")["revision"]
    for refused in ({"limit": "2GiB"}, {"limit": "4GiB", "guaranteed": "5GiB"}):
        try:
            tide.set_limit(**refused)
        except errors.LimitConflict as error:
            told = str(error)
            assert "guaranteed" in told and "old limit stays" in told, told
        else:
            raise AssertionError(f"{refused} was taken")
        report = tide.report()
        assert (report["limit"], report["guaranteed"]) == (4 << 30, 3 << 30)
        assert report["budget_revision"] == revision
    tide.set_limit("2GiB", guaranteed="1GiB")
    assert (tide.report()["limit"], tide.report()["guaranteed"]) == (2 << 30, 1 << 30)
    tide.set_limit(None, guaranteed=0)


@check
def nonsense_is_refused_and_changes_nothing():
    before = tide.report()["budget_revision"]
    for nonsense in ("much", "-1GiB", "1.5.2GiB"):
        try:
            tide.set_limit(nonsense)
        except ValueError:
            continue
        raise AssertionError(f"{nonsense} was taken")
    assert tide.report()["budget_revision"] == before


@check
def a_tight_limit_moves_pages_and_raising_it_brings_them_back():
    boundaries(8)
    smallest = tide.report()["smallest_limit"]
    answer = tide.set_limit(smallest + 4 * MIB)
    assert answer["status"] in ("applied", "deferred"), answer
    assert tide.report()["demoted"] > 0
    assert same()
    tide.set_limit(None)
    boundaries(1)
    assert tide.report()["demoted"] == 0 and same()
    _core.validate()


@check
def pause_and_resume_are_idempotent_and_predicted():
    boundaries(2)
    assert tide.report()["predicted_suspend_seconds"] > 0
    for _ in range(2):
        tide.pause()
        report = tide.report()
        assert report["suspended"] and report["demoted"] >= 32 * MIB
        assert report["predicted_resume_seconds"] > 0 and report["suspend_seconds"] > 0
    assert same()  # reading a demoted tensor is no fault
    for _ in range(2):
        tide.resume()
        assert not tide.report()["suspended"]
    assert tide.report()["demoted"] == 0 and same()
    _core.validate()


@check
def a_paused_job_waits_at_its_next_iteration_until_another_thread_resumes_it():
    boundaries(1)
    tide.pause()
    resumed = threading.Event()

    def wake():
        resumed.set()
        _core.resume(False)

    timer = threading.Timer(0.3, wake)
    timer.start()
    boundaries(1)
    assert resumed.is_set() and not tide.report()["suspended"] and same()
    timer.join()


@check
def pausing_inside_an_iteration_takes_effect_at_its_end():
    tide.runtime.boundary()
    tide.pause()
    assert not tide.report()["suspended"]
    GATE.end()
    assert tide.report()["suspended"]
    tide.resume()
    assert not tide.report()["suspended"] and same()


@check
def the_report_and_the_table_name_this_job():
    report = tide.memory.report()
    for name in ("committed", "live", "cached", "demoted", "pinned", "outside", "peak"):
        assert report[name] >= 0, name
    assert report["live"] >= 32 * MIB
    assert "limits" in tide.memory.table() and "(this job)" in tide.memory.table()


@check
def a_job_is_decorated_with_and_without_parentheses():
    @tide.job
    def bare(size: int, *, scale: int = 2) -> int:
        """Doc."""
        return size * scale

    @tide.job(name="named", priority="normal")
    def with_options(size: int) -> int:
        return size

    assert bare(3) == 6 and bare(3, scale=5) == 15 and with_options(4) == 4
    assert bare.__name__ == "bare" and bare.__doc__ == "Doc."

    @tide.job()
    def failing() -> None:
        GATE.boundary(2)
        raise RuntimeError("of the user")

    try:
        failing()
    except RuntimeError as error:
        assert str(error) == "of the user"
    assert not GATE.open


if __name__ == "__main__":
    main()
