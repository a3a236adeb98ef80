"""The word language model (LSTM) of the official examples, on the documentation in Python itself.

As there, no torch.optim: parameters are changed by hand, the learning rate falls when the
validation loss does not, and the best model is kept in a file.
"""

import argparse
import math
import pydoc_data.topics
import re
import tempfile
from collections import Counter
from pathlib import Path

import digest
import torch
import torch.nn.functional as F
from torch import nn


def tokenize(size):
    text = "\n".join(body for _, body in sorted(pydoc_data.topics.topics.items()))
    words = re.findall(r"\w+|[^\w\s]|\n", text)
    kept = [word for word, _ in Counter(words).most_common(size - 1)]
    number = {word: i for i, word in enumerate(kept, start=1)}
    return torch.tensor([number.get(word, 0) for word in words])


def batchify(data, bsz):
    nbatch = data.size(0) // bsz
    return data.narrow(0, 0, nbatch * bsz).view(bsz, -1).t().contiguous()


def get_batch(source, i, bptt):
    seq_len = min(bptt, len(source) - 1 - i)
    return source[i : i + seq_len], source[i + 1 : i + 1 + seq_len].reshape(-1)


def repackage_hidden(h):
    return h.detach() if isinstance(h, torch.Tensor) else tuple(repackage_hidden(v) for v in h)


class RNNModel(nn.Module):
    def __init__(self, ntoken, ninp, nhid, nlayers, dropout=0.2):
        super().__init__()
        self.drop = nn.Dropout(dropout)
        self.encoder = nn.Embedding(ntoken, ninp)
        self.rnn = nn.LSTM(ninp, nhid, nlayers, dropout=dropout)
        self.decoder = nn.Linear(nhid, ntoken)
        self.ntoken, self.nhid, self.nlayers = ntoken, nhid, nlayers
        nn.init.uniform_(self.encoder.weight, -0.1, 0.1)
        nn.init.zeros_(self.decoder.bias)
        nn.init.uniform_(self.decoder.weight, -0.1, 0.1)

    def forward(self, input, hidden):
        output, hidden = self.rnn(self.drop(self.encoder(input)), hidden)
        decoded = self.decoder(self.drop(output)).view(-1, self.ntoken)
        return F.log_softmax(decoded, dim=1), hidden

    def init_hidden(self, bsz):
        weight = next(self.parameters())
        shape = (self.nlayers, bsz, self.nhid)
        return weight.new_zeros(*shape), weight.new_zeros(*shape)


def evaluate(args, model, source):
    model.eval()
    total_loss = 0.0
    hidden = model.init_hidden(args.eval_batch_size)
    with torch.no_grad():
        for i in range(0, min(source.size(0) - 1, args.bptt * args.batches), args.bptt):
            data, targets = get_batch(source, i, args.bptt)
            output, hidden = model(data, hidden)
            hidden = repackage_hidden(hidden)
            total_loss += len(data) * F.nll_loss(output, targets).item()
    return total_loss / (len(source) - 1)


def train(args, model, source, lr, losses):
    model.train()
    hidden = model.init_hidden(args.batch_size)
    for batch, i in enumerate(range(0, source.size(0) - 1, args.bptt)):
        if batch == args.batches:
            break
        data, targets = get_batch(source, i, args.bptt)
        model.zero_grad()
        hidden = repackage_hidden(hidden)
        output, hidden = model(data, hidden)
        loss = F.nll_loss(output, targets)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), args.clip)
        for p in model.parameters():
            p.data.add_(p.grad, alpha=-lr)
        losses.append(loss.item())
        if batch % args.log_interval == 0:
            print(
                f"batch {batch} loss {loss.item():.3f} ppl {math.exp(loss.item()):.1f}", flush=True
            )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ntoken", type=int, default=3000)
    parser.add_argument("--emsize", type=int, default=200)
    parser.add_argument("--nhid", type=int, default=200)
    parser.add_argument("--nlayers", type=int, default=2)
    parser.add_argument("--lr", type=float, default=20)
    parser.add_argument("--clip", type=float, default=0.25)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--batches", type=int, default=8, help="batches of an epoch")
    parser.add_argument("--batch-size", type=int, default=40)
    parser.add_argument("--eval-batch-size", type=int, default=10)
    parser.add_argument("--bptt", type=int, default=35)
    parser.add_argument("--seed", type=int, default=1111)
    parser.add_argument("--log-interval", type=int, default=4)
    parser.add_argument("--out")
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    torch.set_num_threads(2)

    words = tokenize(args.ntoken)
    cut = len(words) * 9 // 10
    train_data = batchify(words[:cut], args.batch_size)
    val_data = batchify(words[cut:], args.eval_batch_size)
    model = RNNModel(args.ntoken, args.emsize, args.nhid, args.nlayers)
    lr, best, losses = args.lr, None, []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.pt"
        for _ in range(args.epochs):
            train(args, model, train_data, lr, losses)
            val_loss = evaluate(args, model, val_data)
            losses.append(val_loss)
            print(f"end of epoch: valid loss {val_loss:.3f}", flush=True)
            if best is None or val_loss < best:
                torch.save(model.state_dict(), path)
                best = val_loss
            else:
                lr /= 4.0
        model.load_state_dict(torch.load(path))
    model.rnn.flatten_parameters()
    losses.append(evaluate(args, model, val_data))
    if args.out:
        digest.write(args.out, model, losses=losses)


if __name__ == "__main__":
    main()
