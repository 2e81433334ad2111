"""Can a network's Jacobian find a manifold whose dimension and tangents are known?

You learn: when a Jacobian's spectrum finds a dimension and tangents that are known, and when not.

    python examples/known_manifolds.py --quick                  about 3 minutes on one core
    python examples/known_manifolds.py --out known-manifolds.json      longer
    python examples/known_manifolds.py --out known-manifolds.json --redraw    the figure alone

Two classes of each manifold are learned, from noisy points alone, by an autoencoder (bottleneck
8), a denoiser (target: the datum; input: the datum with more noise, 0.3 per coordinate) and a
classifier. At held-out points, with the noise of the data, J = ∂h/∂x is taken: h is the output of
the first two and the last hidden layer of the classifier. Right singular vectors of J are compared
with the true tangents, its spectrum with the true dimension d. Beside them: PCA of the 20 d nearest
of the training points, which needs no network, and random directions.

Writes the numbers as JSON and a figure, PNG and SVG, drawn from that JSON.
"""

import argparse
import copy
import json
import math
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn

import jvpsvd
from jvpsvd.data.manifolds import Glyph, LinearSubspace, Sphere, SwissRoll, Torus, sample_classes
from jvpsvd.geometry import (
    count_above,
    entropy_dimension,
    largest_gap,
    participation_ratio,
    pca_basis,
    principal_angles,
    random_space,
)

CLASSES, BOTTLENECK, HIDDEN, LAST = 2, 8, 128, 32
CORRUPTION = 0.3
TRAINING, HELD_OUT, BATCH = 3000, 32, 100
SHOWN = 16
"""Leading singular values stored and drawn."""
NETWORKS = ("autoencoder", "denoiser", "classifier")
FULL = {"noises": (0.0, 0.03, 0.1, 0.3), "epochs": (0, 1, 5, 25, 120), "watched": 0.1}
QUICK = {"noises": (0.0, 0.1), "epochs": (0, 5, 40), "watched": 0.1}


def families():
    """Two classes of each manifold, and how far their centres are from the origin."""
    seeds, shapes = range(CLASSES), "FG"
    moves = {"size": 12, "angle": 0.6, "shift": (0.2, 0.2)}
    return {
        "subspace": ([LinearSubspace(dimension=3, ambient=64, seed=s) for s in seeds], 2.0),
        "torus": ([Torus(ambient=64, seed=s) for s in seeds], 2.0),
        "sphere": ([Sphere(dimension=3, ambient=64, seed=s) for s in seeds], 2.0),
        "swiss roll": ([SwissRoll(ambient=64, seed=s) for s in seeds], 2.0),
        "glyphs": ([Glyph(shape=shape, **moves) for shape in shapes], 0.0),
    }


def network(kind, n):
    """A network from R^n, and the part of it whose Jacobian is taken."""
    torch.manual_seed(0)
    act = nn.SiLU
    if kind == "classifier":
        deep = [nn.Linear(n, HIDDEN), act(), nn.Linear(HIDDEN, LAST), act()]
        whole = nn.Sequential(*deep, nn.Linear(LAST, CLASSES))
        return whole, whole[:-1]
    narrow = [nn.Linear(HIDDEN, BOTTLENECK), nn.Linear(BOTTLENECK, HIDDEN)]
    wide = [nn.Linear(HIDDEN, HIDDEN), act(), nn.Linear(HIDDEN, HIDDEN)]
    middle = narrow if kind == "autoencoder" else wide
    whole = nn.Sequential(nn.Linear(n, HIDDEN), act(), *middle, act(), nn.Linear(HIDDEN, n))
    return whole, whole


