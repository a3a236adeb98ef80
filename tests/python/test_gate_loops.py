"""Which loops count as how many iterations, from plain loops to GANs, scalers and LBFGS."""

import checks
import pytest

pytest.importorskip("torch")

SCRIPTS = ("gate_loops.py", "gate_by_hand.py")
CHECKS = [(script, name) for script in SCRIPTS for name in [*checks.names(script), "exit"]]


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, str]]:
    return {
        script: checks.run(script, tmp_path_factory.mktemp("gate"), TIDE_LANE="-1")
        for script in SCRIPTS
    }


@pytest.mark.parametrize(("script", "check"), CHECKS)
def test_loop(ended: dict[str, dict[str, str]], script: str, check: str) -> None:
    checks.verify(ended[script], check)
