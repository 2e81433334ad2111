"""The chunk is tuned while it works, and halved where memory runs out."""

import dataclasses
import itertools
import logging
import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from jvpsvd import JacobianOperator
from jvpsvd.operators import LinearMap, Trace
from jvpsvd.operators.derivatives.chunk_tuning import Chunk, Chunks, apply_in_chunks
from jvpsvd.operators.derivatives.transforms import by_transforms

SLOW = 1e-2  # seconds per vector, far above what is too short to be timed


def is_tuning(chunk):
    """Whether a call of any width would be timed."""
    return any(map(chunk.is_timed, range(1, 2049)))


def run(chunk, total, seconds):
    """The sizes of the calls that do `total` vectors; seconds(size) is what each vector takes."""
    sizes, left = [], total
    while left:
        size = chunk.next(left)
        assert 1 <= size <= left
        if chunk.is_timed(size):
            chunk.took(size, size * seconds(size))
        sizes.append(size)
        left -= size
    return sizes


@settings(deadline=None)
@given(
    start=st.integers(1, 1024),
    total=st.integers(0, 3000),
    fixed=st.booleans(),
    times=st.lists(st.floats(0, 1), min_size=1, max_size=20),
)
def test_any_timings_do_every_vector_once(start, total, fixed, times):
    chunk, each = Chunk(start, fixed), itertools.cycle(times)
    sizes = run(chunk, total, lambda size: next(each))
    assert sum(sizes) == total
    assert chunk.size in (start, start // 2, 2 * start)
    assert not fixed or chunk.size == start


@settings(deadline=None)
@given(start=st.integers(8, 256), halvings=st.integers(1, 12), total=st.integers(1, 500))
def test_halving_ends_the_tuning_and_stops_at_one(start, halvings, total):
    chunk = Chunk(start)
    for _ in range(halvings):
        chunk.halve(chunk.next(10**6))
        assert not is_tuning(chunk)
    assert chunk.size == max(1, start >> halvings)
    sizes = run(chunk, total, lambda size: SLOW)
    assert max(sizes) <= chunk.size


@given(start=st.integers(8, 256), better=st.sampled_from([0.5, 2.0]), gain=st.floats(0.2, 0.84))
def test_a_clearly_faster_size_is_taken(start, better, gain):
    chunk, faster = Chunk(start), int(better * start)
    run(chunk, 20 * start, lambda size: SLOW * (gain if size == faster else 1))
    assert chunk.size == faster
    assert not is_tuning(chunk)


@given(start=st.integers(8, 256), gain=st.floats(0.86, 1.5))
def test_a_slightly_faster_or_slower_size_is_not(start, gain):
    chunk = Chunk(start)
    run(chunk, 20 * start, lambda size: SLOW * (1 if size == start else gain))
    assert chunk.size == start
    assert not is_tuning(chunk)


@pytest.mark.parametrize("faster", [8, 32])
def test_the_size_to_plan_with_is_that_of_the_beginning(faster):
    """Otherwise a second solve would take other blocks than the first."""
    chunk = Chunk(16)
    run(chunk, 400, lambda size: SLOW * (0.5 if size == faster else 1))
    assert (chunk.size, chunk.planned) == (faster, 16)
    chunk.halve(faster)
    assert (chunk.size, chunk.planned) == (faster // 2, faster // 2)


def test_narrow_blocks_first_do_not_change_which_sizes_are_tried():
    chunk = Chunk(16)
    run(chunk, 8, lambda size: SLOW)
    assert set(run(chunk, 400, lambda size: SLOW)) == {8, 16, 32}


def test_one_slow_call_does_not_decide():
    chunk, calls = Chunk(16), itertools.count()
    run(chunk, 200, lambda size: SLOW * (50 if next(calls) == 0 else 1))
    assert chunk.size == 16


@given(start=st.integers(4, 512))
def test_calls_too_short_to_tell_apart_end_the_tuning(start):
    chunk = Chunk(start)
    sizes = run(chunk, 5 * start, lambda size: 1e-6)
    assert sizes == [start] * 5
    assert not is_tuning(chunk)


@given(start=st.integers(16, 256), widths=st.lists(st.integers(1, 7), max_size=30))
def test_blocks_narrower_than_every_size_are_one_call_each(start, widths):
    chunk = Chunk(start)
    for width in widths:
        assert run(chunk, width, lambda size: SLOW) == [width]
    assert chunk.size == start
    assert is_tuning(chunk)


def test_a_chosen_chunk_is_neither_timed_nor_changed():
    chunk = Chunk(7, fixed=True)
    assert run(chunk, 24, lambda size: SLOW) == [7, 7, 7, 3]
    net = nn.Linear(6, 6)
    J = JacobianOperator(net, torch.ones(6), chunk=7)
    for _ in range(5):
        J @ torch.ones(6, 50)
        assert J.chunk == 7


class Limited:
    """Doubles rows, if they are no more than fit into memory."""

    def __init__(self, limit, error=None):
        self.limit, self.error, self.widths = limit, error, []

    def __call__(self, rows):
        self.widths.append(rows.shape[0])
        if rows.shape[0] > self.limit:
            raise self.error or torch.OutOfMemoryError("out of memory: tried to allocate it all")
        return 2 * rows


def halvings(caplog):
    return [r.getMessage() for r in caplog.records if "out of memory" in r.getMessage()]


@settings(deadline=None)
@given(
    limit=st.integers(1, 40), size=st.integers(1, 64), rows=st.integers(0, 90), fixed=st.booleans()
)
def test_where_memory_runs_out_the_numbers_are_the_same(limit, size, rows, fixed):
    block = torch.arange(3.0 * rows).reshape(rows, 3)
    out, apply, chunk = torch.full_like(block, -1), Limited(limit), Chunk(size, fixed)
    logging.disable()
    try:
        apply_in_chunks(apply, block, out, chunk)
    finally:
        logging.disable(logging.NOTSET)
    assert torch.equal(out, 2 * block)
    assert sum(w for w in apply.widths if w <= limit) == rows


@pytest.mark.parametrize("fixed", [True, False])
def test_each_halving_is_one_line_that_names_both_numbers(fixed, caplog):
    block = torch.ones(40, 3)
    out, chunk = torch.empty(40, 3), Chunk(32, fixed)
    apply_in_chunks(Limited(5), block, out, chunk)
    assert (chunk.size, chunk.fixed) == (4, True)
    lines = halvings(caplog)
    assert len(lines) == 3
    for line, (before, after) in zip(lines, [(32, 16), (16, 8), (8, 4)], strict=True):
        assert line.startswith(f"out of memory with {before} vectors in one call")
        assert line.endswith(f"going on with {after}")
        assert "\n" not in line


def test_what_was_done_before_memory_ran_out_is_not_done_again(caplog):
    apply, out = Limited(8), torch.empty(20, 2)
    chunk = Chunk(8, fixed=True)
    apply_in_chunks(apply, torch.ones(8, 2), out[:8], chunk)
    apply.limit = 4
    apply_in_chunks(apply, torch.ones(12, 2), out[8:], chunk)
    assert apply.widths == [8, 8, 4, 4, 4]
    assert out.eq(2).all()
    assert len(halvings(caplog)) == 1


def test_memory_that_is_too_small_for_one_vector_is_an_error(caplog):
    apply = Limited(0)
    with pytest.raises(torch.OutOfMemoryError, match="tried to allocate"):
        apply_in_chunks(apply, torch.ones(6, 2), torch.empty(6, 2), Chunk(4))
    assert apply.widths == [4, 2, 1]
    assert len(halvings(caplog)) == 2


@pytest.mark.parametrize("error", [RuntimeError("shapes differ"), ValueError("no"), KeyError("k")])
def test_other_errors_pass_at_once(error, caplog):
    apply = Limited(2, error)
    with pytest.raises(type(error)) as caught:
        apply_in_chunks(apply, torch.ones(6, 2), torch.empty(6, 2), Chunk(4))
    assert caught.value is error
    assert apply.widths == [4]
    assert not caplog.records


def test_what_the_allocator_of_the_cpu_says_counts_as_out_of_memory(caplog):
    message = "[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory: …"
    out, chunk = torch.empty(6, 2), Chunk(4)
    apply_in_chunks(Limited(2, RuntimeError(message)), torch.ones(6, 2), out, chunk)
    assert out.eq(2).all()
    assert chunk.size == 2


def test_an_operator_halves_the_direction_at_fault_alone(caplog):
    jvp, vjp = Limited(3), Limited(100)
    linear_map = LinearMap(torch.zeros(6), torch.zeros(6), jvp, vjp)
    J = JacobianOperator.from_linear_map(linear_map)
    assert (J @ torch.ones(6, 20)).eq(2).all()
    assert (J.T @ torch.ones(6, 20)).eq(2).all()
    assert max(vjp.widths) > max(w for w in jvp.widths if w <= 3)
    assert J.chunk <= 3


def test_all_points_of_a_recording_share_their_chunks_and_no_others_do():
    trace = Trace(lambda x: (x.sin(), x.cos()), torch.zeros(6))
    first, second = trace.at(torch.zeros(6)), trace.at(torch.ones(6))
    for one, other in zip(first, second, strict=True):
        assert one.chunks is other.chunks
        assert one.cost == other.cost
        assert hash(one.cost) == hash(other.cost)
    assert first[0].chunks is not first[1].chunks
    J = JacobianOperator.from_linear_map(first[0])
    first[0].chunks.vjp.halve(first[0].chunks.vjp.size)
    assert J.chunk == first[0].chunks.vjp.size < first[0].chunks.jvp.size
    assert JacobianOperator.from_linear_map(second[1]).chunk > J.chunk
    assert JacobianOperator.from_linear_map(second[0], chunk=3).chunk == 3


@pytest.mark.parametrize("derivatives", ["trace", "transforms"])
def test_products_that_tune_themselves_equal_those_that_do_not(derivatives):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 4)).double()
    x = torch.linspace(-1, 1, 5).double()
    by_trace = derivatives == "trace"
    linear_map = Trace(net, x).at(x)[0] if by_trace else by_transforms(net, x)
    # By default, nothing here takes long enough to be tuned.
    chunks = Chunks(Chunk(8, shortest=0.0), Chunk(8, shortest=0.0))
    tuned = JacobianOperator.from_linear_map(dataclasses.replace(linear_map, chunks=chunks))
    fixed = JacobianOperator(net, x, derivatives=derivatives, chunk=3)
    V, U = torch.randn(5, 3000).double(), torch.randn(4, 3000).double()
    torch.testing.assert_close(tuned @ V, fixed @ V)
    torch.testing.assert_close(tuned.T @ U, fixed.T @ U)
    for chunk in (chunks.jvp, chunks.vjp):
        assert not is_tuning(chunk)
        assert not chunk.fixed


