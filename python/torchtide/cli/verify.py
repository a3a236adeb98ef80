"""`tide verify A B`: whether two files of a run, or of any model, hold the same bits."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from torchtide.cli import exits
from torchtide.errors import OptionError

#: Differences that are told; all are counted.
TOLD_MAX: Final = 10
#: Parts of a file that follow from the others.
_DERIVED: Final = ("checksum",)


def verify(one: Path, other: Path, json_output: bool) -> int:
    """Compares two files bit for bit; 0 when they are equal, 1 when not.

    Raises:
        OptionError: A file is not there, or torch cannot read it.
    """
    differences = list(compare(_read(one), _read(other), ""))
    told = [{"where": where, "what": what} for where, what in differences[:TOLD_MAX]]
    if json_output:
        exits.emit_json({"equal": not differences, "differences": len(differences), "first": told})
    elif not differences:
        print(f"{one} and {other} are equal bit for bit")
    else:
        print(f"{one} and {other} differ in {len(differences)} places")
        for place in told:
            print(f"  {place['where']}: {place['what']}")
    return exits.FAILED if differences else exits.OK


def compare(one: Any, other: Any, where: str) -> Iterator[tuple[str, str]]:
    """Where two trees of values and tensors differ, and how."""
    import torch

    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        yield from _compare_tensors(one, other, where)
    elif isinstance(one, Mapping) and isinstance(other, Mapping):
        for key in [*one, *(key for key in other if key not in one)]:
            if key in _DERIVED and not where:
                continue
            place = f"{where}.{key}" if where else str(key)
            if key not in one or key not in other:
                yield place, f"only in the {'first' if key in one else 'second'}"
            else:
                yield from compare(one[key], other[key], place)
    elif isinstance(one, (list, tuple)) and isinstance(other, (list, tuple)):
        if len(one) != len(other):
            yield where, f"{len(one)} entries, {len(other)} in the second"
        for index, (left, right) in enumerate(zip(one, other, strict=False)):
            yield from compare(left, right, f"{where}[{index}]")
    elif type(one) is not type(other) or not (one == other or (one != one and other != other)):
        yield where, f"{one!r}, {other!r} in the second"


def _compare_tensors(one: Any, other: Any, where: str) -> Iterator[tuple[str, str]]:
    import torch

    if (one.shape, one.dtype, one.layout) != (other.shape, other.dtype, other.layout):
        yield where, f"{_shape(one)}, {_shape(other)} in the second"
        return
    if one.layout is not torch.strided:
        yield from _compare_tensors(one.to_dense(), other.to_dense(), where)
        return
    if one.numel() == 0:
        return
    bytes_of = [t.contiguous().reshape(-1).view(torch.uint8) for t in (one, other)]
    unequal = (bytes_of[0] != bytes_of[1]).view(one.numel(), -1).any(dim=1)
    if unequal.any():
        text = f"{int(unequal.sum())} of {one.numel()} elements differ"
        if one.dtype.is_floating_point:
            text += f", by {float((one.double() - other.double()).abs().max()):.3g} at most"
        yield where, text


def _shape(tensor: Any) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')}{list(tensor.shape)}"


def _read(path: Path) -> Any:
    import torch

    asked = f"tide verify {path}"
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise OptionError("there is no such file", asked=asked) from None
    except Exception as error:  # of what is no pickle, it raises anything
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise OptionError(
            f"torch cannot read it: {reason}",
            asked=asked,
            advice="it compares what run.save or torch.save of a state_dict wrote",
        ) from error
