"""What is printed in a notebook's cell is a line, whatever a record holds."""

from pathlib import Path

import pytest
from torch import nn

from jvpsvd.networks import Model, load_model
from jvpsvd.report import read_values
from jvpsvd.survey import PhotoSelection, Spec


@pytest.mark.parametrize(
    ("spec", "shown"),
    [
        (Spec(), "Spec()"),
        (Spec(k=7, tol=1e-3, vectors=True), "Spec(k=7, tol=0.001, vectors=True)"),
        (Spec(model=nn.Sequential(*[nn.Linear(2, 2)] * 99)), "Spec(model=<Sequential>)"),
        (Spec([Path("a")] * 99), "Spec(shards=<list of 99>)"),
        (Spec(photos=PhotoSelection("7")), "Spec(photos=PhotoSelection(classes=('7',)))"),
        (Spec(photos=PhotoSelection(limit=3)), "Spec(photos=PhotoSelection(limit=3))"),
    ],
)
def test_a_spec_shows_what_was_asked_for(spec, shown):
    assert repr(spec) == str(spec) == shown


def test_records_are_a_line(surveyed, shard):
    assert repr(Model.of(nn.Linear(2, 2))) == "<Model Linear: Linear, takes photos>"
    store = surveyed([shard], layers=["output"], k=3).store
    assert repr(store) == f"<Store {store.folder}: tiny:net at output>"
    values = read_values(store)
    assert repr(values.depths[0]) == "<DepthValues at 'output': 4 rows, 3 values each>"
    assert repr(values).startswith(f"<RunValues of {store.folder}: 4 photos at ")
    every = (load_model("tiny:net"), values, Spec(model=load_model("tiny:net")))
    assert all(len(repr(one)) < 200 and "\n" not in repr(one) for one in every)
