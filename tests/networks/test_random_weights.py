"""Random weights by a seed, for comparison with trained ones."""

import pytest
import torch
from torch import nn

from jvpsvd.errors import ModelError
from jvpsvd.networks import load_model

_STD = (0.229, 0.224, 0.225)


@pytest.fixture
def nets(tmp_path, monkeypatch):
    (tmp_path / "nets.py").write_text(
        "import torch\n"
        "from torch import nn\n"
        "from jvpsvd.networks import Inputs, PhotoInput\n"
        "class Scaled(nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.scale = nn.Parameter(torch.ones(1))\n"
        "def net(): return nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4)).eval()\n"
        "def scaled(): return Scaled().eval()\n"
        "def level(i, o): return nn.Conv2d(i, o, 3, padding=1), nn.BatchNorm2d(o), nn.ReLU()\n"
        "def deep():\n"
        "    levels = [part for i in range(12) for part in level(8 if i else 3, 8)]\n"
        "    return nn.Sequential(*levels).eval(), PhotoInput(size=8, scale=1.0)\n"
        "def of_rows(): return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)).eval()\n"
        "def of_arrays(): return of_rows(), Inputs('npy', torch.zeros(1, 3), lambda row: 5 * row)\n"
        "def of_many(): return of_rows(), Inputs('npy', torch.zeros(40, 3))\n"
        "def of_sounds():\n"
        "    net = nn.Sequential(nn.Conv1d(1, 4, 5), nn.BatchNorm1d(4)).eval()\n"
        "    return net, Inputs('wav', torch.zeros(1, 90), lambda x: (x[None],), rate=8000)\n"
        "class Named(nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.embed, self.bn = nn.Embedding(5, 4), nn.BatchNorm1d(4)\n"
        "    def forward(self, ids, x, scale=1): return self.bn(self.embed(ids) + scale * x)\n"
        "def of_dicts():\n"
        "    example = {'ids': torch.tensor([3]), 'x': torch.zeros(1, 4)}\n"
        "    return Named().eval(), Inputs('safetensors', example, lambda x: {**x, 'scale': 3})\n"
        "def of_mixed():\n"
        "    take = lambda x: {'ids': torch.tensor([1]), 'x': x, 'scale': torch.ones(4)}\n"
        "    return Named().eval(), Inputs('npy', torch.zeros(1, 4), take)\n"
        "class First(nn.Module):\n"
        "    def forward(self, x): return x[:1]\n"
        "def of_one():\n"
        "    net = nn.Sequential(First(), nn.Linear(3, 4), nn.BatchNorm1d(4)).eval()\n"
        "    return net, Inputs('npy', torch.zeros(1, 3))\n"
        "def of_texts():\n"
        "    tokens = lambda text: {'ids': torch.tensor([1]), 'x': torch.zeros(1, 4)}\n"
        "    return Named().eval(), Inputs('txt', 'words', tokens, since='embed')\n"
        "class Odd(nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.conv, self.bn = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)\n"
        "        self.last = nn.Identity()\n"
        "        self.last.register_buffer('running_mean', torch.zeros(2))\n"
        "        self.register_buffer('calls', torch.zeros(()))\n"
        "    def forward(self, x):\n"
        "        self.calls += 1\n"
        "        self.seen = self.bn(input=self.conv(x)) + torch.rand(1)\n"
        "        return self.last(self.seen)\n"
        "def odd(): return Odd().eval()\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))


@pytest.mark.parametrize("spec", ["nets:net", "nets:deep", "alexnet", "caffenet"])
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
    x = torch.randn(drawn.example().shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert 0.1 < drawn.module(x).std() < 10  # 4e-9 with means of 0 and variances of 1


def test_batch_norms_have_the_statistics_of_photos_of_noise(nets):
    model = load_model("nets:deep", random_weights=0)
    norms = [part for part in model.module if isinstance(part, nn.BatchNorm2d)]
    # Values from 0 to 255, centred at the mean of the photos, over std; then a convolution.
    pixels = 255 * torch.rand(64, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    mean, std = (torch.tensor(v)[:, None, None] for v in (model.photo_input.mean, _STD))
    with torch.no_grad():
        seen = model.module[0]((pixels - mean) / std)
        last = model.module[:-1]((pixels - mean) / std)
    assert torch.allclose(norms[0].running_var, seen.var((0, 2, 3)), rtol=0.2)
    assert torch.allclose(last.var((0, 2, 3)), torch.ones(8), rtol=0.3)
    for part in norms:
        assert not part.training
        assert part.momentum == 0.1
        assert not part._forward_pre_hooks


def test_batch_norms_have_the_statistics_of_arrays_of_noise(nets):
    linear, norm = load_model("nets:of_arrays", random_weights=0).module
    with torch.no_grad():
        covariance = 25 * linear.weight @ linear.weight.T
        assert torch.allclose(norm.running_var, covariance.diag(), rtol=1.5)
        assert (norm.running_var / covariance.diag()).log().mean().abs() < 0.5
        off = norm.running_mean - linear.bias
        assert (off.abs() < 1.5 * covariance.diag().sqrt()).all()
        assert off.abs().min() > 0


@pytest.mark.parametrize("spec", ["of_many", "of_sounds", "of_dicts", "of_mixed"])
def test_all_that_holds_floating_numbers_is_drawn(nets, spec):
    (norm,) = (
        part
        for part in load_model(f"nets:{spec}", random_weights=0).module.modules()
        if isinstance(part, nn.BatchNorm1d)
    )
    assert (norm.running_mean != 0).all()
    assert (norm.running_var != 1).all()
    assert torch.isfinite(norm.running_var).all()
    if spec == "of_dicts":  # 3 x, and x is standard normal
        assert 3 < float(norm.running_var.mean()) < 27


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        ("of_rows", "mat1 and mat2 shapes"),  # it is taken for a network of photos
        ("of_one", "explode: a single number of noise reached"),
        ("of_texts", "explode: .txt inputs hold no floating numbers"),
    ],
)
def test_where_there_is_no_noise_batch_norms_stay_and_the_log_says_so(nets, caplog, spec, reason):
    module = load_model(f"nets:{spec}", random_weights=0).module
    (norm,) = (part for part in module.modules() if isinstance(part, nn.BatchNorm1d))
    assert torch.equal(norm.running_mean, torch.zeros(4))
    assert torch.equal(norm.running_var, torch.ones(4))
    (record,) = caplog.records
    assert "means of 0 and variances of 1" in record.getMessage()
    assert reason in record.getMessage()


def test_only_batch_norms_and_their_statistics_are_changed(nets):
    state = torch.random.get_rng_state()
    net = load_model("nets:odd", random_weights=0).module
    assert torch.equal(torch.random.get_rng_state(), state)
    assert net.calls == 0
    assert not hasattr(net, "seen")
    assert (net.bn.running_var != 1).all()
    assert net.bn.num_batches_tracked == 0
    assert torch.equal(net.last.running_mean, torch.zeros(2))


def test_what_cannot_be_drawn_is_refused(nets, tmp_path):
    with pytest.raises(ModelError, match=r"'model' \(Scaled\) of nets:scaled has no reset_param"):
        load_model("nets:scaled", random_weights=0)
    with pytest.raises(ModelError, match="give weights or random_weights, not both"):
        load_model("nets:net", tmp_path / "w.pt", random_weights=0)