STARVED = """
import logging, resource, sys
import torch
from torch import nn
from jvpsvd import JacobianOperator

logging.basicConfig(level=logging.WARNING, stream=sys.stdout, format="%(message)s")
torch.set_num_threads(1)
torch.manual_seed(0)
net = nn.Sequential(nn.Conv2d(1, 32, 3, padding=1), nn.SiLU(), nn.Conv2d(32, 1, 3)).eval()
x = torch.randn({batch}1, 24, 24)
options = dict(derivatives={derivatives!r}, batch_dims={batch_dims})
J = JacobianOperator(net, x, chunk=4096, **options)
few = JacobianOperator(net, x, chunk=4, **options)
V = torch.randn(*J.batch, J.shape[-1], 4096 // max(1, *J.batch, 1))
few @ V[..., :4]
taken = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (taken + (256 << 20), resource.RLIM_INFINITY))
AV = J @ V
resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY,) * 2)
print("chunk", J.chunk)
print("error", float((AV[..., -8:] - few @ V[..., -8:]).abs().max() / AV.abs().max()))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="limits address space as Linux does")
@pytest.mark.parametrize(
    ("batch_dims", "derivatives"),
    [
        (0, "trace"),
        (1, "transforms"),
        pytest.param(0, "transforms", marks=pytest.mark.slow),
        pytest.param(1, "trace", marks=pytest.mark.slow),
    ],
)
def test_a_process_that_runs_out_of_memory_goes_on_with_less(batch_dims, derivatives):
    script = STARVED.format(
        derivatives=derivatives, batch_dims=batch_dims, batch="2, " if batch_dims else ""
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    found = dict(line.split() for line in lines if line.startswith(("chunk", "error")))
    assert any("out of memory with 4096 vectors" in line for line in lines)
    assert int(found["chunk"]) < 4096
    assert float(found["error"]) < 1e-5
