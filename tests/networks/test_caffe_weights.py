"""Weights in Caffe's files: all formats are read exactly, and anything else is refused."""

import pickle
import re
import struct
import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from jvpsvd.errors import ModelError
from jvpsvd.networks import load_weights, weights_sha256

AGES = ("layer", "layers")


def network(seed=0):
    torch.manual_seed(seed)
    net = nn.Sequential()
    net.add_module("conv1", nn.Conv2d(4, 6, 3, groups=2))
    net.add_module("relu1", nn.ReLU())
    net.add_module("fc6", nn.Linear(5, 3))
    return net.eval()


def varint(value):
    value &= 2**64 - 1
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def field(number, content):
    """A field of bytes, of a message, or of an integer."""
    if isinstance(content, int):
        return varint(number << 3) + varint(content)
    return varint(number << 3 | 2) + varint(len(content)) + content


def numbers(number, values, form, packed=True):
    if packed:
        return field(number, struct.pack(f"<{len(values)}{form}", *values))
    tag = varint(number << 3 | (1 if form == "d" else 5))
    return b"".join(tag + struct.pack(f"<{form}", value) for value in values)


def shape(*sizes):
    return field(7, field(1, b"".join(map(varint, sizes))))


def old_shape(*sizes):
    sizes = (1,) * (4 - len(sizes)) + sizes
    return b"".join(field(at, size) for at, size in enumerate(sizes, 1))


def blob(tensor, age="layer", form="f", packed=True, claim=None):
    number = 5 if form == "f" else 8
    claim = claim or (shape if age == "layer" else old_shape)(*tensor.shape)
    return claim + numbers(number, tensor.flatten().tolist(), form, packed)


def layer(name, blobs, age="layer", more=b""):
    """A layer, with fields that a reader of weights must skip."""
    first, of_blobs = (1, 7) if age == "layer" else (4, 6)
    kind = field(2, b"Convolution") if age == "layer" else field(5, 4) + field(2, b"data")
    written = b"".join(field(of_blobs, each) for each in blobs)
    return field(100 if age == "layer" else 2, field(first, name.encode()) + kind + written + more)


def caffemodel(net, age="layer", **how):
    """The bytes that Caffe would write for a network."""
    out = field(1, b"CaffeNet")
    for name, child in net.named_children():
        out += layer(name, [blob(p.detach(), age, **how) for p in child.parameters()], age)
    return out


def written(tmp_path, data):
    path = tmp_path / "w.caffemodel"
    path.write_bytes(data)
    return path


def refused(tmp_path, data, message, net=None):
    """Check that the file raises one line, and that the network stays as it was."""
    net = net or network(1)
    before = weights_sha256(net)
    path = written(tmp_path, data)
    with pytest.raises(ModelError, match=message) as caught:
        load_weights(net, path)
    text = str(caught.value)
    assert str(path) in text
    assert "\n" not in text
    assert len(text) < 600
    assert weights_sha256(net) == before


@pytest.mark.parametrize("age", AGES)
@pytest.mark.parametrize("form", ["f", "d"])
@pytest.mark.parametrize("packed", [True, False])
def test_what_was_written_is_read(age, form, packed, tmp_path):
    source, target = network(0), network(1)
    load_weights(target, written(tmp_path, caffemodel(source, age, form=form, packed=packed)))
    assert weights_sha256(target) == weights_sha256(source)


def test_either_age_may_claim_shapes_either_way(tmp_path):
    source = network(0)
    for age, claim in (("layer", old_shape), ("layers", shape)):
        target = network(1)
        data = b"".join(
            layer(name, [blob(p, age, claim=claim(*p.shape)) for p in child.parameters()], age)
            for name, child in source.named_children()
        )
        load_weights(target, written(tmp_path, data))
        assert weights_sha256(target) == weights_sha256(source)


def test_many_unpacked_values_are_not_too_many_records(tmp_path):
    source, target = nn.Sequential(), nn.Sequential()
    for net in (source, target):
        net.add_module("fc", nn.Linear(400, 300))
    load_weights(target, written(tmp_path, caffemodel(source, packed=False)))
    assert weights_sha256(target) == weights_sha256(source)


def test_a_shape_may_be_unpacked(tmp_path):
    source, target = network(0), network(1)
    weight, bias = source.fc6.parameters()
    sizes = field(7, field(1, 3) + field(1, 5))
    data = layer("conv1", [blob(p) for p in source.conv1.parameters()])
    data += layer("fc6", [blob(weight, claim=sizes), blob(bias)])
    load_weights(target, written(tmp_path, data))
    assert weights_sha256(target) == weights_sha256(source)


