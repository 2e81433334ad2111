import pytest
import scipy.sparse
import torch
from support.sparse import random_sparse
from support.svd_problems import memory_for, planned
from torch import nn

from jvpsvd import JacobianOperator, aslinearoperator, svds
from jvpsvd.errors import ArgumentError
from jvpsvd.svd import parse_memory
from jvpsvd.svd.plan import plan
from jvpsvd.svd.request import ProblemSize, Request, check_request

MIB = 1 << 20


@pytest.mark.parametrize("shape", [(1000, 150528), (150528, 1000), (10, 10), (1, 5)])
def test_a_short_side_is_taken_whole(shape):
    short = min(shape)
    chosen = planned(shape, 4, max(1, short // 2), memory="8GiB")
    assert chosen.method == "exact"
    assert chosen.predicted_products == short


def test_few_triplets_of_a_large_operator_are_iterated():
    chosen = planned((15680, 150528), 4, 500, memory="8GiB")
    assert chosen.method == "golub-kahan"
    assert 500 < chosen.max_size <= 15680
    assert chosen.predicted_products < 15680


def test_a_budget_too_small_for_the_matrix_makes_auto_iterate():
    assert planned((4000, 4000), 8, 1500, memory="2GiB").method == "exact"
    assert planned((4000, 4000), 8, 1500, memory="400MiB").method == "golub-kahan"


@pytest.mark.parametrize("method", ["golub-kahan", "exact"])
def test_a_given_method_is_used(method):
    chosen = planned((300, 400), 4, 10, method=method)
    assert chosen.method == method
    assert chosen.reason == "asked for"


@pytest.mark.parametrize("method", ["auto", "golub-kahan", "exact"])
def test_no_budget_is_silently_exceeded(method):
    with pytest.raises(ArgumentError, match=r"more than memory= allows .1.0 MiB.; .*raise memory"):
        planned((5000, 5000), 4, 100, method=method, memory="1MiB")


def test_what_fits_the_memory_limits_the_bases():
    memory = memory_for(77, (1000, 1000), 20, 4)
    chosen = planned((1000, 1000), 4, 20, method="golub-kahan", memory=memory)
    assert chosen.max_size == 77


def test_blocks_are_narrower_where_memory_is_little_unless_their_width_was_given():
    shape, k = (10**6, 10**6), 129
    cuda = {"method": "golub-kahan", "device": torch.device("cuda")}
    assert planned(shape, 4, k, memory="8GiB", **cuda).block_size == 32
    narrow = planned(shape, 4, k, memory="4GiB", **cuda)
    assert narrow.block_size in (8, 16)
    assert narrow.max_size >= k + 2 * narrow.block_size
    with pytest.raises(ArgumentError, match="raise memory"):
        planned(shape, 4, k, memory="4GiB", block_size=32, **cuda)
    with pytest.raises(ArgumentError, match="raise memory"):
        planned(shape, 4, k, memory="1GiB", **cuda)


@pytest.mark.parametrize("k", [1, 20, 200])
def test_little_memory_narrows_blocks_until_bases_can_show_that_nothing_is_missing(k):
    shape, widths, before = (1_000_000, 5000), set(), 0
    for columns in range(k + 16, k + 120, 4):
        memory = memory_for(columns, shape, k, 4, block_size=1)
        chosen = planned(shape, 4, k, method="golub-kahan", memory=memory)
        assert chosen.max_size >= k + max(16, 3 * chosen.block_size)
        assert chosen.block_size >= before
        before = chosen.block_size
        widths.add(before)
    assert len(widths) > 2


def test_blocks_are_wider_on_a_gpu():
    widths = [
        planned(
            (5000, 5000), 4, k, method="golub-kahan", memory="8GiB", device=torch.device("cuda")
        ).block_size
        for k in (32, 33, 128, 129)
    ]
    assert widths == [8, 16, 16, 32]


@pytest.mark.parametrize(("batch", "width"), [(None, 32), (1, 32), (3, 32), (4, 16), (32, 16)])
def test_many_matrices_keep_a_gpu_busy_with_narrower_blocks(batch, width):
    size = ProblemSize((5000, 5000), torch.float32, torch.device("cuda"), batch)
    request = Request(500, method="golub-kahan", memory=64 << 30)
    assert plan(size, request).block_size == width


@pytest.mark.parametrize(
    ("chunk", "expected"),
    [
        (None, [8, 8, 8, 8, 16, 16]),
        (512, [8, 8, 8, 8, 16, 16]),
        (8, [2, 2, 4, 4, 8, 16]),
        (3, [2, 2, 3, 3, 3, 6]),
    ],
)
def test_the_block_is_smaller_than_k_and_narrow_where_width_saves_nothing(chunk, expected):
    widths = [
        planned((5000, 5000), 4, k, method="golub-kahan", chunk=chunk).block_size
        for k in (1, 32, 33, 128, 256, 257)
    ]
    assert widths == expected


@pytest.mark.parametrize(
    ("convert", "widths"),
    [
        (lambda matrix: matrix, [8, 8]),
        (torch.Tensor.to_sparse_csr, [2, 4]),
        (torch.Tensor.to_sparse_csc, [2, 4]),
        (torch.Tensor.to_sparse, [2, 4]),
        (lambda matrix: scipy.sparse.csr_array(matrix.numpy()), [2, 4]),
        (lambda matrix: scipy.sparse.csc_matrix(matrix.numpy()).T, [2, 4]),
    ],
)
@pytest.mark.filterwarnings("ignore:Sparse CS:UserWarning")
def test_blocks_are_narrow_of_a_sparse_matrix(convert, widths):
    values = 0.9 ** torch.arange(2000, dtype=torch.float64)
    for k, width in zip((4, 40), widths, strict=True):
        result = svds(convert(torch.diag(values)), k, method="golub-kahan")
        assert result.plan.block_size == width
        torch.testing.assert_close(result.s, values[:k], rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    ("shape", "method"),
    [
        ((100, 200), "exact"),
        ((200, 100), "exact"),
        ((300, 700), "exact"),
        ((100, 6000), "exact"),
        ((100, 7000), "golub-kahan"),
        ((500, 400), "golub-kahan"),
    ],
)
def test_a_small_matrix_in_memory_is_decomposed_as_a_whole(shape, method):
    matrix = random_sparse(shape, 0.05)
    given = svds(matrix, 3), svds(aslinearoperator(matrix.T).T, 3)
    assert [result.method for result in given] == [method, method]
    assert planned(shape, 8, 3, chunk=8).method == "golub-kahan"
    torch.testing.assert_close(given[0].s, given[1].s)


@pytest.mark.parametrize(
    ("k", "block", "products"),
    [
        (1, 2, 56),
        (20, 2, 132),
        (20, 2, 208),
        (50, 4, 260),
        (128, 4, 572),
        (500, 8, 1252),
        (500, 8, 1730),
    ],
)
def test_predicted_products_are_those_of_real_jacobians_within_a_factor_of_two(k, block, products):
    """The products were measured on EfficientNet-Lite0 at three depths."""
    predicted = planned((15680, 150528), 4, k, method="golub-kahan", block_size=block)
    assert 0.5 < predicted.predicted_products / products < 2


@pytest.mark.parametrize(("k", "block", "products"), [(50, 4, 252), (500, 16, 1300)])
def test_predicted_products_of_the_logits_are_those_that_it_takes(k, block, products):
    """Of 1000 rows the last columns bring little that is new."""
    predicted = planned((1000, 150528), 4, k, method="golub-kahan", block_size=block)
    assert 0.9 < predicted.predicted_products / products < 1.1


@pytest.mark.parametrize(("block_size", "expected"), [(None, 8), (5, 5), (999, 100)])
def test_the_block_is_no_wider_than_the_shorter_side(block_size, expected):
    chosen = planned((100, 300), 4, 3, method="golub-kahan", block_size=block_size)
    assert chosen.block_size == expected


@pytest.mark.parametrize(
    ("text", "size"),
    [
        (1, 1),
        ("1", 1),
        ("3b", 3),
        ("2k", 2048),
        ("2 KB", 2048),
        ("1.5 MiB", 3 * MIB // 2),
        ("4GiB", 4096 * MIB),
        ("4g", 4096 * MIB),
        (" 1TiB ", MIB * MIB),
    ],
)
def test_sizes_are_read(text, size):
    assert parse_memory(text) == size


@pytest.mark.parametrize(
    "text",
    [0, -5, "0", "", "GiB", "four", "4 XB", "-1GiB", "1e9 GiB", "1_0", "9" * 400, "1é", True],
)
def test_what_is_no_size_is_refused(text):
    with pytest.raises(ArgumentError, match="is not a size"):
        parse_memory(text)


def test_a_block_may_widen_where_memory_is_left():
    wide = planned((10_000, 3000), 4, 40, method="golub-kahan", memory="8GiB")
    assert wide.solver.widest_block == 8 * 2**8  # the last below the shorter side
    tight = planned((1_000_000, 2000), 4, 40, method="golub-kahan", memory="0.7GiB")
    assert tight.solver.widest_block < 64


def _of_network(shape, widest, k, *, chunk=512, batch=None, **options):
    size = ProblemSize(tuple(shape), torch.float32, None, batch, chunk, widest=widest)
    return plan(size, check_request(size, k, memory="8GiB", **options))


@pytest.mark.parametrize(("rows", "k"), [(256, 6), (256, 100), (384, 100), (500, 100)])
def test_smaller_ones_are_in_a_batch_too(rows, k):
    chosen = _of_network((rows, rows), 4096, k, batch=16)
    assert (chosen.method, chosen.reason) == ("exact", "the Jacobian is small")


@pytest.mark.parametrize("k", [6, 20, 100])
@pytest.mark.parametrize("shape", [(384, 384), (1024, 1024), (512, 3000), (3000, 512)])
def test_small_jacobians_of_small_networks_are_taken_as_a_whole(shape, k):
    chosen = _of_network(shape, 4096, k)
    assert (chosen.method, chosen.reason) == ("exact", "the Jacobian is small")
    assert not chosen.undecided


@pytest.mark.parametrize(
    ("shape", "widest", "batch"),
    [
        ((600, 600), 1 << 17, None),  # a larger network, whose calls are no mere overhead
        ((600, 600), None, None),
        ((600, 600), 4096, 4),
        ((500, 784), 4096, 4),
        ((400, 400), 4096, 4),
        ((400, 784), None, 4),
        ((1000, 150528), 4096, None),
        ((1100, 1100), 4096, None),
    ],
)
def test_other_jacobians_are_left_to_the_numbers_of_products(shape, widest, batch):
    assert "is small" not in _of_network(shape, widest, 20, batch=batch).reason


@pytest.mark.parametrize(
    ("shape", "widest", "chunk", "width"),
    [
        ((384, 384), 384, 512, 512),
        ((384, 384), 384, 128, 128),
        ((384, 384), 384, 8, 64),
        ((384, 384), None, 512, 64),
        ((384, 384), 1 << 14, 512, 128),
        ((384, 384), 1 << 18, 512, 64),
        ((512, 8192), 384, 512, 256),
        ((1000, 150528), 384, 512, 64),
    ],
)
def test_the_exact_method_takes_a_chunk_of_short_vectors_at_once(shape, widest, chunk, width):
    chosen = _of_network(shape, widest, min(shape), chunk=chunk, method="exact")
    assert chosen.block_size == width


@pytest.mark.parametrize(("channels", "small"), [(8, True), (64, False)])
@pytest.mark.parametrize("derivatives", ["auto", "trace"])
def test_a_vector_on_its_way_through_the_network_decides(derivatives, channels, small):
    torch.manual_seed(0)
    layers = nn.Conv2d(1, channels, 3, padding=1), nn.Tanh(), nn.Conv2d(channels, 1, 3)
    net, x = nn.Sequential(*layers).eval(), torch.randn(1, 1, 28, 28)
    J = JacobianOperator(net, x, derivatives=derivatives)
    for A in (J, J.T):
        assert (ProblemSize.of(A).widest < 1 << 15) == small
        assert (svds(A, 3, tol=1e-3).plan.reason == "the Jacobian is small") == small
