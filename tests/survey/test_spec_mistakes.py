"""Values of a spec that cannot be used: one line before anything is written."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import jvpsvd
from jvpsvd import geometry, survey
from jvpsvd.errors import ArgumentError
from jvpsvd.networks import load_model
from jvpsvd.survey import PhotoSelection, Spec

WRONG = {
    "k a word": ({"k": "a"}, "k='a' must be a whole number at least 1"),
    "k a fraction": ({"k": 1.5}, "k=1.5 must be a whole number"),
    "k a flag": ({"k": True}, "k=True must be a whole number"),
    "seed": ({"seed": "a"}, "seed='a' must be a whole number from 0 to"),
    "no seed": ({"seed": None}, "seed=None must be a whole number from 0 to"),
    "seed a flag": ({"seed": False}, "seed=False must be a whole number"),
    "batch": ({"batch": "a"}, "batch='a' must be a whole number"),
    "workers": ({"workers": "a", "engine": "ray"}, "workers='a' must be a whole number"),
    "vectors": ({"vectors": 1.5}, "vectors=1.5 must be a whole number at least 0"),
    "vectors below 0": ({"vectors": -1}, "vectors=-1 must be a whole number at least 0"),
    "tol": ({"tol": "a"}, "tol='a' must lie between 0 and 1"),
    "tol a flag": ({"tol": True}, "tol=True must lie between 0 and 1"),
    "density": ({"density": "yes"}, "density='yes' must be True or False"),
    "photos": ({"photos": None}, r"photos=None must be a selection, as PhotoSelection\(limit=4\)"),
    "out": ({"out": 3}, "out=3 must be the name of a folder"),
    "weights": ({"weights": 3}, "weights=3 must be the name of a file"),
    "since": ({"since": 3}, "since=3 must be the name of a depth"),
    "wrt": ({"wrt": 3.5}, "wrt=3.5 must be the name of an argument"),
    "device": ({"device": torch.device("cpu")}, "must be a name, as cpu or cuda:1"),
    "address": ({"address": 3, "engine": "ray"}, "address=3 must be the address"),
    "shards": ({"shards": 3}, "shards=3 must be a folder, a pattern or files"),
    "a shard": ({"shards": [3]}, r"shards=\[3\] must be a folder, a pattern or files"),
    "a shard that is none": ({"shards": ["x", None]}, "must be a folder, a pattern or files"),
    "no shard": ({"shards": []}, r"shards=\[\] must be a folder"),
    "inputs": ({"inputs": 3}, "inputs=3 must be a list of inputs"),
    "share a number": ({"share": 3}, r"share=3 must be \(i, n\): part i of n"),
    "share of fractions": (
        {"share": (0.5, 1)},
        r"share\[0\]=0.5 must be a whole number",
    ),
    "share of words": ({"share": "01"}, r"share='01' must be \(i, n\)"),
    "share beyond": ({"share": (3, 2)}, "share 3/2 must be i/n with 0 <= i < n"),
    "memory": ({"memory": 3.5}, "memory=3.5 is not a size"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_value_is_refused_when_the_spec_is_made(name):
    options, message = WRONG[name]
    with pytest.raises(ArgumentError, match=message) as caught:
        Spec(**options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["limit", "per_class"])
@pytest.mark.parametrize("value", ["a", 0, 1.5, True])
def test_a_selection_takes_whole_numbers(name, value):
    with pytest.raises(ArgumentError, match=rf"{name}=.* must be a whole number at least 1"):
        PhotoSelection(**{name: value})


def test_whole_numbers_of_numpy_are_as_good(tmp_path):
    one = np.int64(1)
    spec = Spec(
        inputs=[torch.ones(1, 3), torch.ones(1, 3)],
        model=nn.Linear(3, 2).eval(),
        layers=["output"],
        out=tmp_path / "run",
        device="cpu",
        photos=PhotoSelection(limit=one),
        **dict.fromkeys(("k", "seed", "vectors", "batch"), one),
    )
    assert survey.run(spec, report=False).computed == 1


@pytest.mark.parametrize("share", [[0, 1], (np.int64(0), np.int32(1))])
def test_a_share_may_be_a_list_or_numbers_of_numpy(share):
    assert Spec(share=share).share == (0, 1)


def test_weights_beside_a_module_are_refused(tmp_path):
    spec = Spec(
        inputs=[torch.ones(1, 3)], model=nn.Linear(3, 2).eval(), weights="w.pt", out=tmp_path / "r"
    )
    with pytest.raises(ArgumentError, match="weights= is for models by name; load them into"):
        survey.run(spec, report=False)


CALLS = {
    "run": (lambda: survey.run(3), "spec is 3; give a survey.Spec"),
    "report": (lambda: survey.run(Spec(), "a"), "report='a' must be True, False or a function"),
    "open": (lambda: survey.open(None), "folder=None must be the name of the folder of a run"),
    "verify": (lambda: survey.verify("run"), r"store is 'run'; give survey.open\(folder\)\.store"),
    "status": (lambda: survey.status(Path("run")), r"give survey\.open\(folder\)\.store"),
    "compact": (lambda: survey.compact(3), "store is 3; give"),
    "load": (lambda: jvpsvd.load(3), "path=3 must be the name of a file"),
    "a space": (lambda: geometry.singular_space(3, 2), "result is 3; give what svds returns"),
    "random weights": (
        lambda: load_model("alexnet", random_weights="a"),
        "random_weights='a' must be a whole number from 0 to",
    ),
}


@pytest.mark.parametrize("name", CALLS)
def test_calls_with_something_else_say_what_to_give(name):
    call, message = CALLS[name]
    with pytest.raises(ArgumentError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)
