"""What `memory=` promises is kept under a hard ceiling of the operating system."""

import json
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="reads /proc and limits address space"
)

# Each process solves one problem. Address space beyond what it had when it began is limited to the
# budget, so that an allocation above it fails, whether or not its pages are ever touched.
SCRIPT = """
import json, resource, sys
from pathlib import Path
import torch
from jvpsvd import LinearOperator, svds
from jvpsvd.svd import parse_memory
from jvpsvd.svd.kernels.dense import leading_svd
from jvpsvd.svd.kernels.row_blocked import project, subtract_projection

SHORT = 1000


class Copies(LinearOperator):
    '''Copies of one diagonal matrix above each other, scaled to its singular values.'''

    def __init__(self, d, long, batch=()):
        super().__init__((*batch, long, d.shape[-1]), torch.float32)
        self.repeats = long // d.shape[-1]
        self.d = d / self.repeats**0.5

    def _matmat(self, V):
        images = (V.mT * self.d).unsqueeze(-2)
        repeats = images.expand(*images.shape[:-2], self.repeats, images.shape[-1])
        return repeats.flatten(-2).mT

    def _rmatmat(self, U):
        return (U.mT.unflatten(-1, (self.repeats, self.d.shape[-1])).sum(-2) * self.d).mT


def status(name):
    lines = Path('/proc/self/status').read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith(name + ':'))


options = json.loads(sys.argv[1])
budget = parse_memory(options['memory'])
d = torch.logspace(0, -options.pop('decades'), SHORT)
d[: options.pop('cluster', 0)] = 1
k, long, batch = options.pop('k'), options.pop('long'), options.pop('batch', ())
svds(Copies(d, 20 * SHORT), k, **{**options, 'memory': None})
# Their libraries take buffers, once.
leading_svd(torch.eye(300, dtype=torch.float64), 2, 1e-9)
rows, few = torch.ones(1 << 10, 1 << 12).T, torch.ones(20, 1 << 12).T
subtract_projection(few, rows, project(rows, few))
del rows, few
before = status('VmHWM')
limit = status('VmSize') + budget
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
A = Copies(d, long, batch)
result = svds(A, k, **options)
found = {
    'grown': status('VmHWM') - before,
    'budget': budget,
    'predicted': result.plan.predicted_bytes,
    'max_size': result.plan.max_size,
    'products': result.products.forward,
    'method': result.method,
    'error': float((result.s - d[:k]).abs().max()),
    'converged': int(result.converged.sum()),
    'evidence': result.certificate.evidence,
}
print(json.dumps(found))
"""


def solve_under_ceiling(**options):
    options = {"on_unconverged": "ignore", **options}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, json.dumps(options)],
        capture_output=True,
        text=True,
        timeout=300,
        env={"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "PATH": ""},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


def assert_kept(found):
    assert found["predicted"] <= found["budget"]
    assert found["grown"] <= found["budget"], f"{found['grown'] / found['budget']:.3f} budgets"
    assert found["grown"] <= 1.15 * found["predicted"]
    assert found["grown"] >= 0.4 * found["predicted"], "the prediction is far too large"


GOLUB_KAHAN = {"method": "golub-kahan", "block_size": 8, "tol": 1e-4}


@pytest.mark.slow
def test_vectors_with_restarts():
    """Probe columns widen the last blocks from 8 to 12 columns, in eight blocks of a step."""
    found = solve_under_ceiling(long=4_000_000, k=50, decades=12, memory="2.6GiB", **GOLUB_KAHAN)
    assert found["products"] > found["max_size"]
    assert found["converged"] == 50
    assert found["error"] <= 1e-3
    assert_kept(found)


@pytest.mark.slow
def test_values_alone():
    found = solve_under_ceiling(
        long=2_000_000, k=50, decades=12, memory="0.9GiB", vectors=False, **GOLUB_KAHAN
    )
    assert found["max_size"] < 50
    assert found["converged"] == 50
    assert_kept(found)


@pytest.mark.slow
def test_bases_that_grow():
    """More columns than were reserved at first: old and new storage must fit side by side."""
    found = solve_under_ceiling(long=250_000, k=20, decades=0.5, memory="1GiB", **GOLUB_KAHAN)
    at_first = 2 * (20 + 8 * 8)
    assert at_first < found["products"] < found["max_size"]
    assert found["converged"] == 20
    assert found["grown"] <= found["budget"]


def test_a_batch():
    found = solve_under_ceiling(
        long=250_000, batch=[4], k=20, decades=12, memory="1GiB", **GOLUB_KAHAN
    )
    assert found["converged"] == 80
    assert_kept(found)


@pytest.mark.slow
@pytest.mark.parametrize(("cluster", "memory"), [(60, "0.7GiB"), (12, "0.9GiB")])
def test_clusters_that_widen_the_block(cluster, memory):
    """A block of probe columns is added for a cluster, and later steps are wider."""
    found = solve_under_ceiling(
        long=1_000_000, k=40, cluster=cluster, decades=12, memory=memory, **GOLUB_KAHAN
    )
    assert found["converged"] == 40
    assert_kept(found)


@pytest.mark.slow
@pytest.mark.parametrize("vectors", [True, False])
def test_repeated_values_for_which_a_wider_block_begins_again(vectors):
    found = solve_under_ceiling(
        long=1_000_000,
        k=40,
        cluster=20,
        decades=12,
        memory="0.9GiB",
        vectors=vectors,
        **GOLUB_KAHAN,
    )
    assert found["converged"] == 40
    assert found["error"] <= 1e-4
    assert found["grown"] <= found["budget"]
    if vectors:  # without them, lost rank makes the solve begin again with U
        assert_kept(found)


def test_the_exact_method():
    found = solve_under_ceiling(
        long=80_000, k=20, decades=6, memory="0.5GiB", method="exact", tol=1e-4
    )
    assert found["converged"] == 20
    assert_kept(found)


@pytest.mark.slow
def test_the_randomized_method():
    found = solve_under_ceiling(
        long=1_000_000, k=20, decades=12, memory="1.3GiB", method="randomized", tol=1e-4
    )
    assert found["error"] <= 1e-3
    assert_kept(found)
