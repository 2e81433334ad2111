"""The mean of counts over inputs, whose sampling errors come from random starts of their own."""

import math

import pytest
import torch
from support.sampled import ABOVE_ONE, SIZE, root_mean_square, sampled_network
from torch import nn

import jvpsvd

INPUTS, FEW, SEEDS = 100, 4, 6


@pytest.fixture(scope="module")
def network():
    return sampled_network()[0]


def spectra_of(net, X, **options):
    (depth,) = jvpsvd.spectra(net, X, k=3, progress=False, **{"batch": 25, **options})
    return depth


def inputs_of(count):
    return torch.randn(count, SIZE, generator=torch.Generator().manual_seed(0))


def test_the_error_of_a_mean_shrinks_with_more_inputs_and_covers_the_truth(network):
    X = inputs_of(INPUTS)
    off = {FEW: [], INPUTS: []}
    for seed in range(SEEDS):
        depth = spectra_of(network, X, seed=seed)
        few = spectra_of(network, X[:FEW], seed=seed)
        many, some = depth.dimension, few.dimension
        errors = depth.counts[:, 3]
        assert float(errors.min()) > 0
        assert many.standard_error == pytest.approx(float(errors.square().sum().sqrt()) / INPUTS)
        shrunk = math.sqrt(FEW / INPUTS) * some.standard_error
        assert many.standard_error == pytest.approx(shrunk, rel=0.05)
        for count, mean in ((FEW, some), (INPUTS, many)):
            low, high = mean.interval(0.999)
            assert low <= ABOVE_ONE <= high
            off[count].append((mean.value - ABOVE_ONE) / mean.standard_error)
    for numbers in off.values():
        assert 0.4 < root_mean_square(numbers) < 1.7


def test_an_input_starts_from_the_same_vectors_alone_and_in_any_batch(network):
    X = inputs_of(9)
    alone, some, others = (
        spectra_of(network, X, seed=5, batch=1),
        spectra_of(network, X, seed=5, batch=4),
        spectra_of(network, X[:5].flip(0), seed=5, batch=2),
    )
    assert torch.equal(alone.seeds, some.seeds)
    assert torch.equal(alone.seeds[:5], others.seeds)
    assert len(set(alone.seeds.tolist())) == 9
    errors = alone.counts[:, 3]
    for found in (some.counts[:, 0], torch.cat([others.counts[:, 0], some.counts[5:, 0]])):
        # The network is linear, so the Jacobian is that of every input; steps may differ by one.
        assert ((found - alone.counts[:, 0]).abs() < 0.3 * errors).all()
    assert float(alone.counts[:, 0].std()) > 0.5 * float(errors.mean())


def test_an_input_is_solved_as_svds_solves_it_with_its_seed(network):
    X = inputs_of(3)
    depth = spectra_of(network, X, seed=7, batch=1)
    assert int(depth.seeds[0]) == 7
    for x, seed, counts in zip(X, depth.seeds.tolist(), depth.counts, strict=True):
        J = jvpsvd.JacobianOperator(network, x[None])
        count = jvpsvd.svds(J, 3, seed=seed, vectors=False).spectrum.count(1.0)
        assert count.value == pytest.approx(float(counts[0]), abs=0.3 * count.standard_error)
        assert count.standard_error == pytest.approx(float(counts[3]), rel=0.01)


def test_seeds_of_inputs_that_are_given_from_a_depth_on_are_their_own():
    net = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 5)).eval()
    X = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
    (one,) = jvpsvd.spectra(net, X, since="0", k=2, seed=3, progress=False)
    (other,) = jvpsvd.spectra(net, X, k=2, seed=3, progress=False)
    assert torch.equal(one.seeds, other.seeds)


def test_no_seed_is_another_one_for_every_call_and_input(network):
    X = inputs_of(2)
    seeds = [spectra_of(network, X, seed=None).seeds.tolist() for _ in range(2)]
    assert len({*seeds[0], *seeds[1]}) == 4


def test_spectra_with_one_start_for_all_keep_the_error_that_does_not_shrink(network, tmp_path):
    """As those of a file that an older version wrote, which holds no seeds."""
    from jvpsvd.svd.storage import read_record, write_record

    S = jvpsvd.spectra(network, inputs_of(4), k=3, progress=False)
    new, old = tmp_path / "new.safetensors", tmp_path / "old.safetensors"
    S.save(new)
    kind = "NetworkSpectra 2"
    record = read_record(new, kind, {})
    del record["0.seeds"]
    write_record(old, kind, record)
    assert jvpsvd.load(new)["output"].dimension == S["output"].dimension
    depth = jvpsvd.load(old)["output"]
    assert depth.dimension.standard_error == pytest.approx(float(depth.counts[:, 3].mean()))
    assert depth.dimension.value == S["output"].dimension.value
