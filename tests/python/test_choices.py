"""Options whose value is one of a few words: another word is refused before a job starts."""

from __future__ import annotations

import pytest
from torchtide import _cuda_autostart
from torchtide.errors import OptionError


@pytest.mark.parametrize(
    ("variable", "said"),
    [
        ("HOOK", "auto, table, malloc, pool, fraction, off; set TIDE_CUDA_HOOK=auto or .*=off"),
        ("RESUME", "whole, pipelined, layers; set TIDE_CUDA_RESUME=whole or .*=layers"),
        ("PAUSE", "pages, deep; set TIDE_CUDA_PAUSE=pages or TIDE_CUDA_PAUSE=deep"),
        ("NCCL", "keep, suspend; set TIDE_CUDA_NCCL=keep or TIDE_CUDA_NCCL=suspend"),
    ],
)
def test_a_word_that_means_nothing_is_refused_with_the_choices(
    variable: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    _cuda_autostart.check_option()
    monkeypatch.setenv(f"TIDE_CUDA_{variable}", "what")
    with pytest.raises(OptionError, match=f"cuda.{variable.lower()} 'what' is not one of {said}"):
        _cuda_autostart.check_option()
