"""Two processes that share the columns of every block, or the weights of one network."""

import dataclasses
import traceback

import pytest
import torch
import torch.distributed as dist
from torch import nn

from jvpsvd import JacobianOperator, svds
from jvpsvd.errors import ArgumentError, ModelError, RankError
from jvpsvd.operators import Trace

pytestmark = pytest.mark.skipif(
    not dist.is_available() or not dist.is_gloo_available(), reason="torch without gloo"
)
RANKS = 2
WIDTHS = (1, 2, 5)
X = torch.linspace(-1, 1, 6, dtype=torch.float64)


def net():
    torch.manual_seed(0)
    layers = (nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 16), nn.GELU(), nn.Linear(16, 5))
    return nn.Sequential(*layers).double().eval().requires_grad_(False)


def sharded():
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    model, mesh = net(), init_device_mesh("cpu", (RANKS,))
    for layer in model:
        if isinstance(layer, nn.Linear):
            fully_shard(layer, mesh=mesh)
    return fully_shard(model, mesh=mesh)


def tensor_parallel():
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import parallel

    plan = {"0": parallel.ColwiseParallel(), "2": parallel.RowwiseParallel()}
    return parallel.parallelize_module(net(), init_device_mesh("cpu", (RANKS,)), plan)


def in_group(**options):
    return JacobianOperator(net(), X, group=dist.group.WORLD, **options)


def block(rows, width):
    return torch.randn(rows, width, generator=torch.Generator().manual_seed(width)).double()


def products(J):
    m, n = J.shape
    return [(J @ block(n, width), J.T @ block(m, width)) for width in WIDTHS]


def counted(rank):
    J = in_group()
    J @ block(6, 5), J.T @ block(5, 2)
    return tuple(J.products)


def triplets(rank):
    found = svds(in_group(), 3)
    return found.s, found.U, found.Vh


def many_points(rank):
    points = torch.stack([X, X.flip(0)])
    return JacobianOperator(net(), points, batch_dims=1) @ torch.eye(6).double().expand(2, 6, 6)


def other_width(rank):
    return in_group() @ block(6, 2 + rank)


def other_side(rank):
    J = in_group()
    return J @ block(6, 2) if rank else J.T @ block(5, 2)


def other_numbers(rank):
    return in_group() @ ((1 + rank) * torch.ones(6, 2).double())


def one_fails(rank):
    J = in_group()

    def broken(rows):
        raise ZeroDivisionError("a product that fails")

    if rank == 1:
        (working,) = Trace(net(), X).at(X)
        there = dataclasses.replace(working, jvp=broken)
        J = JacobianOperator.from_linear_map(there, group=dist.group.WORLD)
    return J @ block(6, 4)


def wide(rank):
    return in_group() @ block(6, 5)


CASES = {
    "group": lambda rank: products(in_group()),
    "group by transforms": lambda rank: products(in_group(derivatives="transforms", chunk=1)),
    "triplets": triplets,
    "counted": counted,
    "batch without a group": many_points,
    "sharded": lambda rank: products(JacobianOperator(sharded(), X)),
    "tensor parallel": lambda rank: JacobianOperator(tensor_parallel(), X),
    "other width": other_width,
    "other side": other_side,
    "other numbers": other_numbers,
    "one fails": one_fails,
    "after the errors": wide,
}


def work(rank, folder):
    """What each process does: every case in turn, its result or error kept."""
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=RANKS
    )
    found = {}
    for name, case in CASES.items():
        try:
            found[name] = case(rank)
        except Exception as error:
            found[name] = (type(error).__name__, str(error), traceback.format_exc())
        dist.barrier()
    torch.save(found, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    """What every case gave on each rank."""
    folder = tmp_path_factory.mktemp("ranks")
    torch.multiprocessing.start_processes(
        work, args=(str(folder),), nprocs=RANKS, start_method="spawn"
    )
    return [torch.load(folder / f"{rank}.pt") for rank in range(RANKS)]


@pytest.fixture(scope="module")
def expected():
    return torch.func.jacrev(net())(X)


@pytest.mark.parametrize("name", ["group", "group by transforms", "sharded"])
@pytest.mark.parametrize("rank", range(RANKS))
def test_products_of_any_width_equal_the_dense_jacobian(name, rank, ranks, expected):
    if "'Stream' object has no attribute" in str(ranks[rank][name][1]):
        pytest.skip("torch 2.6 shards weights on a GPU alone")
    assert len(ranks[rank][name]) == len(WIDTHS), ranks[rank][name]
    for width, (forward, reverse) in zip(WIDTHS, ranks[rank][name], strict=True):
        torch.testing.assert_close(forward, expected @ block(6, width), rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(reverse, expected.T @ block(5, width), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", ["group", "group by transforms", "triplets"])
def test_all_ranks_get_the_same_bits(name, ranks):
    ours, theirs = ranks[0][name], ranks[1][name]
    torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


def test_triplets_are_those_of_one_process(ranks):
    alone = svds(JacobianOperator(net(), X), 3)
    s, U, Vh = ranks[0]["triplets"]
    torch.testing.assert_close(s, alone.s, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close((U * s) @ Vh, (alone.U * alone.s) @ alone.Vh)


def test_every_rank_counts_all_the_vectors(ranks):
    assert [found["counted"] for found in ranks] == [(5, 2)] * RANKS


def test_without_a_group_the_ranks_go_their_own_ways(ranks, expected):
    for found in ranks:
        torch.testing.assert_close(found["batch without a group"][0], expected)


def test_tensor_parallel_networks_are_refused_by_name(ranks):
    for found in ranks:
        kind, message, _ = found["tensor parallel"]
        assert kind == ModelError.__name__
        assert "parameter '0.weight' is a distributed tensor" in message
        assert "\n" not in message


@pytest.mark.parametrize("name", ["other width", "other side", "other numbers"])
def test_ranks_that_ask_for_different_products_raise(name, ranks):
    for found in ranks:
        kind, message, trace = found[name]
        assert kind == RankError.__name__, trace
        assert "the ranks of the group were asked for different products" in message


def test_a_product_that_fails_on_one_rank_is_an_error_on_all(ranks):
    failed, other = ranks[1]["one fails"], ranks[0]["one fails"]
    assert failed[0] == "ModelError"
    assert "raised ZeroDivisionError: a product that fails" in failed[1]
    assert other[:2] == (
        RankError.__name__,
        "a product failed on 1 other rank(s); see what they raised",
    )


def test_the_ranks_go_on_after_an_error(ranks, expected):
    for found in ranks:
        torch.testing.assert_close(found["after the errors"], expected @ block(6, 5))


@pytest.mark.parametrize("group", [1, "world", object()])
def test_a_group_that_is_none_is_refused(group):
    with pytest.raises(ArgumentError, match=r"group is a .*process group"):
        JacobianOperator(torch.sin, torch.ones(2), group=group)
