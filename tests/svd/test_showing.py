"""What a result looks like: printed, in a list, in a notebook, in help()."""

import dataclasses
import html.parser
import pydoc
import xml.etree.ElementTree as ET

import pytest
import torch
from support.svd_problems import line, spectrum, with_values

from jvpsvd import JacobianOperator, MatrixOperator, SVDResult, svds
from jvpsvd.svd import Certificate
from jvpsvd.svd.html import card, spectrum_figure


def results():
    matrix = with_values(spectrum("harmonic", 200), 250, 200)
    return {
        "certified": svds(matrix, 20, method="golub-kahan"),
        "values": svds(matrix, 20, vectors=False),
        "missed": svds(matrix.float(), 20, tol=1e-7, on_unconverged="ignore"),
        "batch": svds(MatrixOperator(torch.randn(40, 9, 7)), 3),
        "zero": svds(torch.zeros(5, 4), 2),
        "one": svds(torch.eye(5), 1),
        "jacobian": svds(JacobianOperator(torch.tanh, torch.randn(12)), 4),
    }


RESULTS = results()


@pytest.mark.parametrize("name", RESULTS)
def test_print_is_four_short_lines(name):
    result = RESULTS[name]
    lines = str(result).splitlines()
    assert len(lines) == 4
    assert all(len(line) <= 120 for line in lines)
    assert " x ".join(map(str, result.shape[-2:])) in lines[0]
    assert lines[2].startswith("certified: " if result.converged.all() else "not certified: ")


def test_print_says_what_was_found():
    result = svds(with_values(line(3, 1, 20), 30, 20), 4)
    lines = str(result).splitlines()
    assert lines[0] == "4 largest singular triplets of a 30 x 20 operator, float64 on cpu"
    assert lines[1].startswith("s from 3 to 2.684, ")
    assert lines[2] == "certified: 4 of 4 converged to 1e-05 s1, none missing"
    assert lines[3].startswith("exact: 22 + 2 products in ")


@pytest.mark.parametrize("scale", [1.0, 1e4])
def test_the_worst_residual_is_over_s1_as_the_tolerance_is(scale):
    matrix = scale * with_values(spectrum("harmonic", 200), 250, 200)
    result = svds(matrix, 20, method="golub-kahan", tol=1e-3)
    worst = float((result.residuals / result.s[0]).max())
    assert f"worst residual {worst:.1e} s1" in str(result)
    assert f"{worst:.1e} s1" in result._repr_html_()
    smallest = svds(matrix, 2, which="smallest")
    assert f"worst residual {float(smallest.residuals.max()):.1e}\n" in str(smallest)


@pytest.mark.parametrize("name", RESULTS)
def test_repr_is_one_short_line(name):
    text = repr(RESULTS[name])
    assert text.startswith("<SVDResult ")
    assert "\n" not in text
    assert len(text) <= 110


def test_what_is_unsound_is_loud():
    result = RESULTS["certified"]
    unsound = dataclasses.replace(result.certificate, combination_residual=1.0)
    result = dataclasses.replace(
        result, certificates=(unsound,), converged=torch.zeros(20, dtype=torch.bool)
    )
    for text in (str(result), result._repr_html_()):
        assert "not certified" in text
        assert "NOT SOUND" in text


class Balance(html.parser.HTMLParser):
    """Collects the tags that are open, and the text."""

    def __init__(self, text):
        super().__init__()
        self.open, self.text = [], ""
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        pass

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


@pytest.mark.parametrize("name", RESULTS)
def test_a_notebook_shows_a_mark_the_numbers_and_the_spectrum(name):
    result = RESULTS[name]
    text = result._repr_html_()
    parsed = Balance(text)
    assert parsed.open == []
    assert parsed.text.startswith("certified" if result.converged.all() else "not certified")
    for said in (str(result).splitlines()[3], f"from {float(result.s.max()):.4g}"):
        assert said in parsed.text
    assert ("<svg" in text) == (name != "zero")
    assert len(text) < 40_000
    assert "nan" not in text


def test_texts_are_escaped():
    result = dataclasses.replace(RESULTS["one"], method="<script>alert(1)</script>&")
    assert "<script>" not in result._repr_html_()
    assert "&lt;script&gt;" in result._repr_html_()
    assert "'&lt;b&gt;'" in card("'<b>'", "ok", True, [], "").replace("&#x27;", "'")


@pytest.mark.parametrize("values", [[1e-30, 1e-40], [5.0], [1.0, 0.0], [3e38, 1e-38], [2, 2, 2]])
def test_the_figure_is_valid_whatever_the_values(values):
    figure = spectrum_figure([[(value, 1e-7, True) for value in values]])
    root = ET.fromstring(figure)  # noqa: S314 -- our own
    assert root.tag == "svg"
    for circle in root.iter("circle"):
        assert 0 <= float(circle.get("cx")) <= 340
        assert 0 <= float(circle.get("cy")) <= 150


def test_no_figure_without_a_positive_value():
    assert spectrum_figure([[(0.0, 0.0, True)]]) == ""


@pytest.mark.parametrize("kind", [SVDResult, Certificate])
def test_help_explains_every_field(kind):
    text = pydoc.plain(pydoc.render_doc(kind))
    for field in dataclasses.fields(kind):
        assert f"|      {field.name}: " in text


def test_nouns_and_verbs_agree_with_their_number():
    one, two = svds(torch.ones(1, 4)), svds(torch.diag(torch.tensor([3.0, 1.0])))
    assert one.certificate.evidence == "the only product of the shorter side was taken"
    assert one.condition_number().basis == "the only value and its residual"
    assert str(one.spectrum.count()).endswith("the only value is known")
    assert two.certificate.evidence == "all 2 products of the shorter side were taken"
    assert two.condition_number().basis == "all 2 values and their residuals"
    rows = torch.linalg.qr(torch.randn(300, 2, generator=torch.Generator().manual_seed(0)))[0].T
    tiny = torch.tensor([[3.1], [1e-12]]) * rows  # of so many entries that rounding shows
    assert "1 of 2 values lies below its own (noise)" in str(svds(tiny, 2))
    with pytest.warns(match=r"^1 of 1 triplet missed"):
        svds(with_values(spectrum("line", 90), 90, 90), 1, tol=1e-13, method="randomized")
