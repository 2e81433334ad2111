"""The mean of counts over inputs, whose sampling errors come from one random start."""

import pytest
import torch
from support.sampled import ABOVE_ONE, SIZE, root_mean_square, sampled_network

import jvpsvd

INPUTS = 12


def test_more_inputs_do_not_narrow_what_one_random_start_has_sampled():
    net, _ = sampled_network()
    X = torch.randn(INPUTS, SIZE, generator=torch.Generator().manual_seed(0))
    off = []
    for seed in range(8):
        (depth,) = jvpsvd.spectra(net, X, k=3, seed=seed, progress=False)
        mean = depth.dimension
        assert mean.standard_error == pytest.approx(float(depth.counts[:, 3].mean()))
        assert mean.standard_error > 0
        low, high = mean.interval(0.999)
        assert low <= ABOVE_ONE <= high
        off.append((mean.value - ABOVE_ONE) / mean.standard_error)
    assert 0.4 < root_mean_square(off) < 1.6
