"""Products of parameters, thinned for the default run."""

import itertools

import pytest


def thinned(names, *axes, keep, always=lambda *values: False):
    """Parametrise a test by all combinations, of which those of a Latin square are not slow.

    One in `keep` of them is: any two values of different axes still meet there if the other axes
    hold `keep` values or more together. Those of which `always` is true stay as well, as where
    mistakes are likeliest: with a coarse tolerance, for example.
    """
    found = []
    for indices in itertools.product(*(range(len(axis)) for axis in axes)):
        values = [axis[i] for axis, i in zip(axes, indices, strict=True)]
        stays = sum(indices) % keep == 0 or always(*values)
        found.append(pytest.param(*values, marks=() if stays else pytest.mark.slow))
    return pytest.mark.parametrize(names, found)
