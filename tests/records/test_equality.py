"""Records that hold tensors or arrays are equal where all they hold is the same."""

import dataclasses
import importlib

import numpy as np
import pytest
import torch
from torch import nn

import jvpsvd
from benchmarks.problems.synthetic_run import make_run
from jvpsvd import geometry, survey
from jvpsvd.data import mnist
from jvpsvd.data.manifolds import Sphere
from jvpsvd.networks import Inputs
from jvpsvd.networks.boltzmann import BoltzmannMachine
from jvpsvd.networks.dbn import BeliefNet
from jvpsvd.svd import ProblemSize, check_request

ROOMS = ("svd", "networks", "data", "geometry", "studies", "survey", "operators")


def rows(seed):
    return torch.randn(12, 5, generator=torch.Generator().manual_seed(seed)).double()


def space(seed):
    return torch.linalg.qr(rows(seed)[:, :3]).Q


def distances(seed):
    points = rows(seed)[:6]
    return torch.cdist(points, points)


def spectrum(seed):
    return jvpsvd.svds(rows(seed), 2, method="golub-kahan", block_size=1, seed=0).spectrum


def result(seed):
    found = jvpsvd.svds(rows(seed), 2)
    return dataclasses.replace(found, seconds=0.0, seconds_by_phase={}, history=())


def machine(seed):
    return BoltzmannMachine(rows(seed), rows(seed)[0], rows(seed)[:, 0])


LABELS = torch.arange(12) % 3
NET = nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3)).eval()
MAKE = {
    "class means": lambda seed: geometry.class_means(rows(seed), LABELS),
    "variance ratio": lambda seed: geometry.variance_ratio(rows(seed), LABELS, permutations=9),
    "nearest class": lambda seed: geometry.nearest_class(rows(seed), LABELS, permutations=9),
    "average space": lambda seed: geometry.average_space(
        [space(2), space(seed)], torch.ones(2, 3), d=2
    ),
    "compared spaces": lambda seed: geometry.compare_spaces([space(2), space(seed)]),
    "gap": lambda seed: geometry.largest_gap(rows(seed).abs().sort(descending=True).values),
    "dimensions": lambda seed: geometry.dimensions(rows(seed).abs().sort(descending=True).values),
    "tree": lambda seed: geometry.average_tree(distances(seed)),
    "points": lambda seed: Sphere(dimension=2, ambient=5).sample(
        4, torch.Generator().manual_seed(seed)
    ),
    "digits": lambda seed: mnist.Digits(rows(seed), LABELS),
    "machine": machine,
    "belief net": lambda seed: BeliefNet((machine(seed), machine(2)), 3),
    "inputs": lambda seed: Inputs("npy", {"x": rows(seed)}),
    "request": lambda seed: check_request(
        ProblemSize((12, 5), torch.float64, torch.device("cpu")), start=rows(seed)[:5, :2]
    ),
    "result": result,
    "spectrum": spectrum,
    "curve": lambda seed: spectrum(seed).counts([0.5, 2.5, 3.0, 3.5]),
    "kernel": lambda seed: jvpsvd.ntk(nn.Linear(5, 2, bias=False).double(), rows(seed), k=3),
    "spectra": lambda seed: dataclasses.replace(
        jvpsvd.spectra(NET, rows(seed).float(), k=2, progress=False)["output"],
        seconds=torch.zeros(12),
    ),
}


@pytest.mark.parametrize("kind", MAKE)
def test_equal_where_all_fields_are_the_same(kind):
    one, same, other = (MAKE[kind](seed) for seed in (0, 0, 1))
    assert one == same
    assert one != other
    assert one != "another thing"


def test_spectra_of_a_run_are_equal_where_their_rows_are(tmp_path):
    folder = make_run(tmp_path / "run", photos=60, depths=2).folder
    ours, again = (survey.open(folder) for _ in range(2))
    for ask in (lambda run: run.spectra("output"), lambda run: run.counts("output"),
                lambda run: run.classes(at_most=3)):  # fmt: skip
        assert ask(ours) == ask(again)
    others = make_run(tmp_path / "other", photos=60, depths=2, k=11)
    assert ours.spectra("output") != survey.open(others.folder).spectra("output")
    assert ours.spectra("output") != ours.spectra("block.0")


def public_dataclasses():
    for room in ROOMS:
        module = importlib.import_module(f"jvpsvd.{room}")
        for name in module.__all__:
            if dataclasses.is_dataclass(one := getattr(module, name)) and isinstance(one, type):
                yield one


@pytest.mark.parametrize("kind", sorted(set(public_dataclasses()), key=str))
def test_no_public_record_asks_a_tensor_whether_it_is_true(kind):
    """Python compares dataclasses as tuples, and a tensor of several numbers has no truth value."""

    def made():
        record = object.__new__(kind)
        for field in dataclasses.fields(kind):
            value = torch.ones(2) if "Tensor" in str(field.type) else None
            value = np.ones(2) if "Array" in str(field.type) else value
            object.__setattr__(record, field.name, value)
        return record

    assert (made() == made()) in (True, False)
