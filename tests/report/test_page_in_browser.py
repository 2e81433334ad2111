"""The page as a browser sees it: opened from a file, with no host that could be reached."""

import dataclasses

import numpy as np
import pytest

from benchmarks.measure.chromium import Chromium, find_browser
from benchmarks.problems.synthetic_run import make_run, page_of, task_of, write_rows
from jvpsvd.survey.store.rows import failure

pytest.importorskip("plotly", reason="the page needs jvpsvd[report]")
pytestmark = [
    pytest.mark.skipif(find_browser() is None, reason="no Chromium: apt-get install chromium"),
    pytest.mark.slow,
]
EVIL = "<script>document.title = 'mine'</script><img src=x onerror=alert(1)>%{y}"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A run of 24 photos, six classes, three depths; one key would be a script."""
    store = make_run(tmp_path_factory.mktemp("page") / "run")
    samples = store.samples()
    samples[0] = dataclasses.replace(samples[0], key=EVIL)
    store.write_manifest(samples)
    s = np.tile(np.linspace(3, 0.5, 12), (24, 1)) * np.arange(1, 25)[:, None]
    write_rows(store, "block.1", samples, s, 1e-5 * s)
    page_of(store)
    return store.folder / "report"


@pytest.fixture(scope="module")
def chromium(tmp_path_factory):
    browser = Chromium(tmp_path_factory.mktemp("profile"))
    yield browser
    browser.close()


@pytest.fixture
def page(chromium, folder):
    chromium.events.clear()
    chromium.resize(1200)
    chromium.open(folder / "index.html")
    return chromium


def choose(page, name, text):
    """Choose an option by its text, as a person does."""
    page.run(
        f"""(() => {{
            const select = document.getElementById("choose-{name}");
            select.value = [...select.options].find((o) => o.text.startsWith("{text}")).value;
            select.dispatchEvent(new Event("change"));
        }})()"""
    )


def column(page, table, number):
    return page.run(
        f"[...document.querySelectorAll('#{table} tbody tr')].filter((row) => !row.hidden)"
        f".map((row) => row.cells[{number}].textContent)"
    )


def traces(page):
    return page.run("document.getElementById('plot-spectra').data.map((t) => t.name || '')")


def test_it_opens_without_a_complaint_and_asks_for_nothing(page, folder):
    assert page.complaints() == []
    assert page.requests() == [(folder / "index.html").as_uri()]
    assert page.run("document.title") == "made up: jvpsvd report"
    for name in ("spectra", "heat", "dimension", "tree"):
        drawn = f"document.querySelectorAll('#plot-{name} .main-svg').length"
        assert page.run(drawn) > 0


def test_the_policy_stops_requests_and_foreign_scripts(page):
    page.run("fetch('https://example.org/').catch(() => 0)")
    page.run(
        "document.body.append(Object.assign(document.createElement('script'), "
        "{textContent: 'document.title = 1'}))"
    )
    assert page.run("document.title") == "made up: jvpsvd report"
    assert any("Content Security Policy" in text for text in page.complaints())


def test_a_click_and_a_key_sort_a_table(page):
    first = column(page, "class-table", 3)
    page.run("document.querySelectorAll('#class-table thead button')[3].click()")
    falling = [float(text) for text in column(page, "class-table", 3)]
    assert falling == sorted(map(float, first), reverse=True)
    page.run("document.querySelectorAll('#class-table thead button')[3].focus()")
    page.key("Enter", 13)
    assert [float(text) for text in column(page, "class-table", 3)] == falling[::-1]
    heads = "[...document.querySelectorAll('#class-table thead th')].map((h) => h.ariaSort)"
    assert page.run(heads)[3] == "ascending"
    page.run("document.querySelector('#class-table thead button').click()")
    names = column(page, "class-table", 0)
    assert names == sorted(names, key=str.lower)


def test_a_search_leaves_the_classes_that_hold_it(page):
    page.run(
        "(() => { const box = document.getElementById('find-class'); box.value = 'SHARK'; "
        "box.dispatchEvent(new Event('input')); })()"
    )
    names = column(page, "class-table", 0)
    assert names
    assert all("shark" in name for name in names)


def test_choosing_a_depth_draws_its_photos_and_fills_its_table(page):
    assert {"block.0", "block.1", "output"} <= set(traces(page))
    before = column(page, "class-table", 3)
    choose(page, "depth", "block.1")
    assert len(traces(page)) == 24 + 3
    assert "24 photos with values, 24 drawn" in page.run("told.textContent")
    assert page.run("document.getElementById('class-depth').textContent") == "block.1"
    assert column(page, "class-table", 3) != before
    assert page.run("document.getElementById('tree-told').textContent").startswith("At block.1")


def test_choosing_a_class_leaves_its_photos(page):
    choose(page, "depth", "block.1")
    choose(page, "class", "goldfish")
    assert len(traces(page)) == 4 + 3
    mean = page.run("document.getElementById('plot-spectra').data.at(-1).y[0]")
    assert mean == pytest.approx(3 * np.mean([2, 8, 14, 20]))
    heat = page.run("document.getElementById('plot-heat').data[0].z[1][0]")
    assert heat == pytest.approx(np.log10(mean))


def test_picking_a_photo_tells_its_values_and_residuals(page):
    choose(page, "depth", "block.1")
    choose(page, "photo", "photo00001")
    told = page.run("told.textContent")
    assert "Picked photo00001, goldfish: σ1 6 (residual 6e-5), σ12 1 (residual 1e-5)" in told
    assert page.run("document.getElementById('plot-spectra').data.at(-1).name") == "photo00001"


def test_pointing_at_a_line_tells_photo_class_value_and_residual(page):
    choose(page, "depth", "block.1")
    choose(page, "photo", "<script>")
    page.run(
        "Plotly.Fx.hover('plot-spectra', [{curveNumber: "
        "document.getElementById('plot-spectra').data.length - 1, pointNumber: 0}])"
    )
    told = page.run("document.querySelector('#plot-spectra .hoverlayer').textContent")
    assert EVIL in told
    assert "tench" in told
    assert "σ1 = 3.000, residual 3.0e-5" in told.replace("\u200b", "")
    assert page.run("document.title") == "made up: jvpsvd report"
    assert page.run("document.querySelectorAll('img[src=x]').length") == 0


def test_the_keyboard_reaches_the_content_first(page):
    page.key("Tab", 9)
    assert page.run("document.activeElement.textContent") == "Skip to the content"
    assert page.run("document.activeElement.getBoundingClientRect().left") >= 0
    page.key("Enter", 13)
    assert page.run("document.activeElement.id") == "main"


def test_text_stands_out_from_what_is_behind_it(page):
    """WCAG's contrast of every text colour that the style sheet uses, on white and on its tint."""

    def luminance(colour):
        values = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in values]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    get = "getComputedStyle(document.documentElement).getPropertyValue('--{}').trim()"
    back = luminance(page.run(get.format("tint")))
    for name in ("ink", "soft", "link"):
        assert (back + 0.05) / (luminance(page.run(get.format(name))) + 0.05) >= 4.5, name