def train(kind, data, stops):
    """Train on the points; yield (epochs, frozen copy of the part, loss) at each stop."""
    whole, part = network(kind, data.points.shape[1])
    optimizer = torch.optim.Adam(whole.parameters(), lr=2e-3)
    generator = torch.Generator().manual_seed(1)
    loss_sum = math.nan
    for epoch in range(max(stops) + 1):
        if epoch in stops:
            yield epoch, copy.deepcopy(part).eval().requires_grad_(False), loss_sum
        loss_sum = 0.0
        for chosen in torch.randperm(TRAINING, generator=generator).split(BATCH):
            x = data.points[chosen]
            if kind == "classifier":
                loss = nn.functional.cross_entropy(whole(x), data.labels[chosen])
            else:
                added = CORRUPTION * torch.randn(x.shape, generator=generator)
                loss = ((whole(x + added * (kind == "denoiser")) - x) ** 2).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            loss_sum += loss.item() * BATCH / TRAINING
        for group in optimizer.param_groups:
            group["lr"] = 1e-3 * (1 + math.cos(math.pi * (epoch + 1) / max(stops)))


def angle(bases, tangents):
    """Mean principal angle in degrees, over d and over points, between (N, n, d) bases."""
    pairs = zip(bases, tangents, strict=True)
    return float(torch.stack([principal_angles(*pair, degrees=True) for pair in pairs]).mean())


