"""A job without torch: takes turns, fills blocks of the core and looks whether they kept it."""

import argparse
import ctypes
import itertools
import pathlib
import random

from torchtide import _core

parser = argparse.ArgumentParser()
parser.add_argument("--while-there", type=pathlib.Path, required=True)
parser.add_argument("--seed", type=int, default=0)
arguments = parser.parse_args()

MIB = 1 << 20
LONG = ctypes.c_size_t


class Api(ctypes.Structure):
    """Head of the C table of the core (csrc/runtime/core_api.h)."""

    _fields_ = [
        ("version", ctypes.c_uint32),
        ("struct_size", ctypes.c_uint32),
        (
            "allocate",
            ctypes.CFUNCTYPE(
                ctypes.c_int, LONG, ctypes.POINTER(ctypes.c_void_p), ctypes.c_char_p, LONG
            ),
        ),
        ("owns", ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p)),
        ("release", ctypes.CFUNCTYPE(None, ctypes.c_void_p)),
    ]


pointer_of = ctypes.pythonapi.PyCapsule_GetPointer
pointer_of.restype, pointer_of.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
name_of = ctypes.pythonapi.PyCapsule_GetName
name_of.restype, name_of.argtypes = ctypes.c_char_p, [ctypes.py_object]

_core.start()
_core.register("core_client.py")
capsule = _core.api()
api = ctypes.cast(pointer_of(capsule, name_of(capsule)), ctypes.POINTER(Api)).contents


def filled(size: int, value: int) -> int:
    """Address of a new block full of `value`."""
    out, message = ctypes.c_void_p(), ctypes.create_string_buffer(4096)
    ended = api.allocate(size, ctypes.byref(out), message, len(message))
    assert ended == 0, message.value.decode()
    ctypes.memset(out.value, value, size)
    return out.value


def check(address: int, size: int, value: int) -> None:
    """Raises unless all of the block is still `value`."""
    assert ctypes.string_at(address, size) == bytes([value]) * size, "bytes were lost"


source = random.Random(arguments.seed)
kept = []
for iteration in itertools.count():
    if not arguments.while_there.exists():
        break
    _core.begin_iteration()
    size, value = source.randrange(1, 5) * MIB + 4096, source.randrange(256)
    scratch = filled(2 * MIB, value)
    if iteration % 10 == 0:
        kept.append((filled(size, value), size, value))
    check(scratch, 2 * MIB, value)
    api.release(scratch)
    if len(kept) > 4:
        check(*kept[0])
        api.release(kept.pop(0)[0])
    _core.end_iteration(True)
_core.leave()
for block in kept:
    check(*block)
_core.shutdown(0)
