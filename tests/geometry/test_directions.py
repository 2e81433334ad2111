import math

import numpy as np
import pytest
import torch
from support.geometry_problems import matrix, network, normal, rounding
from torch import nn

from jvpsvd import svds
from jvpsvd.errors import ArgumentError
from jvpsvd.geometry import (
    adversarial_direction,
    normal_directions,
    orthonormal_basis,
    perturbation_response,
    random_directions,
    random_space,
    tangent_directions,
)

DTYPES = (torch.float32, torch.float64)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("n", "k", "count"), [(30, 7, 5), (9, 8, 1), (6, 1, 1)])
def test_tangent_and_normal_directions_are_orthonormal_inside_and_outside(dtype, n, k, count):
    V = random_space(n, k).to(dtype)
    eye = torch.eye(count, dtype=dtype)
    inside = tangent_directions(V, count)
    outside = normal_directions(V, count)
    assert inside.dtype == outside.dtype == dtype
    for each in (inside, outside):
        torch.testing.assert_close(each.mT @ each, eye, rtol=0, atol=rounding(dtype))
    torch.testing.assert_close(V @ (V.mT @ inside), inside, rtol=0, atol=rounding(dtype))
    assert (V.mT @ outside).abs().max() <= rounding(dtype)
    assert torch.equal(tangent_directions(V, count, mixed=False), V[:, :count])


def test_directions_follow_their_seed_and_no_other_state():
    V = random_space(20, 5)
    for make in (
        lambda seed: tangent_directions(V, 3, seed=seed),
        lambda seed: normal_directions(V, 3, seed=seed),
        lambda seed: random_directions(20, 3, seed=seed),
    ):
        torch.manual_seed(1)
        first = make(0)
        torch.manual_seed(2)
        assert torch.equal(make(0), first)
        assert not torch.allclose(make(1), first)


def test_directions_have_the_mean_squares_of_chance():
    A, V = matrix(12, 20, torch.linspace(6, 1, 12))
    k, draws = 4, 400
    energies = torch.linalg.svdvals(A) ** 2
    expected = {
        "tangent": energies[:k].sum() / k,
        "normal": energies[k:].sum() / (20 - k),
        "random": energies.sum() / 20,
    }
    made = {
        "tangent": lambda seed: tangent_directions(V[:, :k], 1, seed=seed),
        "normal": lambda seed: normal_directions(V[:, :k], 1, seed=seed),
        "random": lambda seed: random_directions(20, 1, seed=seed),
    }
    for name, make in made.items():
        squares = torch.stack([((A @ make(seed)) ** 2).sum() for seed in range(draws)])
        error = float(squares.std()) / math.sqrt(draws)
        assert float(squares.mean()) == pytest.approx(float(expected[name]), abs=4 * error), name


def test_right_vectors_of_a_result_are_the_basis():
    A, V = matrix(8, 10, [5, 3, 2])
    result = svds(A, 2)
    inside = tangent_directions(result, 2)
    assert (inside.mT @ V[:, :2]).det().abs() == pytest.approx(1)
    assert (normal_directions(result, 3).mT @ V[:, :2]).abs().max() <= 1e-8


@pytest.mark.parametrize("make", [tangent_directions, normal_directions])
def test_bases_that_are_none_are_refused(make):
    with pytest.raises(ArgumentError, match="not orthonormal"):
        make(2 * random_space(9, 3), 1)
    with pytest.raises(ArgumentError, match=r"columns \(n, k\)"):
        make(random_space(9, 3).mT, 1)
    with pytest.raises(ArgumentError, match=r"columns \(n, k\)"):
        make(torch.ones(9) / 3, 1)
    with pytest.raises(ArgumentError, match="finite"):
        make(torch.full((9, 2), math.nan), 1)
    with pytest.raises(ArgumentError, match="count=0"):
        make(random_space(9, 3), 0)
    with pytest.raises(ArgumentError, match=r"result\.of"):
        make(svds(torch.eye(4).expand(2, 4, 4), 2), 1)
    make(orthonormal_basis(2 * random_space(9, 3)), 1)


