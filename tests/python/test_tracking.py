"""`tide.track`: what TensorBoard and MLflow themselves read back."""

import checks
import pytest

pytest.importorskip("torch")
pytestmark = pytest.mark.slow

SCRIPT = "tracking.py"


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return checks.run(SCRIPT, tmp_path_factory.mktemp("tracking"), TIDE_LANE="-1")


@pytest.mark.parametrize("check", [*checks.names(SCRIPT), "exit"])
def test_tracking(ended: dict[str, str], check: str) -> None:
    checks.verify(ended, check)