def estimates(s):
    """Estimates of the dimension from spectra (N, k), each the mean over points."""
    # Gaps in the lower half, or below a hundredth of σ₁, are of what training left over.
    gap = largest_gap(s, window=(1, s.shape[1] // 2 - 1), floor=1e-2)
    found = {
        "ones": count_above(s),
        "halves": count_above(s / s[:, :1], 0.5),
        "gap": gap.dimension,
        "participation": participation_ratio(s),
        "entropy": entropy_dimension(s),
    }
    return {name: float(value.double().mean()) for name, value in found.items()}


def sampled(J, s):
    """The same by random vectors alone: means over points, and 95 % intervals that hold the truth.

    Returns [estimate, how many intervals hold the value of all s, how many there are] of each.
    """
    spectra = jvpsvd.spectral_density(J, probes=16, steps=10)
    pairs = {
        "ones": (count_above(s), [one.count(1.0) for one in spectra]),
        "participation": (participation_ratio(s), [one.participation_ratio() for one in spectra]),
        "entropy": (entropy_dimension(s), [one.effective_rank() for one in spectra]),
    }
    found = {}
    for name, (truth, guesses) in pairs.items():
        ends = [guess.interval() for guess in guesses]
        held = sum(
            low - 1e-3 * t <= t <= high + 1e-3 * t
            for t, (low, high) in zip(truth.tolist(), ends, strict=True)
        )
        found[name] = [float(np.mean([guess.value for guess in guesses])), held, len(guesses)]
    return found


def measure(part, held):
    """What the Jacobians of a network at held-out points say."""
    J = jvpsvd.JacobianOperator(part, held.points, batch_dims=1)
    found = jvpsvd.svds(J, k=min(J.shape[-2:]), method="exact")
    d = held.tangents.shape[-1]
    along = (J @ held.tangents).square().sum((1, 2)) / d
    every = found.s.square().sum(1) / J.shape[-1]
    return {
        **estimates(found.s),
        "sampled": sampled(J, found.s),
        "angle": angle(found.Vh[:, :d].mT, held.tangents),
        # Energy along a tangent over that along a direction chosen at random.
        "gain": float((along / every).log().mean().exp()),
        "spectrum": found.s[:, :SHOWN].clamp_min(1e-9).log().mean(0).exp().tolist(),
        "residual": float((found.residuals / found.s[:, :1]).max()),
    }


def controls(data, held):
    """Angles of local PCA and of random directions to the true tangents."""
    d, n = held.tangents.shape[-1], held.points.shape[1]
    neighbours = torch.cdist(held.points, data.points).topk(20 * d, largest=False).indices
    pca = [pca_basis(data.points[index], d) for index in neighbours]
    chance = [random_space(n, d, seed=seed) for seed in range(len(neighbours))]
    return {"pca": angle(pca, held.tangents), "chance": angle(chance, held.tangents)}


def study(plan):
    """Every manifold, noise and network; the whole course of training at the watched noise."""
    rows, compared = [], []
    for name, (classes, separation) in families().items():
        for noise in plan["noises"]:
            data, held = (
                sample_classes(
                    classes, count, torch.Generator().manual_seed(seed), noise,
                    separation=separation,
                )
                for count, seed in ((TRAINING, 0), (HELD_OUT, 1))
            )  # fmt: skip
            facts = {"manifold": name, "d": classes[0].dimension, "noise": noise}
            compared.append({**facts, **controls(data, held)})
            stops = plan["epochs"] if noise == plan["watched"] else plan["epochs"][-1:]
            for kind in NETWORKS:
                for epochs, part, loss in train(kind, data, stops):
                    row = {**facts, "network": kind, "epochs": epochs, "loss": loss}
                    rows.append({**row, **measure(part, held)})
                    print(line(rows[-1], compared[-1]), flush=True)
    return {"plan": plan, "rows": rows, "controls": compared}


HEAD = (
    "manifold    d  network      noise epochs |   σ≥1 σ≥σ₁/2   gap   part.  entr. | "
    "angle  PCA  chance | gain"
)


def line(row, control):
    row = {**row, **{name: control[name] for name in ("pca", "chance")}}
    return (
        f"{row['manifold']:<11} {row['d']}  {row['network']:<12} {row['noise']:<5g} "
        f"{row['epochs']:>5}  | {row['ones']:5.1f} {row['halves']:6.1f} {row['gap']:5.1f} "
        f"{row['participation']:7.1f} {row['entropy']:6.1f} | {row['angle']:4.0f}° "
        f"{row['pca']:3.0f}° {row['chance']:5.0f}°  | {row['gain']:5.2f}"
    )


ESTIMATES = ("ones", "halves", "gap", "participation", "entropy")


def summary(numbers):
    """Lines that count, over the manifolds, where each network found d and the tangents."""
    control = {(c["manifold"], c["noise"]): c for c in numbers["controls"]}
    last = numbers["plan"]["epochs"][-1]
    yield "trained networks, manifolds out of all: |estimate − d| < 0.5; angle below that of PCA"
    yield "network      noise |  σ≥1 σ≥σ₁/2  gap part. entr. | mean angle  PCA  below PCA"
    for kind in NETWORKS:
        for noise in numbers["plan"]["noises"]:
            rows = [r for r in numbers["rows"] if (r["network"], r["noise"]) == (kind, noise)]
            rows = [r for r in rows if r["epochs"] == last]
            right = [sum(abs(r[name] - r["d"]) < 0.5 for r in rows) for name in ESTIMATES]
            pca = [control[r["manifold"], noise]["pca"] for r in rows]
            below = sum(r["angle"] < p for r, p in zip(rows, pca, strict=True))
            angles = np.mean([r["angle"] for r in rows])
            yield (
                f"{kind:<12} {noise:<5g} | {right[0]:4d} {right[1]:6d} {right[2]:4d} "
                f"{right[3]:5d} {right[4]:5d} | {angles:9.0f}° {np.mean(pca):3.0f}° {below:5d} of "
                f"{len(rows)}"
            )
    yield "by 16 random vectors in 10 steps: mean error, and 95 % intervals that hold the value"
    for name in ("ones", "participation", "entropy"):
        rows = numbers["rows"]
        off = np.mean([abs(r["sampled"][name][0] - r[name]) for r in rows])
        held, every = (sum(r["sampled"][name][i] for r in rows) for i in (1, 2))
        yield f"{name:<13} {off:6.2f}   {held} of {every}"


def draw(numbers, base):
    """Draw spectra, angles against epochs and angles against noise; save PNG and SVG."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    plan, rows = numbers["plan"], numbers["rows"]
    last, watched = plan["epochs"][-1], plan["watched"]
    names = list(dict.fromkeys(row["manifold"] for row in rows))
    # Okabe and Ito's colours, of different greys, with dashes and marks beside them.
    styles = {
        "autoencoder": {"color": "#0072B2", "ls": "-", "marker": "o"},
        "denoiser": {"color": "#D55E00", "ls": (0, (5, 1.5)), "marker": "s"},
        "classifier": {"color": "#000000", "ls": (0, (1, 1)), "marker": "^"},
    }
    plain = {"font.size": 8, "axes.spines.top": False, "axes.spines.right": False}
    with mpl.rc_context({**plain, "svg.hashsalt": "jvpsvd", "lines.markersize": 3.5}):
        figure = Figure(figsize=(10, 6.6), layout="constrained")
        grid = figure.subplots(3, len(names), sharey="row", squeeze=False)
        for column, name in zip(grid.T, names, strict=True):
            mine = [row for row in rows if row["manifold"] == name]
            control = {c["noise"]: c for c in numbers["controls"] if c["manifold"] == name}
            d = mine[0]["d"]
            for kind, style in styles.items():
                own = [row for row in mine if row["network"] == kind]
                course = [row for row in own if row["noise"] == watched]
                ends = [row for row in own if row["epochs"] == last]
                s = course[-1]["spectrum"]
                column[0].plot(range(1, len(s) + 1), s, **style, label=kind)
                for axes, key, some in ((column[1], "epochs", course), (column[2], "noise", ends)):
                    axes.plot([r[key] for r in some], [r["angle"] for r in some], **style)
            control_style = {"color": "0.45", "lw": 1.0}
            column[1].axhline(control[watched]["pca"], ls="-.", **control_style)
            pca = [control[noise]["pca"] for noise in plan["noises"]]
            column[2].plot(plan["noises"], pca, ls="-.", label="local PCA", **control_style)
            for axes in column[1:]:
                chance = control[watched]["chance"]
                axes.axhline(chance, ls="-", lw=0.6, color="0.45", label="random directions")
                axes.set_yscale("log")
            column[0].axhline(1.0, color="0.6", lw=0.6, zorder=0)
            column[0].axvline(d + 0.5, color="0.6", lw=0.6, zorder=0)
            column[0].set_title(f"{name}, d = {d}", fontsize=9)
            column[0].set_yscale("log")
            column[0].set_ylim(1e-3, 30)
            column[0].set_xlabel("index i (line after d)")
            column[1].set_xscale("symlog", linthresh=1, linscale=0.5)
            column[1].set_xticks(plan["epochs"], [str(e) for e in plan["epochs"]])
            column[1].minorticks_off()
            column[1].set_xlim(-0.15, last * 1.4)
            column[1].set_xlabel(f"epochs (noise {watched})")
            column[2].set_xscale("symlog", linthresh=0.03, linscale=0.5)
            column[2].set_xticks(plan["noises"], [f"{noise:g}" for noise in plan["noises"]])
            column[2].minorticks_off()
            column[2].set_xlim(-0.003, max(plan["noises"]) * 1.3)
            column[2].set_xlabel(f"noise ({last} epochs)")
        grid[0, 0].set_ylabel("singular value σᵢ (geometric mean)")
        for axes in grid[1:, 0]:
            axes.set_ylabel("angle to true tangents")
            axes.set_ylim(0.9, 110)
            axes.set_yticks([1, 3, 10, 30, 90], ["1°", "3°", "10°", "30°", "90°"])
            axes.minorticks_off()
        handles = [*grid[0, 0].get_legend_handles_labels()[0]]
        handles += grid[2, 0].get_legend_handles_labels()[0]
        figure.legend(handles=handles, loc="outside lower center", ncols=5, frameon=False)
        for suffix, options in ((".png", {"dpi": 160}), (".svg", {"metadata": {"Date": None}})):
            figure.savefig(base.with_suffix(suffix), **options)
    print(f"figure: {base}.png and .svg")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="two noises, 40 epochs")
    parser.add_argument("--out", type=Path, default=Path("known-manifolds.json"))
    parser.add_argument("--redraw", action="store_true", help="only draw, from the file --out")
    given = parser.parse_args()
    if not given.redraw:
        began = time.perf_counter()
        print(HEAD)
        numbers = study(QUICK if given.quick else FULL)
        numbers["seconds"] = time.perf_counter() - began
        given.out.write_text(json.dumps(numbers, indent=1))
    numbers = json.loads(given.out.read_text())
    print("", *summary(numbers), sep="\n")
    draw(numbers, given.out)


if __name__ == "__main__":
    main()