@pytest.mark.parametrize("age", AGES)
def test_other_fields_are_stepped_over(age, tmp_path):
    source, target = network(0), network(1)
    group = varint(50 << 3 | 3) + field(1, 7) + varint(50 << 3 | 4)
    rates = struct.pack("<Bf", 7 << 3 | 5, 2.0) if age == "layers" else field(6, field(3, b"lr"))
    data = field(1, b"name") + field(8, shape(10, 3, 227, 227)) + group
    for name, child in source.named_children():
        blobs = [blob(p, age) + numbers(6, [9.0] * p.numel(), "f") for p in child.parameters()]
        more = rates + group + field(1000, b"x" * 100) + numbers(1001, [1.0], "d", packed=False)
        data += layer(name, blobs, age, more)
    data += layer("data", [], age) + field(101, b"after the layers")
    load_weights(target, written(tmp_path, data))
    assert weights_sha256(target) == weights_sha256(source)


def test_a_network_in_double_takes_doubles_as_they_are(tmp_path):
    source, target = network(0).double(), network(1).double()
    load_weights(target, written(tmp_path, caffemodel(source, form="d")))
    assert weights_sha256(target) == weights_sha256(source)


def test_layers_may_lie_deeper_and_lack_a_bias(tmp_path):
    net = nn.Sequential()
    net.add_module("block", nn.Sequential())
    net.block.add_module("conv", nn.Conv2d(1, 2, 3, bias=False))
    weight = torch.arange(18.0).reshape(2, 1, 3, 3)
    load_weights(net, written(tmp_path, layer("block.conv", [blob(weight)])))
    assert torch.equal(net.block.conv.weight, weight)


WEIGHT, BIAS = (p.detach() for p in network(0).fc6.parameters())
CONV = layer("conv1", [blob(p.detach()) for p in network(0).conv1.parameters()])


def fc6(weight, *more):
    return CONV + layer("fc6", [weight, *(more or [blob(BIAS)])])


def claimed(*sizes, values=15):
    return shape(*sizes) + numbers(5, [0.0] * values, "f")


UNFIT = {
    "no layers": (b"", "no weights of layer 'conv1', but of none"),
    "a missing layer": (CONV, r"no weights of layer 'fc6', but of \('conv1'\)"),
    "a layer without blobs": (CONV + layer("fc6", []), "no weights of layer 'fc6'"),
    "an extra layer": (fc6(blob(WEIGHT)) + layer("fc9", [blob(BIAS)]), "layer 'fc9', which Seq"),
    "a layer twice": (fc6(blob(WEIGHT)) + CONV, "two layers of the name 'conv1'"),
    "a layer in both ages": (
        fc6(blob(WEIGHT)) + layer("fc6", [blob(WEIGHT, "layers")], "layers"),
        "two layers of the name 'fc6'",
    ),
    "a transposed weight": (fc6(blob(WEIGHT.T)), r"shape \(5, 3\), where \(3, 5\) is expected"),
    "a weight of another rank": (fc6(claimed(3, 5, 1, 1)), r"shape \(3, 5, 1, 1\), where"),
    "a flat weight": (fc6(claimed(15)), r"shape \(15\), where \(3, 5\) is expected"),
    "no shape": (fc6(numbers(5, [0.0] * 15, "f")), r"shape \(0, 0, 0, 0\)"),
    "an empty shape": (fc6(claimed()), "shape none"),
    "one value too few": (fc6(claimed(3, 5, values=14)), "14 values, where its shape .* takes 15"),
    "one value too many": (fc6(claimed(3, 5, values=16)), "16 values"),
    "no values": (fc6(shape(3, 5)), "a blob of 0 values"),
    "a giant shape": (fc6(claimed(2**40, 2**40)), r"shape \(1099511627776, 1099511627776\)"),
    "a negative shape": (fc6(claimed(-3, -5)), r"shape \(-3, -5\)"),
    "a giant old shape": (
        fc6(old_shape(2**62, 2**62, 3, 5) + numbers(5, [0.0] * 15, "f")),
        r"shape \(4611686018427387904, ",
    ),
    "many axes": (fc6(claimed(*[2] * 200)), r"shape \(2, 2, 2, 2, 2, 2, 2, 2, …\)"),
    "hundreds of axes": (fc6(claimed(*[1] * 100_000)), "hundreds of axes"),
    "a shape that is none": (fc6(field(7, b"\x0a\x7f")), "damaged"),
    "no bias": (CONV + layer("fc6", [blob(WEIGHT)]), "'fc6': 1 blobs, where 2 are expected"),
    "a third blob": (fc6(blob(WEIGHT), blob(BIAS), blob(BIAS)), "'fc6': 3 blobs"),
    "bias before weight": (fc6(blob(BIAS), blob(WEIGHT)), r"shape \(3\), where \(3, 5\)"),
    "a hostile name": (
        fc6(blob(WEIGHT)) + layer("\x1b[2J\n" + "x" * 1000, [blob(BIAS)]),
        r"layer '\\x1b\[2J\\nx+', which",
    ),
    "a name that is no text": (
        fc6(blob(WEIGHT)) + field(100, field(1, b"\xff\xfe") + field(7, blob(BIAS))),
        r"layer '\\\\xff\\\\xfe', which",
    ),
    "a text file": (b'name: "CaffeNet"\nlayer { name: "conv1" }\n', "no .caffemodel, or is dam"),
    "a pickle": (pickle.dumps({"conv1.weight": 1}), "no .caffemodel, or is damaged"),
    "a zip file": (b"PK\x03\x04" + bytes(100), "no .caffemodel, or is damaged"),
    "a page of the web": (b"<!DOCTYPE html><html><title>404</title>", "no .caffemodel, or is dam"),
    "zeros": (bytes(1000), "damaged"),
    "a number without end": (b"\xff" * 1000, "a number that does not end"),
    "a length past the end": (varint(100 << 3 | 2) + varint(2**63) + b"x", "ends after the file"),
    "nested groups": (b"\x0b" * 50_000, "damaged"),
    "too many layers": (b"\x12\x00" * 200_000, "more than 100000 records"),
    "too many new layers": (b"\xa2\x06\x00" * 200_000, "more than 100000 records"),
    "too many blobs": (field(100, b"\x3a\x00" * 200_000), "more than 100000 records"),
    "too many old blobs": (field(2, b"\x32\x00" * 200_000), "more than 100000 records"),
    "too many other fields": (b"\x28\x01" * 200_000, "more than 100000 records"),
}


