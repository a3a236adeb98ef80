"""Neither module nor optimizer: weights are tensors, and gradients go to `.data` by hand."""

import torch


def initial(rows, columns):
    return (torch.randn(rows, columns) / rows**0.5).requires_grad_()


torch.manual_seed(7)
weights = [initial(512, 1024), initial(1024, 1024), initial(1024, 16)]
biases = [torch.zeros(w.shape[1], requires_grad=True) for w in weights]
x, y = torch.randn(4096, 512), torch.randn(4096, 16)


def predict(batch):
    for w, b in zip(weights[:-1], biases[:-1], strict=True):
        batch = (batch @ w + b).tanh()
    return batch @ weights[-1] + biases[-1]


for step in range(40):
    pick = torch.randint(len(x), (512,))
    error = (predict(x[pick]) - y[pick]).square().mean()
    error.backward()
    for p in weights + biases:
        p.data -= 0.1 * p.grad.data
        p.grad.zero_()
    if step % 10 == 9:
        print("step", step, "error", error.item(), flush=True)

torch.save({"weights": weights, "biases": biases}, "result.pt")
