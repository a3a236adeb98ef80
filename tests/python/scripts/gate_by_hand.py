"""Checks, in order and in a process without optimizers: loops that update their weights by hand."""

import torch
import torchtide as tide
from checks import check, main
from torch import nn
from torchtide import _gate

torch.set_num_threads(1)
tide.start()
GATE = _gate.GATE
PATIENCE = _gate._BY_HAND_AFTER


def count():
    """Iterations that have ended, the open one included."""
    GATE.end()
    return tide.report()["iterations"]


def descend(parameters):
    with torch.no_grad():
        for parameter in parameters:
            parameter -= 0.1 * parameter.grad
            parameter.grad = None


@check
def without_modules_each_backward_counts_after_some_patience():
    weight = torch.randn(8, 8, requires_grad=True)
    before = count()
    for _ in range(PATIENCE):
        (torch.randn(4, 8) @ weight).square().mean().backward()
        descend([weight])
    assert count() == before
    for _ in range(5):
        (torch.randn(4, 8) @ weight).square().mean().backward()
        descend([weight])
    assert count() - before == 5


@check
def with_a_module_each_forward_after_a_backward_counts():
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3))
    for steps in (3, 6):  # the first loop may miss the boundary at which the module is found
        before = count()
        for _ in range(steps):
            loss = model(torch.randn(4, 8)).square().mean()
            loss.backward(retain_graph=True)
            (2 * loss).backward()  # the same iteration
            descend(model.parameters())
    assert count() - before == 6


@check
def a_checkpointed_forward_counts_once():
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU())
    for steps in (3, 4):
        before = count()
        for _ in range(steps):
            hidden = model(torch.randn(4, 8))
            again = torch.utils.checkpoint.checkpoint(torch.tanh, hidden, use_reentrant=True)
            again.square().mean().backward()
            descend(model.parameters())
    assert count() - before == 4


@check
def the_first_step_of_an_optimizer_ends_all_that():
    model = nn.Linear(8, 8)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(2):
        model(torch.randn(4, 8)).square().mean().backward()
        optimizer.step()
    before = count()
    for _ in range(3):
        for _ in range(4):
            model(torch.randn(4, 8)).square().mean().backward()
        optimizer.step()
    assert count() - before == 3
    assert torch.autograd.backward.__module__ == "torch.autograd"
    assert not hasattr(torch.autograd.backward, "__wrapped__")


if __name__ == "__main__":
    main()
