"""The page as a browser sees it: opened from a file, with no host that could be reached."""

import dataclasses

import numpy as np
import pytest

from benchmarks.measure.chromium import Chromium, find_browser
from benchmarks.problems.synthetic_run import make_run, page_of, task_of, write_rows
from jvpsvd.survey.store.rows import failure

pytest.importorskip("jinja2", reason="the page needs jvpsvd[report]")
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


def lines(page, figure="spectra"):
    """Lines of a figure that are neither bands nor axes."""
    return page.run(f"document.querySelectorAll('#plot-{figure} path[fill=none]').length")


def page_path(page, kind):
    """Coordinates of the first line of a kind."""
    return page.run(
        f"document.querySelector('#plot-spectra path{kind}').getAttribute('d')"
        ".match(/[-.0-9]+/g).map(Number)"
    )


def tip(page):
    return page.run("document.querySelector('#plot-spectra + .tip').textContent")


FIGURES = ("spectra", "dimension", "energy", "heat", "distances", "wordnet", "tree")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1200, 390])
def test_it_opens_without_a_complaint_asks_for_nothing_and_fits(chromium, folder, width, scheme):
    """Every figure is drawn at once, also those below the fold, and nothing is cut off."""
    prefer = {"name": "prefers-color-scheme", "value": scheme}
    chromium.send("Emulation.setEmulatedMedia", features=[prefer])
    chromium.events.clear()
    chromium.resize(width, 800)
    chromium.open(folder / "index.html")
    assert chromium.complaints() == []
    assert chromium.requests() == [(folder / "index.html").as_uri()]
    assert chromium.run("document.title") == "made up: jvpsvd report"
    for name in FIGURES:
        assert chromium.run(f"document.querySelector('#plot-{name} svg').innerHTML.length") > 500
    assert chromium.run("document.documentElement.scrollWidth") == width
    inside = (
        "[...document.querySelectorAll('table.sortable')].filter((t) => "
        "t.parentElement.scrollWidth > t.parentElement.clientWidth + 1).map((t) => t.id)"
    )
    assert chromium.run(inside) == []
    back = chromium.run("getComputedStyle(document.body).backgroundColor")
    assert (back == "rgb(255, 255, 255)") == (scheme == "light")
    chromium.send("Emulation.setEmulatedMedia", features=[])


