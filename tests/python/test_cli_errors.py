"""The typed exceptions."""

import pathlib
import pickle
import subprocess
import sys

import cli_processes as processes
import pytest
from torchtide import errors


def test_importing_the_errors_does_not_import_torch(tmp_path: pathlib.Path) -> None:
    code = "import sys, torchtide.errors; sys.exit('torch' in sys.modules)"
    environ = processes.environment(tmp_path)
    assert subprocess.run([sys.executable, "-c", code], env=environ, check=False).returncode == 0


def test_a_message_says_what_was_asked_what_there_is_and_what_to_do() -> None:
    error = errors.LimitConflict(
        "train needs 1.2 GiB", asked="limit train 1MiB", advice="ask for more", parts={"outside": 3}
    )
    assert str(error) == "limit train 1MiB: train needs 1.2 GiB; ask for more"
    assert error.parts == {"outside": 3}


@pytest.mark.parametrize(
    ("kind", "builtin"),
    [
        (errors.OptionError, ValueError),
        (errors.NoSuchJob, LookupError),
        (errors.DaemonUnavailable, ConnectionError),
        (errors.NotPermitted, PermissionError),
        (errors.SuspendTimeout, TimeoutError),
    ],
)
def test_each_error_is_caught_by_the_builtin_of_its_meaning(
    kind: type[errors.TideError], builtin: type[Exception]
) -> None:
    with pytest.raises(builtin, match="there is none; wait"):
        raise kind("there is none", advice="wait")


def test_errors_travel_between_processes() -> None:
    error = errors.NotPermitted("no", asked="a", advice="b", parts={"c": 1})
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is errors.NotPermitted
    assert (copy.available, copy.asked, copy.advice, copy.parts) == ("no", "a", "b", {"c": 1})


def test_out_of_memory_is_caught_as_torchs_own() -> None:
    torch = pytest.importorskip("torch")
    assert errors.OutOfMemory is torch.OutOfMemoryError


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="Nonsense"):
        _ = errors.Nonsense


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("not_found", errors.NoSuchJob),
        ("conflict", errors.LimitConflict),
        ("timeout", errors.SuspendTimeout),
        ("not_permitted", errors.NotPermitted),
        ("version", errors.ProtocolError),
        ("failed", errors.TideError),
        ("unheard of", errors.TideError),
    ],
)
def test_codes_of_the_protocol_become_exceptions(code: str, kind: type[errors.TideError]) -> None:
    error = errors.from_answer({"code": code, "message": "m", "advice": "a"}, asked="q")
    assert type(error) is kind
    assert (error.available, error.advice, error.asked) == ("m", "a", "q")