def test_spaces_have_no_more_directions_than_dimensions():
    with pytest.raises(ArgumentError, match="vectors of the basis = 3"):
        tangent_directions(random_space(9, 3), 4)
    with pytest.raises(ArgumentError, match="n - k = 6"):
        normal_directions(random_space(9, 3), 7)
    with pytest.raises(ArgumentError, match="spans all"):
        normal_directions(torch.eye(4), 1)
    with pytest.raises(ArgumentError, match="n = 4"):
        random_directions(4, 5)


@pytest.mark.parametrize("sign", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
def test_adversarial_directions_flip_sooner_than_random_ones(dtype, sign):
    net = network(100, 80, 80, 10, seed=3, dtype=dtype)
    far = torch.logspace(-2, 2, 60)
    for seed in range(4):
        x = normal(100, seed=seed, dtype=dtype)
        worst = adversarial_direction(net, x, sign=sign)
        assert worst.shape == (100, 1)
        assert worst.dtype == dtype
        assert float(torch.linalg.vector_norm(worst)) == pytest.approx(1, rel=1e-6)
        if sign:
            assert worst.abs().unique().numel() <= 2  # the second by rounding
        adversarial = perturbation_response(net, x, worst, far).flip_distance
        random = perturbation_response(net, x, random_directions(100, 20), far).flip_distance
        assert adversarial < random.min()


def test_an_adversarial_direction_is_the_gradient_of_the_cross_entropy():
    net, x = network(7, 9, 4), normal(7)
    for label in (None, 0, 3):
        z = x.clone().requires_grad_()
        y = int(net(x).argmax()) if label is None else label
        loss = nn.functional.cross_entropy(net(z)[None], torch.tensor([y]))
        gradient = torch.autograd.grad(loss, z)[0]
        found = adversarial_direction(net, x, label=label)[:, 0]
        torch.testing.assert_close(found, gradient / torch.linalg.vector_norm(gradient))
    named = adversarial_direction(lambda z: {"input": z, "logits": net(z)}, x)
    torch.testing.assert_close(named, adversarial_direction(net, x))


def test_an_adversarial_direction_is_of_one_input():
    net, X = network(7, 9, 4), normal(3, 7)
    for label in (None, 2):
        with pytest.raises(ArgumentError, match=r"x holds 3 inputs.*one at a time, as x\[i"):
            adversarial_direction(net, X, label=label)
    alone = adversarial_direction(net, X[1])
    torch.testing.assert_close(adversarial_direction(net, X[1:2]), alone)
    as_matrix = adversarial_direction(lambda z: net(z.mean(0)), X)  # of three rows
    of_mean = adversarial_direction(net, X.mean(0))[:, 0]
    torch.testing.assert_close(as_matrix.reshape(3, 7).sum(0), of_mean * 3**0.5)


def test_logits_that_are_named_and_not_the_last_output_are_refused():
    net, x = network(7, 9, 4), normal(7)

    def first(z):
        return {"logits": net(z), "hidden": z.tanh()}

    with pytest.raises(ArgumentError, match=r"logits and then 'hidden'.*return them last"):
        adversarial_direction(first, x)
    with pytest.raises(ArgumentError, match="return them last"):
        perturbation_response(first, x, torch.eye(7)[:, :1], [0.1])
    found = adversarial_direction(lambda z: {"hidden": z.tanh(), "logits": net(z)}, x)
    torch.testing.assert_close(found, adversarial_direction(net, x))


def test_a_saturated_softmax_still_has_an_adversarial_direction():
    A = 1e4 * torch.eye(2)
    x = torch.tensor([1.0, 0.0])
    found = adversarial_direction(lambda z: A @ z, x)
    assert found.flatten().tolist() == pytest.approx([-math.sqrt(0.5), math.sqrt(0.5)])


def test_functions_without_an_adversarial_direction_are_refused():
    x = torch.ones(3)
    with pytest.raises(ArgumentError, match="two classes"):
        adversarial_direction(lambda z: z.sum(), x)
    with pytest.raises(ArgumentError, match="label=3"):
        adversarial_direction(lambda z: z, x, label=3)
    with pytest.raises(ArgumentError, match="do not depend"):
        adversarial_direction(lambda z: torch.ones(2), x)
    with pytest.raises(ArgumentError, match="has no direction"):
        adversarial_direction(lambda z: z * 0, x)
    with pytest.raises(ArgumentError, match="must be a non-empty tensor"):
        adversarial_direction(lambda z: z, np.ones(3))