def test_on_a_phone_nothing_is_wider_than_the_screen(chromium, folder):
    chromium.resize(390, 844)
    chromium.open(folder / "index.html")
    assert chromium.run("document.documentElement.scrollWidth") == 390
    assert chromium.run("document.getElementById('plot-spectra').offsetWidth") <= 390


def test_a_run_without_values_opens_too(chromium, tmp_path):
    store = make_run(tmp_path / "run", photos=3, depths=2, k=3)
    for layer in ("block.0", "output"):
        rows = [failure(sample, layer, 3, "bad-photo", "cut short") for sample in store.samples()]
        store.commit(task_of(layer), rows)
    chromium.events.clear()
    page_of(store)
    chromium.open(store.folder / "report" / "index.html")
    choose(chromium, "depth", "output")
    assert chromium.complaints() == []


def test_the_rest_of_a_spectrum_begins_where_the_k_values_end(chromium, tmp_path):
    store = make_run(tmp_path / "run", whole=True)
    page_of(store)
    chromium.events.clear()
    chromium.open(store.folder / "report" / "index.html")
    for name, text in (("depth", "output"), ("class", "goldfish")):
        choose(chromium, name, text)
        band, line = chromium.run(
            "document.getElementById('plot-spectra').data"
            ".filter((t) => t.x.at(-1) === 12 && t.y.length > 12 || t.fill === 'toself')"
            ".map((t) => [Array.from(t.x), Array.from(t.y)])"
        )
        assert line[0][-1] == 12
        assert max(line[0]) > 100
        assert len(band[0]) == 2 * len(line[0])
        assert sorted(line[1]) == line[1]
    assert chromium.complaints() == []
