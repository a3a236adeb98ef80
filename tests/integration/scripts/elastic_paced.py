"""The elastic example, slow until somebody writes into a pipe: so that a resize always finds it.

    elastic_paced.py PIPE|- [PER_SAMPLE_S] [--epochs N] [--out FILE]

While there is a file PIPE.doom, a process that starts is killed while it joins; a file PIPE.raise
makes one process raise.
"""

import os
import pathlib
import select
import signal
import sys

PIPE = sys.argv.pop(1)
PER_SAMPLE_S = float(sys.argv.pop(1)) if sys.argv[1][0].isdigit() else 0.003  # 64 samples a step
GO = os.open(PIPE, os.O_RDONLY | os.O_NONBLOCK) if PIPE != "-" else -1
RAISE = pathlib.Path(f"{PIPE}.raise")
if pathlib.Path(f"{PIPE}.doom").exists():
    os.kill(os.getpid(), signal.SIGKILL)

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[3] / "examples"))
import elastic_digits  # noqa: E402


def raised():
    """Whether this process is the one that is to raise."""
    try:
        RAISE.unlink()
    except FileNotFoundError:
        return False
    return True


class Paced(elastic_digits.Digits):
    """The same samples; each waits a little for the word."""

    def __getitem__(self, index):
        if GO >= 0:
            if raised():
                raise ValueError("this sample cannot be read")
            select.select([GO], [], [], PER_SAMPLE_S)  # nothing is read: once there, it stays
        return super().__getitem__(index)


elastic_digits.Digits = Paced
parser = elastic_digits.argparse.ArgumentParser()
parser.add_argument("--epochs", type=int)
parser.add_argument("--out")
elastic_digits.train(parser.parse_args())
