"""The elastic example, slow until somebody writes into a pipe: so that a resize always finds it.

The first argument is the pipe's path, or "-" for none; the others are the example's.
"""

import os
import pathlib
import select
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[3] / "examples"))
import elastic_digits

PIPE = sys.argv.pop(1)
GO = os.open(PIPE, os.O_RDONLY | os.O_NONBLOCK) if PIPE != "-" else -1
PER_SAMPLE_S = 0.003  # 64 samples a step


class Paced(elastic_digits.Digits):
    """The same samples; each waits a little for the word."""

    def __getitem__(self, index):
        if GO >= 0:
            select.select([GO], [], [], PER_SAMPLE_S)  # nothing is read: once there, it stays
        return super().__getitem__(index)


elastic_digits.Digits = Paced
parser = elastic_digits.argparse.ArgumentParser()
parser.add_argument("--epochs", type=int)
parser.add_argument("--out")
elastic_digits.train(parser.parse_args())
