"""Random sparse matrices, in every SciPy that is promised."""

import numpy as np
import scipy.sparse


def random_sparse(shape, density, format="coo", dtype=np.float64):
    """A matrix with this share of entries, between 0 and 1.

    The seed of `scipy.sparse.random_array` has another name before SciPy 1.15.
    """
    rng, (rows, columns) = np.random.default_rng(0), shape
    places = rng.choice(rows * columns, round(density * rows * columns), replace=False)
    values = rng.random(len(places)).astype(dtype)
    return scipy.sparse.coo_array((values, divmod(places, columns)), shape).asformat(format)
