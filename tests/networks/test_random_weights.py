"""Random weights by a seed, for comparison with trained ones."""

import pytest
import torch
from torch import nn

from jvpsvd.errors import ModelError
from jvpsvd.networks import load_model


@pytest.fixture
def nets(tmp_path, monkeypatch):
    (tmp_path / "nets.py").write_text(
        "import torch\n"
        "from torch import nn\n"
        "class Scaled(nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.scale = nn.Parameter(torch.ones(1))\n"
        "def net(): return nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4)).eval()\n"
        "def scaled(): return Scaled().eval()\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))


@pytest.mark.parametrize("spec", ["nets:net", "alexnet", "caffenet"])
def test_a_seed_decides_the_weights(nets, spec):
    state = torch.random.get_rng_state()
    hashes = [load_model(spec, random_weights=seed).weights_sha256 for seed in (0, 0, 1)]
    assert hashes[0] == hashes[1] != hashes[2]
    assert torch.equal(torch.random.get_rng_state(), state)


def test_the_default_network_without_its_trained_weights():
    pytest.importorskip("efficientnet_lite_pytorch")
    trained = load_model("efficientnet-lite0")
    drawn = load_model("efficientnet-lite0", random_weights=0)
    assert trained.weights_sha256 != drawn.weights_sha256
    assert isinstance(drawn.module, nn.Module)


def test_what_cannot_be_drawn_is_refused(nets, tmp_path):
    with pytest.raises(ModelError, match=r"'model' \(Scaled\) of nets:scaled has no reset_param"):
        load_model("nets:scaled", random_weights=0)
    with pytest.raises(ModelError, match="give weights or random_weights, not both"):
        load_model("nets:net", tmp_path / "w.pt", random_weights=0)
