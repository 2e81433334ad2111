"""CaffeNet, BVLC AlexNet and torchvision's AlexNet, as they were published."""

import copy
import io
import math

import pytest
import torch
from PIL import Image

from jvpsvd import JacobianOperator, depths
from jvpsvd.data import decode_photo
from jvpsvd.errors import ModelError
from jvpsvd.networks import (
    CAFFE_PHOTO_INPUT,
    PhotoInput,
    bvlc_alexnet,
    caffenet,
    layer_map,
    load_model,
    torchvision_alexnet,
    weights_sha256,
)

CAFFE_SHAPES = {
    "conv1": (1, 96, 55, 55),
    "pool1": (1, 96, 27, 27),
    "conv2": (1, 256, 27, 27),
    "pool2": (1, 256, 13, 13),
    "conv3": (1, 384, 13, 13),
    "conv4": (1, 384, 13, 13),
    "conv5": (1, 256, 13, 13),
    "pool5": (1, 256, 6, 6),
    "fc6": (1, 4096),
    "fc7": (1, 4096),
    "fc8": (1, 1000),
    "output": (1, 1000),
}
BEHIND = ["conv3", "relu3", "conv4", "relu4", "conv5", "relu5", "pool5"]
BEHIND += ["fc6", "relu6", "drop6", "fc7", "relu7", "drop7", "fc8"]
CAFFENET = ["conv1", "relu1", "pool1", "norm1", "conv2", "relu2", "pool2", "norm2", *BEHIND]
ALEXNET = ["conv1", "relu1", "norm1", "pool1", "conv2", "relu2", "norm2", "pool2", *BEHIND]


def shapes(build, side):
    """Names and shapes of all depths, without the memory of the weights."""
    with torch.device("meta"):
        return {
            d.name: d.shape for d in depths(build(), torch.zeros(1, 3, side, side), functions=False)
        }


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    return caffenet()


@pytest.fixture(scope="module")
def photo():
    generator = torch.Generator().manual_seed(0)
    return torch.rand(1, 3, 227, 227, generator=generator) * 255 - 110


@pytest.mark.parametrize(
    ("build", "names", "norms"),
    [(caffenet, CAFFENET, (27, 13)), (bvlc_alexnet, ALEXNET, (55, 27))],
)
def test_caffes_layers_have_the_published_order_and_shapes(build, names, norms):
    found = shapes(build, 227)
    assert list(found) == [*names, "output"]
    assert {name: found[name] for name in CAFFE_SHAPES} == CAFFE_SHAPES
    assert (found["norm1"][-1], found["norm2"][-1]) == norms


def test_torchvisions_layers_have_the_published_shapes():
    found = shapes(torchvision_alexnet, 224)
    assert [found[f"features.{at}"][1:] for at in (0, 2, 3, 5, 6, 8, 10, 12)] == [
        (64, 55, 55),
        (64, 27, 27),
        (192, 27, 27),
        (192, 13, 13),
        (384, 13, 13),
        (256, 13, 13),
        (256, 13, 13),
        (256, 6, 6),
    ]
    assert found["output"] == (1, 1000)
    assert shapes(torchvision_alexnet, 320)["features.12"] == (1, 256, 9, 9)  # and pooled to 6


def test_the_state_dict_of_torchvision_has_its_names():
    with torch.device("meta"):
        names = list(torchvision_alexnet().state_dict())
    layers = [f"features.{at}" for at in (0, 3, 6, 8, 10)]
    layers += [f"classifier.{at}" for at in (1, 4, 6)]
    assert names == [f"{layer}.{what}" for layer in layers for what in ("weight", "bias")]


@pytest.mark.parametrize(
    ("build", "count"),
    [(caffenet, 60_965_224), (bvlc_alexnet, 60_965_224), (torchvision_alexnet, 61_100_840)],
)
def test_networks_are_ready_to_be_studied(build, count):
    with torch.device("meta"):
        model = build()
    assert sum(p.numel() for p in model.parameters()) == count
    assert not any(p.requires_grad for p in model.parameters())
    assert not any(module.training for module in model.modules())
    assert not any(getattr(module, "inplace", False) for module in model.modules())


