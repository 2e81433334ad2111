import dataclasses

import pytest
import torch

from jvpsvd import MatrixOperator
from jvpsvd.svd.kernels.columns import GrowingColumns
from jvpsvd.svd.memory import Footprint, memory_of

SIZE = Footprint(long=1000, short=100, k=10, itemsize=4, batch=1, vectors=True)


@pytest.mark.parametrize("itemsize", [4, 8])
@pytest.mark.parametrize("batch", [1, 3])
def test_a_column_is_what_the_bases_store(itemsize, batch):
    size = dataclasses.replace(SIZE, itemsize=itemsize, batch=batch)
    dtype = torch.float32 if itemsize == 4 else torch.float64
    A = MatrixOperator(torch.ones(batch, 1000, 100, dtype=dtype))
    stored = []
    for length in (100, 100, 1000):
        basis = GrowingColumns(length, 1, 1, A)
        basis.append(torch.ones(batch, length, 1, dtype=dtype))
        stored.append(basis.block.untyped_storage().nbytes())
    assert size.column == sum(stored)
    assert size.values_column == sum(stored[:2])


def test_values_alone_take_less():
    bare = dataclasses.replace(SIZE, vectors=False)
    assert bare.result == 100 * 10 * 4
    assert bare.result < SIZE.result == 1100 * 10 * 4
    assert bare.workspace(8) <= SIZE.workspace(8)
    assert bare.exact() < SIZE.exact()


@pytest.mark.parametrize("part", ["result", "column", "values_column"])
def test_a_batch_takes_as_much_as_its_matrices(part):
    five = dataclasses.replace(SIZE, batch=5)
    assert getattr(five, part) == 5 * getattr(SIZE, part)


def test_wider_blocks_and_more_triplets_take_more():
    assert SIZE.workspace(64) > SIZE.workspace(8)
    assert dataclasses.replace(SIZE, k=50).workspace(1) > SIZE.workspace(1)
    assert SIZE.subspace(40) > SIZE.subspace(20) > SIZE.result


def test_the_exact_method_holds_the_matrix():
    assert SIZE.exact() > 1000 * 100 * 4
    wide = dataclasses.replace(SIZE, itemsize=8)
    assert wide.exact() > 3 * 1000 * 100 * 8


def test_this_machine_has_memory():
    assert memory_of() > 1 << 28
