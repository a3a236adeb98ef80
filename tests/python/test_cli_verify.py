"""`tide verify`: equal bits, and where they differ."""

from __future__ import annotations

import json
import pathlib
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from torchtide.cli import exits, verify  # noqa: E402
from torchtide.errors import OptionError  # noqa: E402


def tree(**changes: Any) -> dict[str, Any]:
    whole: dict[str, Any] = {
        "model": {"w": torch.arange(6.0).reshape(2, 3), "empty": torch.empty(0)},
        "nan": torch.tensor([float("nan")]),
        "step": 3,
        "lr": float("nan"),
        "betas": [0.9, 0.99],
        "rows": torch.eye(2).to_sparse(),
        "checksum": "of the first",
    }
    return whole | changes


def told(folder: pathlib.Path, one: Any, other: Any, capsys: Any) -> tuple[int, dict[str, Any]]:
    torch.save(one, folder / "a.pt")
    torch.save(other, folder / "b.pt")
    code = verify.verify(folder / "a.pt", folder / "b.pt", json_output=True)
    return code, json.loads(capsys.readouterr().out)


def test_equal_files_are_equal_whatever_their_checksum(tmp_path: pathlib.Path, capsys: Any) -> None:
    code, answer = told(tmp_path, tree(), tree(checksum="of the second"), capsys)
    assert (code, answer) == (exits.OK, {"equal": True, "differences": 0, "first": []})


@pytest.mark.parametrize(
    ("changes", "where", "what"),
    [
        ({"nan": torch.tensor([1.0])}, "nan", "1 of 1 elements differ"),
        ({"step": 4}, "step", "3, 4 in the second"),
        ({"step": 3.0}, "step", "3, 3.0 in the second"),
        ({"betas": [0.9]}, "betas", "2 entries, 1 in the second"),
        ({"rows": torch.ones(2, 2).to_sparse()}, "rows", "2 of 4 elements differ, by 1 at most"),
        ({"more": 1}, "more", "only in the second"),
        ({"model": {"w": torch.zeros(3, 2)}}, "model.w", "float32[2, 3], float32[3, 2] in the"),
    ],
)
def test_a_difference_is_named(
    changes: dict[str, Any], where: str, what: str, tmp_path: pathlib.Path, capsys: Any
) -> None:
    code, answer = told(tmp_path, tree(), tree(**changes), capsys)
    assert code == exits.FAILED and not answer["equal"]
    assert answer["first"][0]["where"] == where
    assert what in answer["first"][0]["what"]


def test_minus_zero_is_another_bit(tmp_path: pathlib.Path, capsys: Any) -> None:
    code, answer = told(tmp_path, {"a": torch.zeros(2)}, {"a": -torch.zeros(2)}, capsys)
    assert code == exits.FAILED
    assert answer["first"][0]["what"] == "2 of 2 elements differ, by 0 at most"


def test_what_is_no_file_of_torch_is_refused(tmp_path: pathlib.Path) -> None:
    (tmp_path / "text").write_text("hello")
    for name, words in (("none", "no such file"), ("text", "torch cannot read it")):
        with pytest.raises(OptionError, match=words):
            verify.verify(tmp_path / name, tmp_path / name, json_output=False)
