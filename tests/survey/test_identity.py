import dataclasses
import json

import numpy as np
import pytest
import torch

from jvpsvd import svds
from jvpsvd.errors import ArgumentError, ModelError
from jvpsvd.networks import load_model
from jvpsvd.survey import Identity, PhotoSelection, Spec, choose_depths, identify


@pytest.fixture
def model(tiny):
    return load_model("tiny:net")


def test_spec_survives_json(model, shard):
    photos = PhotoSelection(limit=3, per_class=2, classes=["1", "0", "1"])
    spec = Spec(shards=[shard], k=7, tol=1e-3, photos=photos, vectors=True)
    identity, _ = identify(model, [shard], spec)
    assert identity.photos.classes == ("0", "1")
    assert Identity.from_json(json.loads(json.dumps(identity.to_json()))) == identity


def test_run_json_holds_the_selection_of_photos_without_nesting(model, shard):
    identity, _ = identify(model, [shard], Spec(shards=[shard], k=7))
    assert list(identity.to_json()) == [
        "model", "weights_sha256", "photo_input", "shards", "contents", "layers", "k", "tol",
        "seed", "own_starts", "classes", "per_class", "limit", "choice", "batch", "vectors",
        "small_vectors", "density", "dtype", "numerics", "inputs", "start", "start_shape", "probe",
    ]  # fmt: skip


def test_layers_come_in_the_order_of_the_network(model, shard):
    spec = Spec(shards=[shard], layers=["output", "0"], k=5)
    identity, depths = identify(model, [shard], spec)
    assert identity.layers == ("0", "output")
    assert [depth.shape for depth in depths] == [(1, 6, 7, 7), (1, 30)]


def test_default_is_five_depths_that_end_at_the_output(model):
    names = [depth.name for depth in choose_depths(model, 5, None)]
    assert len(names) == len(set(names)) == 5
    assert names[-1] == "output"


def test_all_leaves_out_depths_with_fewer_than_k_values(model):
    assert "output" in {depth.name for depth in choose_depths(model, 30, ["all"])}
    assert {d.name for d in choose_depths(model, 31, ["all"])} == {"0", "1", "2", "3", "4", "5"}


@pytest.mark.parametrize(
    ("wanted", "error", "message"),
    [
        ({"layers": ["oputput"]}, ModelError, "did you mean output"),
        ({"k": 0}, ArgumentError, "k=0 must be a whole number at least 1"),
        ({"tol": -0.1}, ArgumentError, "tol=-0.1"),
        ({"tol": 1}, ArgumentError, "tol=1"),
        ({"seed": -1}, ArgumentError, "seed=-1"),
        ({"batch": 0}, ArgumentError, "batch=0"),
    ],
)
def test_what_cannot_be_done_is_refused_before_anything_runs(model, shard, wanted, error, message):
    with pytest.raises(error, match=message):
        identify(model, [shard], Spec(shards=[shard], **wanted))


def test_a_tolerance_of_0_is_what_float32_reaches_as_in_a_solve(model, shard):
    found, _ = identify(model, [shard], Spec(shards=[shard], tol=0, k=3, layers=["output"]))
    assert found.tol == svds(torch.eye(4), 3, tol=0).tol


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ({"limit": 0}, "limit=0 must"),
        ({"per_class": -1}, "per_class=-1 must"),
        ({"choice": "last"}, "choice='last' is unknown"),
        ({"classes": []}, "classes are empty"),
        ({"classes": ""}, "classes are empty"),
        ({"classes": np.array(["1", "2"])}, "classes is a ndarray; give a list of names"),
        ({"classes": torch.tensor([1, 2])}, "classes is a tensor .*; give a list of names"),
        ({"classes": 7}, "classes is 7; give a list of names"),
        ({"classes": [7]}, "classes holds 7; give names, as strings"),
    ],
)
def test_selection_of_nothing_is_refused(wanted, message):
    with pytest.raises(ArgumentError, match=message):
        PhotoSelection(**wanted)


def test_difference_names_the_first_field(model, shard):
    identity, _ = identify(model, [shard], Spec(shards=[shard], k=5))
    assert identity.difference(identity) == ""
    assert identity.difference(dataclasses.replace(identity, tol=0.5)) == "tol = 1e-05, now 0.5"
    fewer = dataclasses.replace(identity, photos=PhotoSelection(limit=3, choice="random"))
    assert identity.difference(fewer) == "limit = None, now 3"


def test_json_of_something_else_is_refused():
    with pytest.raises(ArgumentError, match="not the identity of a run"):
        Identity.from_json({"k": 3})


def test_network_that_fails_on_the_photo_is_one_error(tiny, shard, tmp_path):
    (tiny / "other_input.py").write_text(
        "from torch import nn\n\ndef net():\n    return nn.Linear(7, 3).eval()\n"
    )
    with pytest.raises(ModelError, match=r"fails on an input of shape \(1, 3, 224, 224\)"):
        identify(load_model("other_input:net"), [shard], Spec(shards=[shard], k=2))
