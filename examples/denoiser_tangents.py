"""The tangent space of a denoiser: which directions of a picture survive the removal of noise.

    python examples/denoiser_tangents.py --quick        seconds
    python examples/denoiser_tangents.py                about two minutes on one core

One network without biases learns to remove noise of every level from glyphs that are turned,
shifted and scaled: four dimensions, whose tangents are known. Without biases D(x) = J(x) x, so the
singular values of J say by how much each direction of the noisy picture is kept or removed
(Kadkhodaie, Guth, Simoncelli & Mallat, 2024). Only glyphs never trained on are looked at.

Control: the same network untrained, PCA of the nearest training glyphs, and a random space.
"""

import argparse
from pathlib import Path

import matplotlib as mpl
import torch
from matplotlib.figure import Figure
from mnist_figures import COLOURS, DASHES, STYLE
from torch import nn

import jvpsvd
from jvpsvd.data.manifolds import Glyph, sample_classes
from jvpsvd.geometry import count_above, energy_shares, pca_basis

SIDE, WIDTH, HELD_OUT = 16, 512, 16
NOISES = (0.03, 0.1, 0.3, 1.0, 3.0)
MOVES = {"size": SIDE, "angle": 0.6, "shift": (0.2, 0.2), "scale": 0.2}
D = 4


def network():
    torch.manual_seed(0)
    sizes = (SIDE**2, WIDTH, WIDTH, WIDTH)
    layers = [m for a, b in zip(sizes, sizes[1:]) for m in (nn.Linear(a, b, False), nn.ReLU())]
    return nn.Sequential(*layers, nn.Linear(WIDTH, SIDE**2, False))


