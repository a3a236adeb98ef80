"""Checks: what is left to do when neither memory nor the spill file has room."""

import torch
import torchtide as tide
from checks import check, main
from torchtide import _core, errors

COUNT = 1 << 22  # 16 MiB

torch.set_num_threads(1)
tide.start(name="crowded")


@check
def out_of_memory_is_torchs_error_with_a_table_and_the_process_goes_on():
    kept = []
    for _ in range(2):  # once full, it is full in the same way again
        try:
            for _ in range(64):
                kept.append(torch.full((COUNT,), float(len(kept))))
        except torch.OutOfMemoryError as error:
            told = str(error)
        else:
            raise AssertionError("64 blocks of 16 MiB fitted")
        for word in ("16 MiB", "crowded", "(this job)", "resident", "used", "of", "tide limit"):
            assert word in told, told
        assert "spill" in told and "TIDE_SPILL_MAX" in told, told
        assert isinstance(error_of(told), errors.OutOfMemory)
        assert [t[0].item() for t in kept] == [float(i) for i in range(len(kept))]
        _core.validate()
        kept = kept[:1]
    assert torch.full((1 << 19,), 2.0).sum().item() == 2.0 * (1 << 19)


def error_of(told):
    """As a caller would who raises ours."""
    made = errors.OutOfMemory(told)
    assert isinstance(made, torch.OutOfMemoryError)
    return made


@check
def autograd_survives_an_error_in_the_middle_of_an_iteration():
    tide.runtime.boundary()
    weight = torch.ones(1 << 19, requires_grad=True)
    try:
        (weight.expand(512, -1) * 2.0).sum().backward()
    except torch.OutOfMemoryError:
        pass
    else:
        raise AssertionError("1 GiB fitted")
    weight.grad = None
    (weight * 3.0).sum().backward()
    tide.runtime.boundary()
    assert weight.grad.sum().item() == 3.0 * (1 << 19)
    tide.runtime.GATE.end()


@check
def a_pause_that_the_spill_file_cannot_hold_is_undone_and_says_why():
    kept = [torch.full((COUNT,), float(index)) for index in range(6)]
    tide.runtime.GATE.end()
    try:
        tide.pause()
    except Exception as error:
        assert "TIDE_SPILL_MAX" in str(error) and "came back" in str(error), str(error)
    else:
        raise AssertionError("96 MiB were moved into a file of 64 MiB")
    assert not tide.report()["suspended"]
    tide.runtime.boundary()
    assert [t.mean().item() for t in kept] == [float(i) for i in range(6)]
    tide.runtime.GATE.end()
    _core.validate()


if __name__ == "__main__":
    main()
