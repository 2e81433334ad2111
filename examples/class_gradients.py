"""The average gradient outer product of a class: all Jacobians of its digits above each other.

You learn: how to stream the average of J'J over a class, and to compare the spaces of classes.

    python examples/class_gradients.py --quick      seconds
    python examples/class_gradients.py              two minutes on one core

G = (1/N) Σ J'J over the digits of a class, J the Jacobian of the log-odds of that class at one of
them. Its eigenvectors are the pictures that speak for or against the class, on average; eigenvalues
are the squares of the singular values of the stack of all J, over N. Neither the stack, N rows by
784, nor G is ever written down: `StreamedStack` holds one recorded point at a time.

Found: spaces of two classes overlap by 0.72, those of two halves of a class by 0.91. The most
similar are 3 and 8, then 4 and 9 and 5 and 8. They are not what PCA of a class finds, which
overlaps with them by 0.07.
Needs the extra demo, for the digits. Control: the two halves of each class (how far a space is that
of the class and not of the digits taken), the untrained network, PCA of each class, random spaces,
and the same with all ten logits instead of the log-odds.
"""

from itertools import pairwise

import torch
from example_figures import COLOURS, DASHES, arguments, empty_figure, ink_on, picture, save
from torch import nn

import jvpsvd
from jvpsvd.data.mnist import SIDE, small_mnist
from jvpsvd.geometry import mean_overlap, pairwise_overlaps, pca_basis, random_overlap

K = 6