def test_print_is_on_white_within_the_page_and_opens_what_is_closed(page):
    prefer = {"name": "prefers-color-scheme", "value": "dark"}
    page.resize(720, 1000)
    page.send("Emulation.setEmulatedMedia", media="print", features=[prefer])
    page.run("window.dispatchEvent(new Event('beforeprint'))")
    assert page.run("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert page.run("document.documentElement.scrollWidth") == 720
    assert page.run("document.getElementById('health-table').offsetHeight") > 0
    page.send("Emulation.setEmulatedMedia", media="", features=[])


def test_the_first_screen_tells_sigma_dimension_and_trust(page):
    seen = page.run(
        "[...document.querySelectorAll('main *')].filter((e) => !e.children.length && "
        "e.getBoundingClientRect().bottom < 900).map((e) => e.textContent).join(' ')"
    )
    for words in ("σ₁ = ", "directions reach σ ≥ 1", "rows are certified", "participation"):
        assert words in seen or words in page.run("document.querySelector('main').innerText")[:600]
    assert page.run("document.getElementById('plot-spectra').getBoundingClientRect().bottom") < 900


def test_ticks_stand_at_whole_indices(page):
    """Those of the horizontal axis, also where few values are drawn."""
    texts = page.run(
        "[...document.querySelectorAll('#plot-spectra .axes text[text-anchor=middle]:not(.label)')]"
        ".map((t) => t.textContent)"
    )
    assert all(text.isdigit() for text in texts)
    assert (texts[0], texts[-1]) == ("1", "12")


def test_the_policy_stops_requests_and_foreign_scripts(page):
    page.run("fetch('https://example.org/').catch(() => 0)")
    page.run(
        "document.body.append(Object.assign(document.createElement('script'), "
        "{textContent: 'document.title = 1'}))"
    )
    assert page.run("document.title") == "made up: jvpsvd report"
    assert any("Content Security Policy" in text for text in page.complaints())


def test_a_click_and_a_key_sort_a_table(page):
    first = column(page, "class-table", 2)
    page.run("document.querySelectorAll('#class-table thead button')[2].click()")
    falling = [float(text) for text in column(page, "class-table", 2)]
    assert falling == sorted(map(float, first), reverse=True)
    page.run("document.querySelectorAll('#class-table thead button')[2].focus()")
    page.key("Enter", 13)
    assert [float(text) for text in column(page, "class-table", 2)] == falling[::-1]
    heads = "[...document.querySelectorAll('#class-table thead th')].map((h) => h.ariaSort)"
    assert page.run(heads)[2] == "ascending"
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
    assert lines(page) == 3
    before = column(page, "class-table", 2)
    choose(page, "depth", "block.1")
    assert lines(page) == 24 + 1
    assert "24 photos with values, 24 drawn" in page.run("told.textContent")
    assert page.run("document.getElementById('class-depth').textContent") == "block.1"
    assert column(page, "class-table", 2) != before
    assert "by spectra at block.1" in page.run("document.querySelector('#plot-tree').textContent")


def test_the_name_beside_a_line_chooses_its_depth(page):
    page.run("document.querySelector('#key-table button[data-depth=\"1\"]').click()")
    assert page.run("document.getElementById('choose-depth').value") == "1"
    assert lines(page) == 24 + 1
    page.run("document.querySelector('#key-table button[data-depth=\"1\"]').click()")
    assert lines(page) == 3


def test_choosing_a_class_leaves_its_photos(page):
    choose(page, "depth", "block.1")
    choose(page, "class", "goldfish")
    assert lines(page) == 4 + 1
    mean = 3 * np.mean([2, 8, 14, 20])
    assert f"mean σ1 {mean:.4g}," in page.run("told.textContent")


def test_picking_a_photo_tells_its_values_and_residuals(page):
    choose(page, "depth", "block.1")
    choose(page, "photo", "photo00001")
    told = page.run("told.textContent")
    assert "Picked photo00001, goldfish: σ1 6 (residual 6e-5), σ12 1 (residual 1e-5)" in told
    picked = "document.querySelectorAll('#plot-spectra path[stroke=\"var(--picked)\"]').length"
    assert page.run(picked) == 1


def test_pointing_and_arrow_keys_tell_what_is_there(page):
    choose(page, "depth", "block.1")
    choose(page, "photo", "<script>")
    box = page.run(
        "(() => { const b = document.querySelector('#plot-spectra circle[fill]')"
        ".getBoundingClientRect(); return [b.x + b.width / 2, b.y + b.height / 2]; })()"
    )
    page.send("Input.dispatchMouseEvent", type="mouseMoved", x=box[0], y=box[1])
    told = tip(page)
    assert EVIL in told
    assert "tench" in told
    assert "σ1 = 3, residual 3.0e-5" in told
    page.run("document.getElementById('plot-spectra').focus()")
    page.key("ArrowRight", 39)
    assert "σ2 = " in tip(page)
    page.key("Escape", 27)
    assert page.run("document.querySelector('#plot-spectra + .tip').hidden")
    assert page.run("document.title") == "made up: jvpsvd report"
    assert page.run("document.querySelectorAll('img[src=x]').length") == 0


def test_a_table_is_copied_as_csv_and_latex(page):
    get = "tables.{}(document.getElementById('{}'))"
    lines_of_csv = page.run(get.format("toCSV", "depth-table")).splitlines()
    assert lines_of_csv[0].startswith("depth,m × n,photos,σ1,σ12,count σ ≥ 1,participation")
    assert len(lines_of_csv) == 4
    cells = lines_of_csv[3].split(",")
    assert cells[:3] == ["output", "900 × 768", "23"]
    assert len(cells[3]) > 6  # more digits than are seen
    latex = page.run(get.format("toLatex", "depth-table"))
    assert "\\toprule" in latex
    assert "$\\sigma_{12}$" in latex
    assert latex.count("\\\\") == 4
    assert not {"σ", "≥", "×", "±"} & set(latex)
    page.run("document.querySelector('#depth-table').parentElement.nextSibling.firstChild.click()")
    copied = "document.querySelector('button[data-copied]')?.dataset.copied ?? ''"
    for _ in range(50):
        if page.run(copied):
            break
    assert page.run(copied) == page.run(get.format("toCSV", "depth-table"))


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
        mean, rest = (
            page_path(chromium, f'[stroke-width="{width}"][stroke^="var(--d"]')
            for width in ("2.2", "1")
        )
        assert rest[-2:] == mean[-2:]
        assert max(rest[::2]) > mean[-2] + 50
    assert chromium.complaints() == []


def test_adding_a_vector_to_its_photo_changes_its_image(chromium, tmp_path):
    from jvpsvd.survey import Spec, run

    spec = Spec(k=3, layers=["output"], vectors=2, out=tmp_path / "run", tol=1e-2)
    spec = dataclasses.replace(spec, photos=dataclasses.replace(spec.photos, limit=2))
    store = run(spec).store
    page_of(store, sorted((store.folder / "shards").glob("*.tar")))
    chromium.events.clear()
    chromium.open(store.folder / "report" / "index.html")
    source = "[...document.querySelectorAll('.panel:not([hidden]) img.vector')].map((i) => i.src)"
    alone = chromium.run(source)
    assert len(alone) == 3
    move = (
        "(() => { const s = document.getElementById('step'); s.value = %d; "
        "s.dispatchEvent(new Event('input')); return new Promise((r) => setTimeout(r, 1500)); })()"
    )
    chromium.run(move % 120)
    assert not set(alone) & set(chromium.run(source))
    chromium.run(move % 0)
    assert chromium.run(source) == alone
    chromium.run("document.querySelectorAll('input[name=photo]')[1].click()")
    assert not set(alone) & set(chromium.run(source))
    assert chromium.complaints() == []
