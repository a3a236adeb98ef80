"""What becomes of contents when memory leaves a device: kept, dropped or made again."""

from __future__ import annotations

import dataclasses
import weakref
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, Literal

from torchtide import _core
from torchtide._gate import GATE

if TYPE_CHECKING:
    import torch

    Rebuild = Callable[[list[torch.Tensor]], object]

Ranges = set[tuple[int, int]]


@dataclasses.dataclass
class _Tag:
    """Tensors of one name and their storages, of which a view may be all that the program has."""

    tensors: list[weakref.ref[torch.Tensor]]
    storages: list[Any]  # weak references too
    contents: Literal["keep", "drop", "rebuild"]
    rebuild: Rebuild | None
    lost: bool = False  # and not made again yet
    lost_total: int = 0

    def alive(self) -> Iterator[torch.Tensor]:
        """Those that are there, wherever they are."""
        yield from (tensor for one in self.tensors if (tensor := one()) is not None)

    def ranges(self) -> Ranges:
        """Address and size in bytes of the storages on devices."""
        import torch

        # A parameter that was moved has another storage than when it was named.
        storages = [one.untyped_storage() for one in self.alive()]
        for weak in self.storages:
            if not weak.expired():
                storages.append(torch.UntypedStorage._new_with_weak_ptr(weak.cdata))
        return {
            (one.data_ptr(), one.nbytes())
            for one in storages
            if one is not None and one.device.type == "cuda" and one.nbytes() > 0
        }


_tags: dict[str, _Tag] = {}


def tag(
    name: str,
    tensors: Iterable[torch.Tensor],
    contents: Literal["keep", "drop"] | Rebuild = "keep",
) -> None:
    """Says what becomes of tensors' contents when their memory leaves the device for a while.

    A pause, `suspend` and the turn of another job copy all contents to host memory. What can be
    made again, or is not needed again, may go without: a cache, a buffer, a table. Only pages with
    nothing else on them do. They come back filled with zeros, so that after a pause a tensor is
    partly what it was and partly zeros. The same name again replaces the tag; `keep` takes it back.

        torchtide.cuda.tag("cache", [keys, values], "drop")
        torchtide.cuda.tag("table", [table], lambda tensors: fill(tensors[0]))

    Args:
        name: of the tag, as `report()["tags"]` shows it.
        tensors: held weakly; what shares a storage with one belongs to it too.
        contents: "keep"; "drop"; or a function that makes them again, called with the tensors that
            are alive, on the thread that trains, before the iteration or the end of `resume`. What
            it raises comes out there, and it is called again at the next iteration. A tensor that
            any tag keeps is kept.

    Raises:
        TypeError: something that is no tensor.
        ValueError: other contents.
    """
    import torch
    from torch.multiprocessing.reductions import StorageWeakRef

    given = list(tensors)
    for one in given:
        if not isinstance(one, torch.Tensor):
            raise TypeError(f"a tag is for tensors, not for {type(one).__name__}")
    named = [weakref.ref(one) for one in given]
    weak: Any = StorageWeakRef  # has no types
    storages = [weak(one.untyped_storage()) for one in given]
    if callable(contents):
        made = _Tag(named, storages, "rebuild", contents)
    elif contents in ("keep", "drop"):
        made = _Tag(named, storages, contents, None)
    else:
        raise ValueError(f"contents {contents!r} is neither 'keep', 'drop' nor a function")
    if name in _tags:
        made.lost, made.lost_total = _tags[name].lost, _tags[name].lost_total
    _tags[name] = made
    GATE.when_begun["tags"] = rebuild


def untag(name: str) -> None:
    """Takes a tag off: its tensors are kept, as all others.

    Raises:
        KeyError: there is none of that name.
    """
    if name not in _tags:
        raise KeyError(f"no tag {name!r}; there are {', '.join(sorted(_tags)) or 'none'}")
    del _tags[name]


def unwanted() -> list[tuple[int, int]]:
    """Addresses and sizes of what need not be copied: nothing of what another tag keeps."""
    kept = [one.ranges() for one in _tags.values() if one.contents == "keep"]
    dropped = [one.ranges() for one in _tags.values() if one.contents != "keep"]
    return sorted(set().union(*dropped) - set().union(*kept))


def rebuild(device: int | None = None) -> None:
    """Has what was dropped, and is back on its device, made again; what fails is due again.

    Args:
        device: index of the one that is back; None: all are.
    """
    pages = _core.cuda_take_lost(-1 if device is None else device)
    for one in _tags.values() if pages else ():
        if one.contents != "keep" and _overlap(one.ranges(), pages):
            one.lost = True
            one.lost_total += 1
    for one in list(_tags.values()):
        if one.lost and one.rebuild is not None:
            one.rebuild(list(one.alive()))
        one.lost = False


def _overlap(ranges: Ranges, pages: list[tuple[int, int]]) -> bool:
    return any(
        at < page + page_size and page < at + size
        for at, size in ranges
        for page, page_size in pages
    )


def report() -> dict[str, dict[str, Any]]:
    """By name: contents, bytes on devices, and how often contents were dropped."""
    return {
        name: {
            "contents": one.contents,
            "bytes": sum(size for _, size in one.ranges()),
            "lost_total": one.lost_total,
        }
        for name, one in _tags.items()
    }
