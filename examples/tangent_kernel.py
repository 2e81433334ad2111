"""The tangent kernel of a small network, from its Jacobian by the weights: before and after training.

    python examples/tangent_kernel.py --quick       seconds
    python examples/tangent_kernel.py               about a minute on one core

With J = ∂f/∂θ at N digits, one row for each, the empirical neural tangent kernel is J J', N x N: its
eigenvalues are σ², its eigenvectors the left singular vectors of J. The network tells threes from
eights with one output, ±1. How fast gradient descent learns the labels is told by the share of
their energy in the leading eigenvectors.

Needs the extra demo, for the digits. Control: shuffled labels, digits never trained on, and what one
step of gradient descent on the weights really does, beside what the kernel says it does.
"""

import argparse
import copy
from pathlib import Path

import matplotlib as mpl
import torch
from matplotlib.figure import Figure
from mnist_figures import COLOURS, DASHES, STYLE
from torch import nn

import jvpsvd
from jvpsvd.data.mnist import SIDE, small_mnist
from jvpsvd.geometry import energy_shares, participation_ratio


def network():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(SIDE**2, 128), nn.Tanh(), nn.Linear(128, 128), nn.Tanh())
    return nn.Sequential(*net, nn.Linear(128, 1)).eval()


def train(net, images, labels, epochs):
    generator = torch.Generator().manual_seed(0)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.02, momentum=0.9)
    for _ in range(epochs):
        for chosen in torch.randperm(len(images), generator=generator).split(50):
            loss = (net(images[chosen])[:, 0] - labels[chosen]).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return net


def look(net, images, labels):
    """Eigenvalues of the kernel, and how labels and shuffled labels lie in its eigenvectors."""
    J = jvpsvd.JacobianOperator.wrt_parameters(net, images)
    found = jvpsvd.svds(J, k=len(images), method="exact")
    shuffled = labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(3))]
    pair = torch.stack([labels, shuffled], dim=1)
    # y'Ky / (|K|_F |y|²): 1 if the kernel is a multiple of y y'.
    weights = found.s**2 / (found.s**4).sum().sqrt()
    return {
        "found": found,
        "shape": J.shape,
        "shares": energy_shares(pair, found.U),
        "alignment": (weights @ (found.U.T @ pair) ** 2 / len(labels)).tolist(),
        "chance": (weights.sum() / len(labels)).item(),  # the mean over random y
        "participation": participation_ratio(found.s).item(),
    }


def one_step(net, images, labels, rate):
    """|Δf − what the kernel predicts| / |Δf| for one step of gradient descent on these digits."""
    J = jvpsvd.JacobianOperator.wrt_parameters(net, images)
    moved = copy.deepcopy(net)
    error = net(images)[:, 0] - labels
    predicted = -rate * (J @ (J.T @ error.detach()[:, None]))[:, 0]
    (moved(images)[:, 0] - labels).square().sum().div(2).backward()
    with torch.no_grad():
        for p in moved.parameters():
            p -= rate * p.grad
        change = moved(images)[:, 0] - net(images)[:, 0]
    return ((change - predicted).norm() / change.norm()).item()


def draw(looks, out):
    """Eigenvalues, and the share of the labels in the leading eigenvectors."""
    mpl.rcParams.update(STYLE)
    figure = Figure(figsize=(7.4, 3.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    for place, (name, seen) in enumerate(looks.items()):
        values = seen["found"].s ** 2
        index = range(1, len(values) + 1)
        line = {"color": COLOURS[place], "ls": DASHES[place]}
        left.plot(index, values, **line, label=name)
        right.plot(index, seen["shares"][:, 0], **line, label=name)
        right.plot(
            index, seen["shares"][:, 1], color="0.6", ls=line["ls"], lw=1,
            label=f"{name}: shuffled",
        )  # fmt: skip
    left.set(xscale="log", yscale="log", xlabel="index i", ylabel="eigenvalue λᵢ of J J'")
    left.legend(fontsize=7.5)
    right.set(xscale="log", ylim=(0, 1.02), xlabel="eigenvectors taken")
    right.set_ylabel("share of the labels' energy")
    right.legend(fontsize=6.5, loc="upper left")
    for suffix, options in ((".png", {"dpi": 160}), (".svg", {"metadata": {"Date": None}})):
        figure.savefig((out / "tangent-kernel").with_suffix(suffix), **options)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer digits, shorter training")
    parser.add_argument("--out", type=Path, default=Path(), help="folder for the figure")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    digits = small_mnist()
    digits = digits.select(((digits.labels == 3) | (digits.labels == 8)).nonzero()[:, 0])
    order = torch.randperm(len(digits), generator=torch.Generator().manual_seed(0))
    images, labels = digits.images[order], (digits.labels[order] == 8).float() * 2 - 1
    count, epochs = (100, 5) if given.quick else (400, 40)
    kept, held = slice(0, 500), slice(500, 500 + count)  # trained on; never trained on
    sets = {"trained on": slice(0, count), "held out": held}
    net = network()
    looks = {}
    for state in ("before", "after"):
        if state == "after":
            net = train(net, images[kept], labels[kept], epochs)
        error = (net(images[500:])[:, 0].sign() != labels[500:]).double().mean().item()
        print(f"--- {state} training: error on held-out digits {error:.3f}")
        for name, part in sets.items():
            seen = looks[f"{state}, {name}"] = look(net, images[part], labels[part])
            s, shares = seen["found"].s, seen["shares"]
            print(f"{name}, J {seen['shape']}: λ1 {s[0] ** 2:.4g}, λ10 {s[9] ** 2:.4g}, ", end="")
            print(f"λ{count} {s[-1] ** 2:.3g}; participation {seen['participation']:.2f}; ", end="")
            print(f"residual {(seen['found'].residuals.max() / s[0]).item():.0e} σ1")
            for what, column, value in zip(("labels", "shuffled"), shares.T, seen["alignment"]):
                parts = ", ".join(f"{column[i - 1]:.3f} in {i}" for i in (1, 3, 10, 30))
                print(f"    {what}: alignment {value:.3f}, share {parts}")
            print(f"    alignment by chance {seen['chance']:.3f}")
        rate = 0.01 / seen["found"].s[0].item() ** 2
        wrong = one_step(net, images[held], labels[held], rate)
        print(f"    one step of gradient descent: kernel is wrong by {wrong:.1e} of the change")
    draw(looks, given.out)


if __name__ == "__main__":
    main()
