"""Which loops count as how many iterations, from plain loops to GANs, scalers and LBFGS."""

import checks
import pytest

pytest.importorskip("torch")

SCRIPT = "gate_loops.py"


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return checks.run(SCRIPT, tmp_path_factory.mktemp("gate"), TIDE_LANE="-1")


@pytest.mark.parametrize("check", [*checks.names(SCRIPT), "exit"])
def test_loop(ended: dict[str, str], check: str) -> None:
    checks.verify(ended, check)