def train(net, points, steps):
    """Each glyph gets noise of a random level from 0.03 to 3, and small levels weigh more."""
    generator = torch.Generator().manual_seed(1)
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for step in range(steps):
        x = points[torch.randint(len(points), (128,), generator=generator)]
        level = 10 ** (-1.5 + 2 * torch.rand(128, 1, generator=generator))
        noisy = x + level * torch.randn(x.shape, generator=generator)
        loss = ((net(noisy) - x) ** 2 / level).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % (steps // 4) == 0 or step == steps - 1:
            print(f"step {step:5d}: loss {loss.item():.4f}")
    return net.eval().requires_grad_(False)


def look(net, held, noise):
    """Exact singular triplets of the Jacobian at every held-out glyph with noise of this level."""
    generator = torch.Generator().manual_seed(2)
    x = held.clean + noise * torch.randn(held.clean.shape, generator=generator)
    J = jvpsvd.JacobianOperator(net, x, batch_dims=1)
    found = jvpsvd.svds(J, k=SIDE**2, method="exact")
    pairs = zip(held.tangents, found.Vh.mT)
    shares = torch.stack([energy_shares(*pair).mean(1) for pair in pairs]).mean(0)
    homogeneous = (J @ x[..., None])[..., 0] - net(x)
    return {
        "x": x,
        "y": net(x),
        "found": found,
        "share": shares[D - 1].item(),
        "share of 10": shares[9].item(),
        "kept": count_above(found.s, 0.5).double().mean().item(),
        "error": ((net(x) - held.clean).square().mean().sqrt() / noise).item(),
        "homogeneous": (homogeneous.norm() / net(x).norm()).item(),
        "residual": (found.residuals / found.s[:, :1]).max().item(),
    }


def draw(looks, shares, held, out):
    """Spectra, directions kept, and the leading right singular vectors as pictures."""
    mpl.rcParams.update(STYLE)
    figure = Figure(figsize=(7.4, 7.4), layout="constrained")
    top, bottom = figure.subfigures(2, 1, height_ratios=(1, 1.35))
    left, right = top.subplots(1, 2)
    for place, (noise, seen) in enumerate(looks.items()):
        s = seen["found"].s.log().mean(0).exp()[:100]
        line = {"color": COLOURS[place], "ls": DASHES[place]}
        left.plot(range(1, len(s) + 1), s, **line, label=f"noise {noise:g}")
    left.axvline(D + 0.5, color="0.5", lw=0.8)
    left.set(xscale="log", yscale="log", ylim=(1e-3, 3))
    left.set(xlabel="index i (line after d = 4)", ylabel="singular value σᵢ (geometric mean)")
    left.legend(fontsize=7.5, loc="lower left")
    for place, (name, values) in enumerate(shares.items()):
        line = {"color": COLOURS[place], "ls": DASHES[place], "marker": "os^v"[place], "ms": 4}
        right.plot(NOISES, values, **line, label=name)
    right.set(xscale="log", ylim=(0, 1.02), xlabel="noise per pixel")
    right.set_ylabel("share of true tangents in top 4")
    right.legend(fontsize=7.5, loc="center left")
    shown = list(looks)[1:]
    grid = bottom.subplots(len(shown) + 1, 8)
    blank = torch.full((SIDE**2,), torch.nan)
    rows = [("true\ntangents", [held.clean[0], blank, *held.tangents[0].T, blank, blank])]
    for noise in shown:
        seen = looks[noise]
        rows.append((f"noise {noise:g}", [seen["x"][0], seen["y"][0], *seen["found"].Vh[0, :6]]))
    for axes_row, (name, pictures) in zip(grid, rows):
        for column, (axes, v) in enumerate(zip(axes_row, pictures)):
            extent, colours = v.abs().max().item(), "gray_r" if column < 2 else "RdBu_r"
            low = 0 if column < 2 else -extent
            if not v.isnan().any():
                axes.imshow(v.reshape(SIDE, SIDE).numpy(), cmap=colours, vmin=low, vmax=extent)
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set_visible(False)
        axes_row[0].set_ylabel(name, rotation=0, ha="right", va="center")
    for axes, name in zip(grid[1], ("input", "output", *(f"v{i}" for i in range(1, 7)))):
        axes.set_title(name, fontsize=8)
    for suffix, options in ((".png", {"dpi": 160}), (".svg", {"metadata": {"Date": None}})):
        figure.savefig((out / "denoiser-tangents").with_suffix(suffix), **options)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer steps")
    parser.add_argument("--out", type=Path, default=Path(), help="folder for the figure")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    manifolds = [Glyph(shape=shape, **MOVES) for shape in "FG"]
    data = sample_classes(manifolds, 4000, torch.Generator().manual_seed(0))
    held = sample_classes(manifolds, HELD_OUT, torch.Generator().manual_seed(1))
    untrained = network().eval().requires_grad_(False)
    net = train(network(), data.points, 400 if given.quick else 6000)
    looks = {noise: look(net, held, noise) for noise in NOISES}
    before = [look(untrained, held, noise)["share"] for noise in NOISES]
    near = torch.cdist(held.clean, data.points).topk(20 * D, largest=False).indices
    pairs = [(t, pca_basis(data.points[i], D)) for i, t in zip(near, held.tangents)]
    local = [energy_shares(*pair)[-1].mean() for pair in pairs]
    shares = {"denoiser": [seen["share"] for seen in looks.values()], "untrained": before}
    shares["local PCA (clean glyphs)"] = [torch.stack(local).mean().item()] * len(NOISES)
    shares["random space"] = [D / SIDE**2] * len(NOISES)
    print("noise | left of it | σ ≥ ½ |   σ1    σ4    σ5   σ10 | share of tangents in the top 10 | in the top 4")
    for place, (noise, seen) in enumerate(looks.items()):
        s = seen["found"].s.log().mean(0).exp()
        print(
            f"{noise:<5g} | {seen['error']:10.3f} | {seen['kept']:5.1f} | "
            + " ".join(f"{s[i - 1]:5.3f}" for i in (1, 4, 5, 10))
            + f" | {seen['share of 10']:.3f} | " + ", ".join(f"{name} {values[place]:.3f}" for name, values in shares.items())
        )  # fmt: skip
    worst = max(seen["homogeneous"] for seen in looks.values())
    print(f"|J x − D(x)| / |D(x)|: {worst:.1e} at worst")
    print(f"residuals: {max(seen['residual'] for seen in looks.values()):.1e} σ1 at worst")
    draw(looks, shares, held, given.out)


if __name__ == "__main__":
    main()