def train(digits, epochs):
    torch.manual_seed(0)
    sizes = (SIDE**2, 200, 100, 10)
    layers = [m for a, b in pairwise(sizes) for m in (nn.Linear(a, b), nn.GELU())]
    net = nn.Sequential(*layers[:-1])
    generator = torch.Generator().manual_seed(0)
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3, weight_decay=1e-4)
    for _ in range(epochs):
        for chosen in torch.randperm(len(digits), generator=generator).split(100):
            loss = nn.functional.cross_entropy(net(digits.images[chosen]), digits.labels[chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return net.eval().requires_grad_(False)


def leading(stack, indices=None):
    """Leading eigenvectors (784, K) of G of a stack, or of a part, and the result of the solver."""
    if indices is not None:  # the same recording serves any part of the points
        stack = jvpsvd.StreamedStack(
            lambda i, whole=stack: whole.operator(int(indices[i])), len(indices)
        )
    found = jvpsvd.svds(
        stack.mean_gram(), k=K, tol=1e-3, method="golub-kahan", on_unconverged="raise"
    )
    return found.Vh.T, found


def log_odds(net, label):
    """The function log p / (1 − p) of an image, p the probability of the label."""
    others = [other for other in range(10) if other != label]
    return lambda x: net(x)[..., label] - net(x)[..., others].logsumexp(-1)


def off_diagonal(matrix):
    return matrix[~torch.eye(len(matrix), dtype=torch.bool)].mean().item()


def draw(spaces, spectra, overlaps, out):
    """The four leading eigenvectors of each class, and how far spaces of classes overlap."""
    figure = empty_figure(7.4, 6.6)
    top, bottom = figure.subfigures(2, 1, height_ratios=(1, 0.85))
    grid = top.subplots(4, len(spaces))
    for label, column in enumerate(grid.T):
        for axes, v in zip(column, spaces[label].T[:4], strict=True):
            picture(axes, v, signed=True)
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set_visible(False)
        column[0].set_title(f"digit {label}", fontsize=8)
    for number, axes in enumerate(grid[:, 0], start=1):
        axes.set_ylabel(f"v{number}", rotation=0, ha="right", va="center")
    left, right = bottom.subplots(1, 2)
    for label, values in enumerate(spectra):
        line = {"color": COLOURS[label % 7], "ls": DASHES[label % 5]}
        left.plot(range(1, K + 1), values, **line, label=str(label))
    left.set(yscale="log", xlabel="index i", ylabel="eigenvalue λᵢ of G", xticks=range(1, K + 1))
    left.legend(title="digit", ncols=2, fontsize=7)
    low, ticks = overlaps.min().item(), range(len(spaces))
    image = right.imshow(overlaps.numpy(), cmap="Greys", vmin=low, vmax=1)
    for a, b in ((a, b) for a in ticks for b in ticks):
        value = overlaps[a, b].item()
        ink = {"color": ink_on(image.to_rgba(value)), "fontsize": 6.5}
        right.text(b, a, f"{100 * value:.0f}", ha="center", va="center", **ink)
    right.set(xticks=ticks, yticks=ticks, xlabel="digit", ylabel="digit")
    right.set_title("in %; diagonal: two halves of a class", fontsize=8.5)
    bottom.colorbar(image, ax=right, label=f"mean overlap of top {K} spaces")
    save(figure, out, "class-gradients")


def main():
    _, given = arguments(__doc__, quick="four classes, few digits of each")
    rest, held = small_mnist().split(1000)
    classes, count, epochs = (range(4), 16, 3) if given.quick else (range(10), 100, 20)
    net, untrained = train(rest, epochs), train(rest, 0)
    error = (net(held.images).argmax(1) != held.labels).double().mean().item()
    print(f"test error {error:.3f}; {count} held-out digits of each class")
    over = jvpsvd.StreamedStack.over
    logits = over(net, held.images)
    spaces, halves, spectra, before, axes, whole = [], [], [], [], [], []
    for label in classes:
        images = held.images[held.labels == label][:count]
        stack = over(log_odds(net, label), images)
        basis, found = leading(stack)
        spaces.append(basis)
        spectra.append(found.s)
        parts = (leading(stack, part)[0] for part in torch.arange(count).chunk(2))
        halves.append(mean_overlap(*parts).item())
        before.append(leading(over(log_odds(untrained, label), images))[0])
        whole.append(leading(logits, (held.labels == label).nonzero()[:count, 0])[0])
        axes.append(pca_basis(rest.images[rest.labels == label], K))
        print(
            f"digit {label}: λ1 … λ{K} " + " ".join(f"{value:7.3g}" for value in found.s)
            + f"; residual {(found.residuals / found.s[0]).max().item():.0e} λ1; halves overlap by "
            + f"{halves[-1]:.2f}, PCA of the class by {mean_overlap(basis, axes[-1]).item():.2f}"
        )  # fmt: skip
    apart = (jvpsvd.svds(stack, k=K).s ** 2 / count - found.s).abs().max() / found.s[0]
    print(f"digit {label}: σ² / N of the stack {stack.shape} differ from λ by {apart:.1e} λ1")
    overlaps = pairwise_overlaps(spaces)
    print(f"overlap of top {K} spaces of two halves of a class: {sum(halves) / len(halves):.3f}")
    kinds = {"": spaces, ", untrained network": before, ", PCA": axes, ", all ten logits": whole}
    for name, each in kinds.items():
        print(f"overlap of two classes{name}: {off_diagonal(pairwise_overlaps(each)):.3f}")
    print(f"overlap of random spaces: {random_overlap(SIDE**2, K)[0]:.3f}")
    pairs = overlaps.clone().fill_diagonal_(-1)
    for word, index in (("most", pairs.argmax()), ("least", pairs.abs().add(pairs < 0).argmin())):
        a, b = divmod(index.item(), len(pairs))
        print(f"{word} similar: {a} and {b}, {overlaps[a, b].item():.3f}")
    print("overlaps of classes, halves of a class on the diagonal:")
    overlaps.diagonal().copy_(torch.tensor(halves))
    for row in overlaps:
        print(" ".join(f"{value:.2f}" for value in row))
    draw(spaces, spectra, overlaps, given.out)


if __name__ == "__main__":
    main()
