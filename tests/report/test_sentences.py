"""What the page says in sentences."""

import dataclasses
import shlex

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from benchmarks.problems.synthetic_run import make_run, write_rows
from jvpsvd.networks import load_model
from jvpsvd.report import read_values, sentences, write_report
from jvpsvd.report.analysis import analyse
from jvpsvd.survey import PhotoSelection, Spec, run
from jvpsvd.survey.spec.tasks import make_tasks
from jvpsvd.text_table import at_most


@pytest.mark.parametrize(
    "options",
    [
        {"k": 5},
        {"k": 5, "seed": 3, "tol": 1e-3, "vectors": 2},
        {"k": 4, "vectors": True, "photos": PhotoSelection(("0", "1"), 1, 2, "first")},
        {"density": True},
        {"batch": 2, "tol": 1.2345678e-3},
        {"random_weights": 7},
        {"weights": "weights.safetensors"},
    ],
)
def test_the_command_makes_the_same_run(tiny, shard, tmp_path, options, monkeypatch):
    from jvpsvd.cli import main

    weights = tmp_path / "weights.safetensors"
    save_file(load_model("tiny:net", random_weights=3).module.state_dict(), weights)
    options = options | ({"weights": str(weights)} if "weights" in options else {})
    spec = Spec(shards=shard, model="tiny:net", layers=["3"], out=tmp_path / "run", **options)
    first = run(spec).store
    command, note = sentences.command(read_values(first))
    *of_weights, of_shards = note.split("; ")
    assert of_shards == f"SHARDS is the folder of {shard.name}"
    of_file = f"'{weights.name}': SHA-256 of the weights {first.identity.weights_sha256[:12]}"
    assert of_weights == ([f"WEIGHTS is {of_file}"] if "weights" in options else [])
    places = {"SHARDS": shard, "RUN": tmp_path / "again", "WEIGHTS": weights}
    typed = [str(places.get(word, word)) for word in shlex.split(command)]
    with pytest.raises(SystemExit) as ended:
        main([*typed[1:], "--share", "0/2"])  # which writes no page
    assert ended.value.code == 0
    from jvpsvd.survey import open_store

    again = open_store(tmp_path / "again")
    assert again.identity.difference(first.identity) == ""
    ids = [[task.id for task in make_tasks(s.identity, s.samples())] for s in (first, again)]
    assert ids[0] == ids[1]


def test_where_no_command_was_typed_the_note_tells_the_weights(tiny, shard, tmp_path):
    spec = Spec(shards=[shard], model="tiny:net", layers=["3"], k=3, out=tmp_path / "run")
    store = run(dataclasses.replace(spec, random_weights=7)).store
    command, note = sentences.command(read_values(store))
    assert "--random-weights" not in command
    assert f"SHA-256 of its weights is {store.identity.weights_sha256[:12]}; if yours" in note


def test_the_first_sentence_says_sigma_and_dimension(tmp_path):
    store = make_run(tmp_path / "run", whole=True)
    analysis = analyse(read_values(store))
    said = sentences.finding(analysis)
    depth = analysis.depths[-1]
    assert f"σ₁ = {depth.values.s[:, 0].mean():.4g}" in said
    assert f"of {depth.values.size} directions reach σ ≥ 1" in said
    assert sentences.trust(analysis.run) == (
        f"Residuals are at most {at_most(depth.values.relative.max())} σ₁; rounding of the photo "
        "alone moves J by up to 1e-06 σ₁."
    )


def test_what_is_at_most_is_not_rounded_down(tmp_path):
    store = make_run(tmp_path / "run", photos=2, depths=1, k=3)
    layer, ones = store.identity.layers[0], np.ones((2, 3))
    write_rows(store, layer, store.samples(), ones, 3.2e-6 * ones, defined_to=[1.4e-7, 1e-9])
    assert sentences.trust(read_values(store)) == (
        "Residuals are at most 4e-06 σ₁; rounding of the photo alone moves J by up to 2e-07 σ₁."
    )


def test_where_rounding_moved_nothing_no_number_is_said(tmp_path):
    store = make_run(tmp_path / "run", photos=2, depths=1, k=3)
    layer, ones = store.identity.layers[0], np.ones((2, 3))
    write_rows(store, layer, store.samples(), ones, 0 * ones, defined_to=[0.0, 0.0])
    assert sentences.trust(read_values(store)).endswith("; rounding of the photo did not move J.")


def test_inputs_that_are_no_photos_are_named_so(tmp_path):
    model = torch.nn.Sequential(torch.nn.Linear(20, 8), torch.nn.Tanh())
    store = run(
        Spec(inputs=list(torch.randn(3, 1, 20)), model=model, k=4, out=tmp_path / "run")
    ).store
    html = write_report(read_values(store)).page.read_text("utf-8")
    assert "for 3 inputs" in html
    assert ">inputs</button>" in html
    assert "Sequential was given in Python: name a function that returns it" in html
    assert 'id="class-table"' not in html  # they have no classes
    assert 'id="choose-class"' not in html


def test_data_is_cited_where_its_photos_are_known(tmp_path):
    store = make_run(tmp_path / "run")
    assert "russakovsky2015imagenet" in sentences.citations(read_values(store))
    other = make_run(tmp_path / "other", named=False)
    cited = sentences.citations(read_values(other))
    assert "russakovsky" not in cited
    assert "mototake_ikegami" in cited
    shards = dataclasses.replace(other.identity, shards=("foolbox-000000.tar",))
    demo = read_values(dataclasses.replace(other, identity=shards))
    assert "foolbox" in sentences.citations(demo)
    assert "SHARDS" not in " ".join(sentences.command(demo))
