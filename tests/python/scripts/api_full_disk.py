"""Checks: a limit where the folder for spilling cannot be used."""

import torch
import torchtide as tide
from checks import check, main
from torchtide import errors

torch.set_num_threads(1)
tide.start()


@check
def a_limit_is_a_conflict_with_the_reason_and_the_job_goes_on():
    kept = torch.ones(1 << 20)
    for _ in range(8):
        tide.runtime.boundary()
    tide.runtime.GATE.end()
    try:
        tide.set_limit("8GiB")
    except errors.LimitConflict as error:
        assert "tmpfs" in str(error) and "TIDE_SPILL_DIR" in str(error), str(error)
    else:
        raise AssertionError("no conflict")
    assert tide.report()["limit"] == 0
    tide.runtime.boundary()
    assert kept.sum().item() == 1 << 20
    tide.runtime.GATE.end()


if __name__ == "__main__":
    main()
