"""Train a network whose Jacobian stays near an isometry: a penalty on its singular values.

You learn: how to train with a penalty on singular values, by `jvpsvd.singular_values`.

    python examples/spectral_penalty.py

Two networks learn the same map from 6 numbers to 4. One also pays for singular values that are not
1, at the inputs of each step. The table compares their loss, and their singular values at new
inputs.
"""

from __future__ import annotations

import torch
from torch import nn

import jvpsvd


def train(weight: float, steps: int = 200) -> tuple[nn.Module, float]:
    """Return a network trained with this weight of the penalty, and its last loss."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 32), nn.Tanh(), nn.Linear(32, 4))
    goal = torch.randn(6, 4)
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-2)
    for _ in range(steps):
        x = torch.randn(32, 6)
        loss = nn.functional.mse_loss(net(x), torch.sin(x @ goal))
        penalty = torch.zeros(())
        if weight:
            s = jvpsvd.singular_values(net, x[:8], k=4, batch_dims=1)
            penalty = ((s - 1) ** 2).mean()
        optimizer.zero_grad()
        (loss + weight * penalty).backward()
        optimizer.step()
    return net, float(loss.detach())


def main() -> None:
    """Train both, and print the table."""
    X = torch.randn(50, 6, generator=torch.Generator().manual_seed(1))
    print("penalty    loss   largest   smallest of 4 singular values, means over 50 inputs")
    for weight in (0.0, 1.0):
        net, loss = train(weight)
        mean = jvpsvd.spectra(net.eval(), X, k=4, progress=False)["output"].mean
        print(f"{weight:7.1f} {loss:7.3f} {float(mean[0]):9.3f} {float(mean[-1]):10.3f}")


if __name__ == "__main__":
    main()
