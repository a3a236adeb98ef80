"""Train a word language model (LSTM) on real text: the source of Python's own library.

Plain PyTorch, after the word_language_model of the official examples: the text is laid out in
columns, the hidden state is carried from one piece of the columns to the next.

    python examples/word_lstm.py --steps 20
"""

import argparse
import hashlib
import json
import os
import re
import resource
import time
from collections import Counter
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn


def read_words(vocabulary, characters=2_000_000):
    """The text as word numbers; words beyond the most frequent ones become number 0."""
    sources = sorted(Path(os.__file__).parent.glob("*.py"))
    text = "".join(path.read_text("utf-8", "replace") for path in sources)[:characters]
    words = re.findall(r"\w+|[^\w\s]|\n", text)
    kept = [word for word, _ in Counter(words).most_common(vocabulary - 1)]
    number = {word: i for i, word in enumerate(kept, start=1)}
    return torch.tensor([number.get(word, 0) for word in words])


def pieces(words, batch_size, length, steps):
    """Yields (input, target) of shape [length, batch_size], from the start again at the end."""
    columns = words[: len(words) // batch_size * batch_size].view(batch_size, -1).t().contiguous()
    starts = range(0, len(columns) - length - 1, length)
    for step in range(steps):
        start = starts[step % len(starts)]
        yield columns[start : start + length], columns[start + 1 : start + length + 1]


class WordLSTM(nn.Module):
    def __init__(self, vocabulary, width=128, layers=2, dropout=0.2):
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width)
        self.dropout = nn.Dropout(dropout)
        self.lstm = nn.LSTM(width, width, layers, dropout=dropout)
        self.decoder = nn.Linear(width, vocabulary)

    def forward(self, words, hidden):
        output, hidden = self.lstm(self.dropout(self.embedding(words)), hidden)
        return self.decoder(self.dropout(output)), hidden


def train_step(model, optimizer, words, targets, hidden):
    optimizer.zero_grad()
    hidden = tuple(h.detach() for h in hidden)
    logits, hidden = model(words, hidden)
    loss = F.cross_entropy(logits.flatten(0, 1), targets.flatten())
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 0.25)
    optimizer.step()
    return loss.item(), hidden


def train(args):
    torch.manual_seed(args.seed)
    torch.set_num_threads(args.threads)
    words = read_words(args.vocabulary)
    model = WordLSTM(args.vocabulary)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0, momentum=0.9)
    hidden = (torch.zeros(2, args.batch_size, 128), torch.zeros(2, args.batch_size, 128))
    model.train()
    losses, times = [], [time.monotonic()]
    batches = pieces(words, args.batch_size, args.length, args.steps)
    for step, (inputs, targets) in enumerate(batches, start=1):
        loss, hidden = train_step(model, optimizer, inputs, targets, hidden)
        losses.append(loss)
        times.append(time.monotonic())
        if step % 5 == 0 or step == args.steps:
            print(f"word_lstm step {step}/{args.steps} loss {loss:.4f}", flush=True)
    return model, optimizer, losses, times


def save_digests(args, model, optimizer, losses, times):
    """Writes what two runs must agree on: each tensor's sha256 and each loss, bit for bit."""
    tensors = {f"parameter {name}": t for name, t in model.named_parameters()}
    tensors |= {f"buffer {name}": t for name, t in model.named_buffers()}
    for index, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer {index} {k}": t for k, t in state.items() if torch.is_tensor(t)}
    size = sum(tensor.nbytes for tensor in tensors.values())
    tensors["random state"] = torch.get_rng_state()
    flat = {name: t.detach().reshape(-1).numpy() for name, t in sorted(tensors.items())}
    record = {
        "digests": {name: hashlib.sha256(array).hexdigest() for name, array in flat.items()},
        "losses": [loss.hex() for loss in losses],
        "times": times,  # monotonic: the start of the first iteration, then the end of each
        "state_bytes": size,
        "parameter_bytes": sum(parameter.nbytes for parameter in model.parameters()),
        "max_rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }
    Path(args.out).write_text(json.dumps(record))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--batch-size", type=int, default=160)
    parser.add_argument("--length", type=int, default=35, help="words of a piece")
    parser.add_argument("--vocabulary", type=int, default=12000)
    parser.add_argument("--threads", type=int, default=2, help="fixed, so that sums keep order")
    parser.add_argument("--out", help="write digests of the result to this JSON file")
    args = parser.parse_args()
    result = train(args)
    if args.out:
        save_digests(args, *result)


if __name__ == "__main__":
    main()
