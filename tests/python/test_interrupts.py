"""Whatever instruction an interrupt meets, the next cell of a notebook trains."""

import checks
import pytest

pytest.importorskip("torch")
pytestmark = pytest.mark.slow

SCRIPT = "interrupts.py"


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return checks.run(SCRIPT, tmp_path_factory.mktemp("interrupts"))


@pytest.mark.parametrize("check", [*checks.names(SCRIPT), "exit"])
def test_interrupt(ended: dict[str, str], check: str) -> None:
    checks.verify(ended, check)
