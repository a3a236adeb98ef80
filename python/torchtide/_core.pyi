"""
torchtide's core without torch: options, the job's runtime, the client of the daemon.
"""
from __future__ import annotations
import typing
import typing_extensions
__all__: list[str] = ['api', 'begin_iteration', 'end_iteration', 'format_bytes', 'get_option', 'leave', 'memory_table', 'options', 'owns', 'parse_bytes', 'recording', 'report', 'resume', 'runtime_dir', 'sample', 'set_limit', 'set_option', 'shutdown', 'start', 'started', 'suspend', 'validate']
def api() -> typing_extensions.CapsuleType:
    ...
def begin_iteration(phase: typing.SupportsInt | typing.SupportsIndex = 0) -> None:
    """
    Waits for the turn. Raises KeyboardInterrupt.
    """
def end_iteration() -> None:
    ...
def format_bytes(bytes: typing.SupportsInt | typing.SupportsIndex) -> str:
    """
    Three digits and a binary unit: 1.5 GiB.
    """
def get_option(name: str) -> str:
    """
    Value of an option as text. Raises KeyError.
    """
def leave() -> None:
    ...
def memory_table() -> str:
    ...
def options() -> list[typing.Any]:
    """
    Every option with its value and where it comes from.
    """
def owns(arg0: typing.SupportsInt | typing.SupportsIndex) -> bool:
    ...
def parse_bytes(text: str) -> int:
    """
    Reads a size such as 1.5GiB, 300MB or 4096. Raises ValueError.
    """
def recording() -> bool:
    ...
def report() -> dict[str, typing.Any]:
    ...
def resume(now: bool = True) -> None:
    ...
def runtime_dir() -> str:
    """
    Where the socket and the device table of this user live.
    """
def sample() -> None:
    ...
def set_limit(limit: typing.SupportsInt | typing.SupportsIndex, guaranteed: typing.SupportsInt | typing.SupportsIndex = 0, now: bool = True) -> dict[str, typing.Any]:
    ...
def set_option(name: str, value: str, origin: str = 'call') -> None:
    """
    Overrides an option. Raises KeyError for unknown names.
    """
def shutdown() -> None:
    ...
def start() -> str:
    """
    Starts the runtime of this process from the options; returns the job's name. Idempotent.
    """
def started() -> bool:
    ...
def suspend(now: bool = True) -> None:
    ...
def validate() -> None:
    ...