@pytest.mark.parametrize("case", UNFIT)
def test_files_that_do_not_fit_are_refused(case, tmp_path):
    refused(tmp_path, *UNFIT[case])


@pytest.mark.parametrize("age", AGES)
def test_a_file_cut_anywhere_is_refused(age, tmp_path):
    data = caffemodel(network(0), age)
    for end in range(0, len(data), 7):
        refused(tmp_path, data[:end], "damaged|no weights of layer|values|blobs|shape")


def test_a_file_larger_than_the_network_is_not_even_read(tmp_path, monkeypatch):
    path = tmp_path / "w.caffemodel"
    with path.open("wb") as file:
        file.truncate(2**40)
    monkeypatch.setattr("pathlib.Path.read_bytes", lambda path: pytest.fail("read"))
    with pytest.raises(ModelError, match="has 1099511627776 bytes, and no file of Sequential"):
        load_weights(network(0), path)


@pytest.mark.parametrize("name", ["missing.caffemodel", "folder.caffemodel"])
def test_a_file_that_is_not_there(name, tmp_path):
    (tmp_path / "folder.caffemodel").mkdir()
    with pytest.raises(ModelError, match=f"no weights at .*{name}"):
        load_weights(network(0), tmp_path / name)


WITHOUT_PROTOBUF = """
import sys
from torch import nn
from jvpsvd.networks import load_weights

sys.modules["google.protobuf"] = None  # an import of it fails, as where it is not installed
load_weights(nn.Sequential(nn.Linear(5, 3)), sys.argv[1])
"""


def test_without_protobuf_the_extra_is_named(tmp_path):
    file = written(tmp_path, caffemodel(nn.Sequential(nn.Linear(5, 3))))
    command = [sys.executable, "-c", WITHOUT_PROTOBUF, str(file)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    last = done.stderr.splitlines()[-1]
    assert re.search(r"MissingPackageError: .*needs google.protobuf; .*jvpsvd\[caffe\]", last)


def outcome(data, folder):
    """Load the bytes. Any exception other than the project's is a failure."""
    net = network(1)
    before = weights_sha256(net)
    try:
        load_weights(net, written(folder, data))
    except ModelError as error:
        unchanged = weights_sha256(net) == before
        return "refused" if unchanged and "\n" not in str(error) else "half loaded"
    return "loaded"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("bytes")


@settings(deadline=None)
@given(data=st.binary(max_size=300))
def test_random_bytes_are_refused(folder, data):
    assert outcome(data, folder) == "refused"


PIECES = st.sampled_from(
    [field(1, b"conv1"), field(4, b"fc6"), blob(WEIGHT), shape(3, 5), b"\x08\x03", b"\x2a", b"\x3a"]
)


@settings(deadline=None)
@given(
    pieces=st.recursive(
        PIECES,
        lambda inner: st.builds(
            lambda number, parts: field(number, b"".join(parts)),
            st.sampled_from([1, 2, 5, 6, 7, 8, 100]),
            st.lists(inner, max_size=4),
        ),
    )
)
def test_records_in_records_at_random_are_refused(folder, pieces):
    assert outcome(pieces, folder) == "refused"


@settings(deadline=None)
@given(
    at=st.integers(min_value=0),
    replacement=st.binary(min_size=1, max_size=8),
    cut=st.integers(0, 8),
    age=st.sampled_from(AGES),
)
def test_a_damaged_file_loads_or_is_refused(folder, at, replacement, cut, age):
    data = caffemodel(network(0), age)
    at %= len(data)
    damaged = data[:at] + replacement + data[at + cut :]
    assert outcome(damaged, folder) in ("refused", "loaded")