def test_the_order_of_pool_and_norm_tells_the_networks_apart(net, photo):
    """The same weights, and other features from norm1 on."""
    with torch.device("meta"):
        other = bvlc_alexnet()
    relu = net[:2](photo)
    assert torch.equal(other.norm1(relu), net.norm1(relu))
    ours, theirs = net[2:4](relu), other[2:4](relu)
    assert ours.shape == theirs.shape
    assert not torch.allclose(ours, theirs, rtol=1e-4)


@pytest.mark.parametrize(("side", "pooled"), [(55, 27), (6, 3), (5, 2), (4, 2), (3, 1)])
def test_pools_round_their_number_up_as_caffes(side, pooled):
    with torch.device("meta"):
        pool = caffenet().pool1
    x = torch.arange(float(side * side)).reshape(1, 1, side, side)
    y = pool(x)
    assert y.shape[-1] == pooled == math.ceil((side - 3) / 2) + 1
    assert y[0, 0, -1, -1] == x.max()


def lrn(x, alpha=1e-4, beta=0.75, k=1.0, n=5):
    """Caffe's LRN and its Jacobian for one pixel, channel by channel."""
    channels = len(x)
    neighbours = torch.zeros(channels, channels, dtype=x.dtype)
    for c in range(channels):
        neighbours[c, max(0, c - n // 2) : c + n // 2 + 1] = 1
    scale = k + alpha / n * neighbours @ x**2
    mixed = x[:, None] * scale[:, None] ** (-beta - 1) * x[None, :] * neighbours
    return x * scale**-beta, torch.diag(scale**-beta) - 2 * alpha * beta / n * mixed


@pytest.mark.parametrize("build", [caffenet, bvlc_alexnet])
@pytest.mark.parametrize("name", ["norm1", "norm2"])
def test_the_jacobian_of_lrn_is_its_formula(build, name):
    with torch.device("meta"):
        norm = getattr(build(), name)
    generator = torch.Generator().manual_seed(0)
    # As large as activations of conv1, so that the sum of squares matters.
    x = 200 * torch.randn(1, 12, 2, 3, dtype=torch.float64, generator=generator)
    value, dense = torch.zeros_like(x), torch.zeros(12, 2, 3, 12, 2, 3, dtype=x.dtype)
    for i in range(2):
        for j in range(3):
            value[0, :, i, j], dense[:, i, j, :, i, j] = lrn(x[0, :, i, j])
    dense = dense.reshape(72, 72)
    assert (dense - torch.diag(dense.diag())).abs().max() > 0.01
    assert torch.allclose(norm(x), value, rtol=1e-12)
    jacobian = torch.func.jacrev(norm)(x).reshape(72, 72)
    assert torch.allclose(jacobian, dense, rtol=0, atol=1e-12)
    J = JacobianOperator(norm, x)
    eye = torch.eye(72, dtype=x.dtype)
    assert torch.allclose(J @ eye, dense, rtol=0, atol=1e-12)
    assert torch.allclose(J.T @ eye, dense.T, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("name", "groups"), [("conv2", 2), ("conv3", 1), ("conv4", 2), ("conv5", 2)]
)
def test_grouped_convolutions_keep_their_groups_apart(net, name, groups):
    convolution = getattr(net, name)
    x = torch.zeros(1, convolution.in_channels, 1, 1)
    J = torch.func.jacrev(convolution)(x).reshape(convolution.out_channels, x.numel())
    rows, columns = (size // 2 for size in J.shape)
    across = torch.cat([J[:rows, columns:], J[rows:, :columns]])
    within = torch.cat([J[:rows, :columns], J[rows:, columns:]])
    assert bool((across == 0).all()) == (groups == 2)
    assert (within != 0).float().mean() > 0.99


def test_products_to_norm2_fit_each_other_and_the_function(net, photo):
    f, x = copy.deepcopy(net[:8]).double(), photo.double()
    J = JacobianOperator(f, x)
    generator = torch.Generator().manual_seed(1)
    v = torch.randn(J.shape[1], 1, dtype=x.dtype, generator=generator)
    u = torch.randn(J.shape[0], 1, dtype=x.dtype, generator=generator)
    Jv = J @ v
    assert float((u * Jv).sum()) == pytest.approx(float((v * (J.T @ u)).sum()), rel=1e-9)
    step = 1e-7 * v.reshape(x.shape)  # so short that hardly any unit passes its kink
    difference = (f(x + step) - f(x - step)).reshape(-1, 1) / 2e-7
    assert (difference - Jv).norm() < 1e-4 * Jv.norm()


def test_products_to_the_logits_fit_each_other(net, photo):
    f, x = layer_map(net, photo, to="output")
    J = JacobianOperator(f, x)
    generator = torch.Generator().manual_seed(1)
    v = torch.randn(J.shape[1], 1, generator=generator)
    Jv = J @ v
    assert float((Jv * Jv).sum()) == pytest.approx(float((v * (J.T @ Jv)).sum()), rel=1e-3)


@pytest.mark.parametrize(
    ("spec", "url"),
    [
        ("caffenet", "http://dl.caffe.berkeleyvision.org/bvlc_reference_caffenet.caffemodel"),
        ("bvlc-alexnet", "http://dl.caffe.berkeleyvision.org/bvlc_alexnet.caffemodel"),
        ("alexnet", "https://download.pytorch.org/models/alexnet-owt-7be5be79.pth"),
    ],
)
def test_a_network_without_its_weights_says_where_they_are(spec, url):
    with pytest.raises(ModelError, match=f"^{spec} comes without weights; fetch {url} ") as caught:
        load_model(spec)
    assert "--weights FILE" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("spec", "meant"),
    [("caffe", "caffenet"), ("bvlc_alexnet", "bvlc-alexnet"), ("AlexNet", "alexnet")],
)
def test_a_name_misspelt_is_guessed(spec, meant):
    with pytest.raises(ModelError, match=f"unknown model '{spec}'; did you mean {meant}?"):
        load_model(spec)


def test_torchvisions_file_is_loaded(tmp_path):
    with torch.device("meta"):
        names = torchvision_alexnet().state_dict()
    # One number for a whole tensor: the file stays small.
    state = {name: torch.tensor(0.5).expand(t.shape) for name, t in names.items()}
    torch.save(state, tmp_path / "alexnet.pth")
    model = load_model("alexnet", tmp_path / "alexnet.pth")
    assert model.photo_input == PhotoInput()
    assert model.photo_input.shape == (1, 3, 224, 224)
    assert all((p == 0.5).all() for p in model.module.parameters())
    del state["classifier.6.bias"]
    torch.save(state, tmp_path / "short.pth")
    with pytest.raises(ModelError, match=r'does not fit Sequential: .*"classifier\.6\.bias"'):
        load_model("alexnet", tmp_path / "short.pth")


def test_the_whole_of_caffenet_is_loaded_from_its_file(net, tmp_path):
    """A file of 244 MB in the old format of the published one, written from the parameters."""
    path = tmp_path / "bvlc_reference_caffenet.caffemodel"
    with path.open("wb") as file:
        for name, child in net.named_children():
            parameters = [p.numpy() for p in child.parameters()]
            if parameters:
                file.write(b"".join(caffe_layer(name, parameters)))
    model = load_model("caffenet", path)
    path.unlink()
    assert model.weights_sha256 == weights_sha256(net)
    assert model.photo_input == CAFFE_PHOTO_INPUT
    assert [name for name, _ in model.module.named_children()] == CAFFENET


def varint(value):
    out = []
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def caffe_layer(name, parameters):
    """The parts of a V1LayerParameter, where every shape is four numbers."""
    parts = [varint(4 << 3 | 2), varint(len(name)), name.encode()]
    for values in parameters:
        sizes = [*(1,) * (4 - values.ndim), *values.shape]
        shape = b"".join(varint(at << 3) + varint(size) for at, size in enumerate(sizes, 1))
        head = shape + b"\x2a" + varint(values.nbytes)
        length = varint(len(head) + values.nbytes)
        parts += [varint(6 << 3 | 2), length, head, values.tobytes()]
    return [varint(2 << 3 | 2), varint(sum(map(len, parts))), *parts]


def test_a_blue_photo_has_its_blue_first():
    file = io.BytesIO()
    Image.new("RGB", (300, 280), (0, 0, 255)).save(file, "PNG")
    x = decode_photo(file.getvalue(), CAFFE_PHOTO_INPUT)
    assert x.shape == (1, 3, 227, 227)
    for channel, value in enumerate((255 - 104.00698793, -116.66876762, -122.67891434)):
        assert torch.allclose(x[0, channel], torch.tensor(value), rtol=0, atol=1e-4)
    y = decode_photo(file.getvalue(), PhotoInput())
    assert float(y[0, 2, 0, 0]) == pytest.approx((1 - 0.406) / 0.225, rel=1e-5)
