"""How many Jacobians are solved together: by their size, and on a GPU by its memory."""

import pytest
import torch

from jvpsvd.networks import choose_batch
from jvpsvd.svd.lock_step import plan_batch
from jvpsvd.svd.methods.golub_kahan import GolubKahan
from jvpsvd.svd.request import ProblemSize, Request

CARD = torch.device("cuda")


@pytest.mark.parametrize(
    ("inputs", "outputs", "together"),
    [(784, 10, 32), (3072, 1000, 4), (150_528, 1000, 1), (150_528, 75_264, 1)],
)
@pytest.mark.parametrize("device", [None, torch.device("cpu")])
def test_on_a_cpu_only_small_ones(inputs, outputs, together, device):
    assert choose_batch(inputs, outputs, 500, device=device) == together


@pytest.mark.parametrize(
    ("inputs", "outputs", "together"),
    [(20, 10, 128), (64, 64, 128), (784, 10, 32), (3072, 1000, 4)],
)
def test_more_of_tiny_ones_where_they_may_be(inputs, outputs, together):
    assert choose_batch(inputs, outputs, most=128) == together
    assert choose_batch(inputs, outputs) <= 32


@pytest.mark.parametrize(
    ("outputs", "memory", "together"),
    [
        (15_680, "70GiB", 32),
        (15_680, "40GiB", 32),
        (15_680, "12GiB", 16),
        (75_264, "40GiB", 16),
        (75_264, "12GiB", 4),
        (75_264, "100MiB", 1),
        (10, "100MiB", 8),
    ],
)
def test_on_a_gpu_as_many_as_it_holds(outputs, memory, together):
    assert choose_batch(150_528, outputs, 500, device=CARD, memory=memory) == together


@pytest.mark.parametrize("memory", [12, 40, 70])
@pytest.mark.parametrize("outputs", [15_680, 75_264])
def test_what_is_chosen_is_solved_in_one_part(outputs, memory):
    count = choose_batch(150_528, outputs, 500, device=CARD, memory=memory << 30)
    size = ProblemSize((outputs, 150_528), torch.float32, CARD, count)
    chosen = plan_batch(size, Request(500, memory=memory << 30, vectors=False))
    assert isinstance(chosen.solver, GolubKahan)
    assert chosen.predicted_bytes <= memory << 30
