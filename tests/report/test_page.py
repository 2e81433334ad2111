import base64
import dataclasses
import json
import re
import subprocess
import sys
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from support.shards import sample_members, write_tar

from benchmarks.problems.synthetic_run import make_run, page_of, task_of, write_rows
from jvpsvd.data import Sample
from jvpsvd.report import read_values, write_report
from jvpsvd.report.choice import choose_indices, choose_photos
from jvpsvd.report.page import SCRIPTS
from jvpsvd.report.payload import pack
from jvpsvd.survey import Spec, run
from jvpsvd.survey.store.rows import failure
from jvpsvd.survey.store.store import open_store
from jvpsvd.survey.store.whole_spectrum import THRESHOLDS

pytest.importorskip("jinja2", reason="the page needs jvpsvd[report]")
pytest.importorskip("matplotlib", reason="figures need jvpsvd[plot]")


class Seen(HTMLParser):
    """Text by id of the element around it, cells of tables, and every tag with its attributes."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.tables, self.words, self._stack = [], {}, [], []
        self._table = None
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        self._stack.append(tag)
        if tag == "table":
            self._table = self.tables.setdefault(dict(attributes).get("id"), [])
        elif tag == "tr":
            self._table.append([])
        elif tag in ("td", "th"):
            self._table[-1].append("")

    def handle_endtag(self, tag):
        while self._stack and self._stack.pop() != tag:
            pass

    def handle_data(self, data):
        if self._stack and self._stack[-1] not in ("script", "style"):
            self.words.append(data)
            if {"td", "th"} & set(self._stack):
                self._table[-1][-1] += data

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())


def record_of(html):
    return json.loads(re.search(r'id="run-data">(.*?)</script>', html, re.S)[1])


def numbers(packed):
    return np.frombuffer(base64.b64decode(packed), dtype="<f4")


@pytest.fixture
def store(finished):
    return finished(model="tiny:poisoned", layers=["0", "3", "output"])


@pytest.fixture(scope="module")
def synthetic(tmp_path_factory):
    """A run of 24 photos, six classes, three depths, with its page; tests only read it."""
    store = make_run(tmp_path_factory.mktemp("synthetic") / "run")
    return store, page_of(store)


def test_the_page_tells_values_below_their_residual(tiny, shard, tmp_path):
    layers, out = ["3", "output"], tmp_path / "noisy"
    spec = Spec(shards=[shard], model="tiny:repeating", k=30, layers=layers, out=out, vectors=True)
    noisy = run(spec).store
    rows = [row for row in noisy.rows() if row.layer == "output"]
    below = sum(s < r for row in rows for s, r in zip(row.s, row.residuals, strict=True))
    assert below > 0
    seen = Seen(page_of(noisy))
    assert f"{below} of 240 values are below their own residual" in seen.text
    heads, first, last = seen.tables["health-table"]
    column = heads.index("σ < r")
    assert (first[column], last[column]) == ("0", str(below))


def test_the_page_shows_what_the_rows_say(store):
    html = page_of(store)
    seen, record = Seen(html), record_of(html)
    assert [row[0] for row in seen.tables["depth-table"]] == ["depth", "0", "3", "output"]
    rows = [row for row in store.rows() if row.layer == "3"]
    line = seen.tables["depth-table"][2]
    assert line[1:3] == ["72 × 768", "4"]
    assert seen.tables["health-table"][2][1] == "Conv2d"
    assert float(line[3]) == pytest.approx(np.mean([row.s[0] for row in rows]), rel=1e-3)
    mean = np.mean([row.s for row in rows], axis=0)
    np.testing.assert_allclose(numbers(record["mean"][1]), mean, rtol=1e-6)
    lines = numbers(record["lines"][1]).reshape(4, 10)
    np.testing.assert_allclose(lines, [row.s for row in rows], rtol=1e-6)
    residuals = numbers(record["residuals"][1]).reshape(4, 10)
    np.testing.assert_allclose(residuals, [row.residuals for row in rows], rtol=1e-6)
    assert [key for key, _ in record["photos"]] == [row.key for row in rows]
    for word in ("tiny:poisoned", store.identity.weights_sha256, "16 × 16 pixels", "1e-05 σ₁"):
        assert word in seen.text


def test_failures_are_counted_and_say_why(store):
    seen = Seen(page_of(store))
    assert seen.tables["health-table"][-1][2:6] == ["0", "0", "4", "0"]
    assert "8 of 12 rows are certified in full; 4 failed" in seen.text
    assert "4 of 4 rows that failed or are missing" in seen.text
    message = next(row.message for row in store.rows() if row.layer == "output")
    assert " ".join(message.split()) in seen.text
    failures = (store.folder / "report" / "failures.csv").read_text()
    assert failures.count("\ngood-0000.tar,photo") == 4


def test_failures_of_inputs_that_are_no_photos_are_counted_as_inputs(tmp_path):
    inputs = list(torch.randn(3, 1, 20))
    inputs[1] = inputs[1] * torch.nan
    model = torch.nn.Sequential(torch.nn.Linear(20, 8), torch.nn.Tanh())
    seen = Seen(page_of(run(Spec(inputs=inputs, model=model, k=4, out=tmp_path / "run")).store))
    heading = ["reason", "rows", "inputs", "the first one says"]
    assert heading in seen.tables[None]
    assert seen.tables[None][seen.tables[None].index(heading) + 1][:3] == ["non-finite", "3", "1"]


def test_missing_rows_are_named(store):
    gone = store.layout.task_files()[0]
    gone.unlink()
    values = read_values(store)
    assert len(values.missing) in (3, 12)  # one task of the local engine, alone or as a batch
    seen = Seen(page_of(store))
    assert f"{len(values.missing)} are missing" in seen.text


def test_values_that_cannot_be_are_failures_and_enter_no_mean(tmp_path):
    store = make_run(tmp_path / "run", photos=4, depths=1, k=3)
    s = np.array([[3.0, 2, 1], [3, np.nan, 1], [1, 2, 3], [3, 2, 1]])
    write_rows(store, "output", store.samples(), s, np.full((4, 3), 1.0), [0, 0, 0, 3])
    values = read_values(store)
    assert [(one.photo, one.status) for one in values.failures] == [(n, "wrong") for n in (1, 2, 3)]
    assert values.depths[0].s.tolist() == [[3, 2, 1]]
    assert "nan" not in Seen(page_of(store)).text.split()


def test_a_count_of_converged_triplets_that_cannot_be_is_a_failure(tmp_path):
    store = make_run(tmp_path / "run", photos=3, depths=1, k=3)
    s = np.array([[3.0, 2, 1]] * 3)
    write_rows(store, "output", store.samples(), s, np.zeros((3, 3)), [3, 4, -1])
    assert [(one.photo, one.message) for one in read_values(store).failures] == [
        (1, "4 triplets of 3 are called converged"),
        (2, "-1 triplets of 3 are called converged"),
    ]


def test_a_file_that_cannot_be_read_is_named_and_the_rest_is_shown(tmp_path):
    store = make_run(tmp_path / "run")
    (store.folder / "spectra" / f"{task_of('block.0')}.parquet").write_bytes(b"half")
    values = read_values(store)
    assert [len(depth.photo) for depth in values.depths] == [0, 24, 24]
    assert f"{task_of('block.0')}.parquet cannot be read" in Seen(page_of(store)).text


def test_text_of_the_run_stays_text(tmp_path):
    evil = "</script><script>alert(1)</script><img src=x onerror=alert(2)>{{ 1234567 * 7 }}"
    store = make_run(tmp_path / "run", model=evil, photos=4, depths=2, k=3, classes=1)
    samples = [dataclasses.replace(s, key=evil + s.key, wnid=evil) for s in store.samples()]
    store.write_manifest(samples)
    s = np.tile([3.0, 2, 1], (4, 1))
    write_rows(store, "block.0", samples, s, 1e-6 * s)
    bad = [failure(sample, "output", 3, "<b>bad</b>", evil) for sample in samples]
    store.commit(task_of("output"), bad)
    html = page_of(open_store(store.folder))
    seen = Seen(html)
    assert not [tag for tag, attributes in seen.tags if tag == "img" or "onerror" in attributes]
    scripts = [a.get("type", "") for t, a in seen.tags if t == "script"]
    assert scripts == ["application/json", *[""] * len(SCRIPTS)]
    assert evil in record_of(html)["classes"]
    assert "8641969" not in seen.text
    for shown in (f"Singular values of {evil}", "<b>bad</b>"):
        assert shown in seen.text
    assert "'<" not in (store.folder / "report" / "failures.csv").read_text()


def test_text_that_a_spreadsheet_would_run_is_quoted(tmp_path):
    store = make_run(tmp_path / "run", photos=2, depths=1, k=3)
    samples = [dataclasses.replace(s, key=f"=cmd|{s.key}") for s in store.samples()]
    store.write_manifest(samples)
    page_of(store)
    assert "a.tar,'=cmd|photo00000,output" in (store.folder / "report/failures.csv").read_text()


def test_equal_runs_give_equal_pages(synthetic):
    store, first = synthetic
    names = sorted(file.name for file in (store.folder / "report").iterdir())
    assert page_of(store) == first
    kinds = ("class-distances", "class-tree", "dimensions", "heat-map", "spectra")
    drawn = [name for name in names if not name.endswith((".csv", ".html", ".json"))]
    assert drawn == [f"{kind}.{end}" for kind in kinds for end in ("png", "svg")]


def test_the_page_asks_for_nothing_and_only_its_own_scripts_may_run(synthetic):
    seen = Seen(synthetic[1])
    policy = next(a["content"] for _, a in seen.tags if a.get("http-equiv"))
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe-inline" not in policy.split(";")[1]
    for tag, attributes in seen.tags:
        assert not attributes.get("src", "data:").startswith("http"), tag
        assert not attributes.get("href", "#").startswith(("http", "//")), tag
        assert not any(name.startswith("on") for name in attributes), tag


def test_tables_labels_and_pictures_are_described_to_a_screen_reader(synthetic):
    seen = Seen(synthetic[1])
    assert ("html", {"lang": "en"}) in seen.tags
    for tag, attributes in seen.tags:
        if tag == "th":
            assert attributes["scope"] in ("row", "col")
        if attributes.get("class") == "plot":
            assert attributes["role"] == "img"
            assert attributes["aria-label"]
        if attributes.get("class", "").startswith("scroll"):
            assert attributes["tabindex"] == "0"
            assert attributes["aria-label"]
    ids = [attributes["id"] for _, attributes in seen.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    wanted = [a["href"][1:] for t, a in seen.tags if t == "a" and a["href"].startswith("#")]
    assert set(wanted) <= set(ids)


def test_class_tree_needs_three_wnids(synthetic, tmp_path):
    with_tree = Seen(synthetic[1])
    assert [row[0] for row in with_tree.tables["tree-table"]] == [
        "depth",
        "block.0",
        "block.1",
        "output",
    ]
    without = Seen(page_of(make_run(tmp_path / "b", named=False)))
    assert "tree-table" not in without.tables
    assert not {"meaning", "plot-tree"} & {a.get("id") for _, a in without.tags}
    assert "WordNet" not in without.text
    assert not (tmp_path / "b" / "report" / "class-tree.csv").exists()


def test_vectors_are_shown_beside_their_photo(tiny, tmp_path):
    members = [m for i in range(3) for m in sample_members(f"photo{i}", i, i % 2)]
    shard = write_tar(tmp_path / "good-0000.tar", members)
    spec = Spec(
        shards=[shard], model="tiny:net", k=4, layers=["3", "output"], vectors=True,
        out=tmp_path / "run",
    )  # fmt: skip
    store = run(spec).store
    seen = Seen(page_of(store, [shard]))
    alts = [attributes["alt"] for tag, attributes in seen.tags if tag == "img"]
    assert sum(alt.startswith("The photo photo") for alt in alts) == 3
    assert sum(alt.startswith("v4 of photo") for alt in alts) == 6
    sources = [attributes["src"] for tag, attributes in seen.tags if tag == "img"]
    assert all(source.startswith("data:image/png;base64,") for source in sources)
    assert "not shown beside" in Seen(page_of(store)).text
    (tmp_path / "else").mkdir()
    other = write_tar(tmp_path / "else" / "good-0000.tar", members[:2])
    assert "3 of 3 photos are not shown beside" in Seen(page_of(store, [other])).text


@pytest.fixture
def whole(tmp_path):
    """A run whose rows keep whole spectra."""
    return make_run(tmp_path / "whole", whole=True)


def test_spectra_reach_beyond_the_k_values(whole):
    record = record_of(page_of(whole))
    for depth, rest in zip(read_values(whole).depths, record["rest"], strict=True):
        value, least, most = numbers(rest["x"]).reshape(7, 3, -1).transpose(1, 0, 2)
        assert max(rest["y"]) < depth.s[:, -1].mean()
        assert (value[0] > 12).all()
        assert (least <= value).all()
        assert (value <= most).all()
        np.testing.assert_allclose(value[0], value[1:].mean(axis=0), rtol=1e-4)  # equal classes
        at = np.searchsorted(THRESHOLDS, rest["y"][-1] * 0.99)
        assert value[0, -1] == pytest.approx(depth.counts[:, 0, at].mean())


def test_dimensions_have_bounds_for_all_photos_and_each_class(whole):
    record = record_of(page_of(whole))
    for depth, ranges in zip(record["dimensions"], record["classRanges"], strict=True):
        for estimate, (mean, _, least, most, cut) in enumerate(depth[:3]):
            assert least < mean < most
            assert not cut
            of_classes = numbers(ranges).reshape(6, 3, 2)[:, estimate]
            assert (of_classes[:, 0] <= of_classes[:, 1]).all()
    seen = Seen(page_of(whole))
    depths, classes = seen.tables["depth-table"], seen.tables["class-table"]
    at = depths[0].index("count σ ≥ 1")
    assert all(" to " in row[at] for row in depths[1:])
    assert not any("≥" in cell for row in (*depths[1:], *classes[1:]) for cell in row)


def test_rows_of_older_versions_have_lower_bounds_and_no_rest(tmp_path):
    store = make_run(tmp_path / "run")
    html = page_of(store)
    assert record_of(html)["rest"] == [None] * 3
    depths, classes = (Seen(html).tables[name] for name in ("depth-table", "class-table"))
    at = depths[0].index("participation")
    assert all(row[at].startswith("≥ ") for row in depths[1:])
    at = classes[0].index("participation")
    assert all(row[at].startswith("≥ ") for row in classes[1:])


@pytest.mark.slow
def test_a_large_run_makes_a_small_page(tmp_path):
    store = make_run(tmp_path / "run", photos=10_000, depths=10, k=50, classes=100)
    values = read_values(store)
    page = write_report(values).page
    assert page.stat().st_size < 20_000_000
    seen = Seen(page.read_text(encoding="utf-8"))
    assert "625 of 10000 have lines" in seen.text
    assert "60 of 100 classes" in seen.text


def test_photos_are_chosen_over_classes_and_the_same_in_any_order():
    samples = [Sample("s", str(n), 0, 0, int(n > 90), None) for n in range(100)]
    classes = [sample.label for sample in samples]
    chosen = choose_photos(range(100), samples, classes, 10)
    assert sum(classes[photo] for photo in chosen) == 5
    assert choose_photos(range(99, -1, -1), samples, classes, 10) == chosen
    assert set(choose_photos(range(100), samples, classes, 6)) < set(chosen)


@pytest.mark.parametrize("k", [1, 2, 7, 40, 41, 500])
def test_chosen_indices_hold_both_ends(k):
    chosen = choose_indices(k, 40)
    assert (chosen[0], chosen[-1]) == (1, k)
    assert len(chosen) <= 40
    assert (np.diff(chosen) > 0).all()


def test_one_value_per_photo_is_enough(tmp_path):
    seen = Seen(page_of(make_run(tmp_path / "run", k=1)))
    assert len(seen.tables["depth-table"]) == 4
    ids = {attributes.get("id") for _, attributes in seen.tags}
    assert {"spectra", "dimension"} <= ids
    assert not {"decay", "decay-table", "heat"} & ids  # which would be empty


def test_packed_numbers_are_float32():
    assert numbers(pack(np.array([1.5, np.nan])))[0] == 1.5


WITHOUT = """
import sys
for name in {missing}: sys.modules[name] = None
from jvpsvd.cli import main
main(["report", {run!r}])
"""


@pytest.mark.parametrize(
    ("missing", "said", "written"),
    [
        (["jinja2"], "the page needs jinja2; pip install 'jvpsvd[report]'", "heat-map.png"),
        (["matplotlib"], "a figure needs matplotlib; pip install 'jvpsvd[plot]'", "index.html"),
    ],
)  # fmt: skip
def test_without_a_library_the_rest_is_written(missing, said, written, tmp_path):
    store = make_run(tmp_path / "run", photos=6, depths=2, k=3)
    code = WITHOUT.format(missing=missing, run=str(store.folder))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == f"not made: {said}"
    names = {file.name for file in (store.folder / "report").iterdir()}
    assert {written, "spectra.csv", "dimensions.csv", "classes.csv", "failures.csv"} <= names
    assert ("index.html" in names) == ("matplotlib" in missing)
