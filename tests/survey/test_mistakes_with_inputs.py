"""What users get wrong with inputs that are no photos: one line that says what to do."""

import io

import numpy as np
import pytest
import torch
from support.shards import write_tar
from torch import nn

from jvpsvd import survey
from jvpsvd.errors import JvpsvdError
from jvpsvd.networks import Inputs, Model


class Sum(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 2)

    def forward(self, x, y):
        return self.layer(x) + y


def run(tmp_path, **options):
    spec = survey.Spec(**{"out": tmp_path / "run", "k": 2, "device": "cpu", **options})
    return survey.run(spec, report=False)


def npy(array):
    file = io.BytesIO()
    np.save(file, array, allow_pickle=array.dtype == object)
    return file.getvalue()


def messages(tmp_path, members, example):
    """Run over members of a shard; return what the rows say, by key."""
    shard = write_tar(tmp_path / "a.tar", members)
    model = Model.of(nn.Linear(3, 2).eval(), Inputs("npy", example))
    rows = run(tmp_path, shards=[shard], model=model, layers=["output"]).results.table()
    return {row["key"]: row["message"] for row in rows.to_pylist()}


def test_numbers_of_numpy_are_taken_in_the_dtype_of_the_example(tmp_path):
    members = [("a.npy", npy(np.ones((1, 3)))), ("b.npy", npy(np.ones((1, 3), np.float16)))]
    assert messages(tmp_path, members, torch.ones(1, 3)) == {"a": "", "b": ""}


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [
        ("a.npy", npy(np.ones((1, 3), int)), "it holds torch.int64, and the example torch.float32"),
        ("a.npy", npy(np.ones((1, 4))), "cut or pad all inputs to one shape"),
        ("a.npy", npy(np.array([{}], object)), "Python objects are not read; replace the file"),
        ("a.text", b"words", "it has text, and the network's Inputs take .npy; name it so"),
    ],
)
def test_a_member_that_cannot_be_used_says_why(tmp_path, name, data, said):
    (message,) = messages(tmp_path, [(name, data)], torch.ones(1, 3)).values()
    assert said in message
    assert "\n" not in message
    assert "pickle" not in message


def test_an_argument_that_is_missing_is_named(tmp_path):
    both = {"x": torch.ones(1, 3), "y": torch.ones(1, 2)}
    outcome = run(tmp_path, inputs=[both, {"x": both["x"]}], model=Sum().eval(), wrt="x")
    failed = [row for row in outcome.results.table().to_pylist() if row["status"] != "ok"]
    assert {row["key"] for row in failed} == {"input000001"}
    assert all("only the example has ['y']" in row["message"] for row in failed)


class Shared(nn.Module):
    """Holds an embedding that is never called, as encoder-decoders of transformers do."""

    def __init__(self):
        super().__init__()
        self.shared, self.tokens = nn.Embedding(5, 4), nn.Embedding(5, 4)
        self.tokens.weight = self.shared.weight

    def forward(self, ids):
        return self.tokens(ids).tanh()


NET = nn.Sequential(nn.Linear(3, 4), nn.Tanh()).eval()
MISTAKES = {
    "a mistyped depth": ({"inputs": [torch.ones(1, 3)], "layers": ["9"]}, "it has 0, 1, output$"),
    "another dtype": ({"inputs": [torch.ones(1, 3).double()]}, "in the dtype of the weights"),
    "no batch": ({"inputs": [torch.ones(4)]}, "on the first of inputs="),
    "another shape": (
        {"inputs": [torch.ones(1, 3)] * 4 + [(torch.ones(1, 4), 2)]},
        r"^input 4 is \(1, 4\), .* first \(1, 3\); cut or pad all inputs to one shape$",
    ),
    "another shape of an argument": (
        {"inputs": [{"x": torch.ones(1, 3), "y": torch.ones(1, n)} for n in (2, 1)], "wrt": "x"},
        r"^'y' of input 1 is \(1, 1\), ",
    ),
    "arguments without a choice": (
        {"inputs": [{"x": torch.ones(1, 3), "y": torch.ones(1, 2)}], "model": Sum().eval()},
        r"is given arguments by name \(x, y\): name the one to differentiate by with wrt=",
    ),
    "one argument by name": (
        {"inputs": [{"input": torch.ones(1, 3)}]},
        r"is given arguments by name \(input\): name the one .* with wrt=, or the depth",
    ),
    "token ids": (
        {"inputs": [{"ids": torch.ones(1, 3, dtype=torch.long)}], "model": Shared().eval()},
        r"takes token ids, which have no derivative.* --since, .*, as tokens$",
    ),
    "a depth before the start": (
        {"inputs": [torch.ones(1, 3)], "since": "0", "layers": ["0"]},
        "^no layer '0' after '0' in Sequential",
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_spec_that_cannot_run_says_what_to_do(tmp_path, name):
    options, said = MISTAKES[name]
    with pytest.raises(JvpsvdError, match=said) as raised:
        run(tmp_path, **{"model": NET, **options})
    assert "\n" not in str(raised.value)


def test_outcome_and_results_print_themselves_in_one_line(tmp_path):
    outcome = run(tmp_path, inputs=[torch.ones(1, 3)], model=NET, layers=["1"])
    words = "<Outcome: 1 computed, 0 failed, 0 were there, 0 rows without values, in "
    assert repr(outcome).startswith(words)
    assert repr(outcome.results) == "<Results of Sequential: 1>"


def test_the_demo_has_photos_alone(tmp_path):
    model = Model.of(nn.Linear(3, 2).eval(), Inputs("npy", torch.zeros(1, 3)))
    with pytest.raises(JvpsvdError, match=r"^Linear takes \.npy, and without shards .*; give"):
        run(tmp_path, model=model)
    assert not (tmp_path / "run" / "run.json").exists()
