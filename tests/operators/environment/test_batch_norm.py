"""Tokens that become an image and are normalised, which torch 2.13 differentiates wrongly."""

import pytest
import torch
from torch import Tensor, nn

import jvpsvd
from jvpsvd.operators.environment.batch_norm import has_usual_layout


class TokensToImage(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.mix, self.norm, self.head = nn.Linear(3, 3), nn.BatchNorm2d(3), nn.Linear(12, 4)

    def forward(self, tokens: Tensor) -> Tensor:
        image = self.mix(tokens).tanh().mT.reshape(len(tokens), 3, 2, 2)
        return self.head(self.norm(image).tanh().flatten(1))


@pytest.fixture
def network() -> TokensToImage:
    torch.manual_seed(0)
    network = TokensToImage().double().eval()
    nn.init.uniform_(network.norm.running_var, 0.3, 2)
    nn.init.normal_(network.norm.weight)
    return network


def points(count: int) -> Tensor:
    return torch.randn(count, 4, 3, dtype=torch.float64)


def difference(f, x: Tensor, direction: Tensor, step: float = 1e-4) -> Tensor:
    """Return the central difference of f along a direction."""
    return (f(x + step * direction) - f(x - step * direction)) / (2 * step)


def values_by_differences(network: nn.Module, x: Tensor, k: int) -> Tensor:
    """Return the k largest singular values at one point, without any derivative of torch."""
    units = torch.eye(x.numel(), dtype=x.dtype).reshape(-1, *x.shape)
    with torch.no_grad():
        columns = [difference(network, x, unit, 1e-5).flatten() for unit in units]
    return torch.linalg.svdvals(torch.stack(columns, 1))[:k]


@pytest.mark.parametrize("batch_dims", [0, 1])
def test_the_gradient_of_singular_values_is_that_of_differences(network, batch_dims):
    x = points(2 if batch_dims else 1)

    def total(z: Tensor) -> Tensor:
        parts = z if batch_dims else [z]
        return sum(values_by_differences(network, p.reshape(1, 4, 3), 2).sum() for p in parts)

    direction, z = torch.randn_like(x), x.clone().requires_grad_()
    jvpsvd.singular_values(network, z, k=2, batch_dims=batch_dims, tol=1e-10).sum().backward()
    torch.testing.assert_close(
        (z.grad * direction).sum(), difference(total, x, direction), rtol=1e-5, atol=1e-8
    )


def test_the_gradient_by_weights_is_that_of_differences(network):
    x, weight = points(1), network.mix.weight
    direction = torch.randn_like(weight)

    def total(replaced: Tensor) -> Tensor:
        kept = weight.detach().clone()
        with torch.no_grad():
            weight.copy_(replaced)
            found = values_by_differences(network, x, 2).sum()
            weight.copy_(kept)
        return found

    jvpsvd.singular_values(network, x, k=2, tol=1e-10).sum().backward()
    torch.testing.assert_close(
        (weight.grad * direction).sum(),
        difference(total, weight.detach().clone(), direction),
        rtol=1e-5,
        atol=1e-8,
    )


def test_the_adversarial_direction_raises_the_loss_most(network):
    x = points(1)
    label = int(network(x).argmax())
    units = torch.eye(x.numel(), dtype=x.dtype).reshape(-1, *x.shape)

    def loss(z: Tensor) -> Tensor:
        return nn.functional.cross_entropy(network(z), torch.tensor([label]))

    with torch.no_grad():
        gradient = torch.stack([difference(loss, x, unit) for unit in units])
    found = jvpsvd.geometry.adversarial_direction(network, x).flatten()
    assert found @ gradient / gradient.norm() == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("form", [torch.contiguous_format, torch.channels_last])
def test_usual_layouts_are_not_copied(form):
    images = torch.ones(1, 3, 4, 5).to(memory_format=form)
    assert has_usual_layout(images)
