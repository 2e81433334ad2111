"""The parts of the ImageNet examples, on networks and collections small enough to know."""

import io
import json
import math
import pickle
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from jvpsvd import JacobianOperator, survey
from jvpsvd.data import pack, photos_by_class, walk
from jvpsvd.geometry import class_means, row_distances
from jvpsvd.networks import Model, PhotoInput, layer_map, weights_sha256
from jvpsvd.svd import Estimate

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture(scope="module")
def modules():
    """The examples' modules, which find each other as scripts do."""
    pytest.importorskip("matplotlib", reason="figures need the plot extra")
    sys.path.insert(0, str(EXAMPLES))
    try:
        import class_figures
        import imagenet_classes
        import imagenet_controls
        import imagenet_figures
        import imagenet_measure
        import imagenet_store
        import imagenet_tables
        import imagenet_whole_spectra
        import published_networks

        yield SimpleNamespace(
            class_figures=class_figures,
            classes=imagenet_classes,
            controls=imagenet_controls,
            figures=imagenet_figures,
            measure=imagenet_measure,
            store=imagenet_store,
            tables=imagenet_tables,
            whole=imagenet_whole_spectra,
            published=published_networks,
        )
    finally:
        sys.path.remove(str(EXAMPLES))


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.BatchNorm2d(8), nn.Tanh(),
        nn.Flatten(), nn.Linear(8 * 8 * 8, 20),
    ).eval().requires_grad_(False)  # fmt: skip
    return Model("small", net, PhotoInput(size=16, resize=16), weights_sha256(net))


@pytest.fixture(scope="module")
def photo(model):
    generator = torch.Generator().manual_seed(1)
    return 2 * torch.rand(model.photo_input.shape, generator=generator) - 1


def test_steps_and_spectra_are_measured_printed_and_drawn(modules, model, photo, tmp_path):
    measure, found, moved = modules.measure, {}, {}
    for depth in ("2", "output"):
        J = JacobianOperator(*layer_map(model.module, photo, to=depth))
        seen = measure.spectrum_and_spread(J, photo, 12)
        dense = torch.linalg.svdvals(J.matmat(torch.eye(J.shape[1])))
        assert np.allclose(seen["s"], dense[:12], rtol=1e-3)
        assert seen["converged"].all()
        assert 0 < seen["participation"].max() <= 1
        found[depth] = [{**seen, "photo": np.zeros((16, 16, 3))}] * 2
        moved[depth] = [measure.steps(model, J, photo, depth, 8, 3)] * 2
    # Tiny steps: the linear part alone, so that the tangent space moves what the normal does not.
    change = {name: moved["2"][0][f"{name} change"][:, 0].mean() for name in measure.SETS}
    assert change["leading"] > change["tangent"] > change["random"] > change["normal"]
    printed = [
        *modules.tables.tell_spectra(found),
        *modules.tables.tell_spread(found),
        *modules.tables.tell_steps(moved, measure.DISTANCES, measure.SETS),
    ]
    assert f"{found['2'][0]['s'][0]:.2f} ±" in "\n".join(printed)
    assert not any("nan" in line for line in printed)
    files = modules.figures.draw_all(found, moved, measure.DISTANCES, tmp_path)
    assert {file.suffix for file in files} == {".png", ".svg"}
    assert all(file.stat().st_size > 5000 for file in files)
    # What is kept tells the same, and shows no photo.
    modules.store.keep_depths({"spectra": found, "steps": moved}, tmp_path / "numbers.npz")
    kept = modules.store.kept_depths(tmp_path / "numbers.npz")
    assert list(modules.tables.tell_spectra(kept["spectra"])) == printed[: 2 + len(found)]
    again = modules.figures.draw_all(kept["spectra"], kept["steps"], measure.DISTANCES, tmp_path)
    assert {file.stem for file in files} - {file.stem for file in again} == {"figure-9-vectors"}


def test_untrained_network_differs_and_stays_finite(modules, model, tmp_path):
    image = pytest.importorskip("PIL.Image")
    generator = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for i in range(2):
            pixels = generator.integers(0, 256, (20, 20, 3), dtype=np.uint8)
            image.fromarray(pixels).save(tmp_path / "photos" / name / f"{i}.png")
    shards = pack(photos_by_class(tmp_path / "photos"), tmp_path / "shards", per_shard=1)
    chosen = [(shard, sample) for shard in shards for sample in walk(shard)]
    mixed = [chosen[i] for i in (2, 0, 3, 1)]
    names = [sample.key for sample, _ in modules.controls.decoded(mixed, model)]
    assert names == [sample.key for _, sample in mixed]
    control = modules.controls.untrained(model, chosen)
    assert control.weights_sha256 != model.weights_sha256
    assert not control.module.training
    inputs = [x for _, x in modules.controls.decoded(chosen, model)]
    assert len(inputs) == 4
    # Its batch norms know the photos: what leaves them has mean 0.
    out = control.module[:2](torch.cat(inputs))
    assert torch.allclose(out.mean((0, 2, 3)), torch.zeros(8), atol=1e-4)
    assert modules.controls.feature_rows(control, chosen).shape == (4, 512)
    head = modules.controls.head_distances(model, [3, 0, 7])
    weights = model.module[-1].weight
    cosine = nn.functional.cosine_similarity(*(weights[[3, 7]] - weights.mean(0)), dim=0)
    assert math.isclose(head[0, 2], 1 - cosine, abs_tol=1e-6)
    assert head.shape == (3, 3)
    assert torch.equal(head, head.mT)
    spaces = modules.controls.class_spaces(model, chosen, "output", 5, 3, tmp_path)
    for side in spaces.values():
        assert len(side) == 2
        assert np.allclose(side[0].T @ side[0], np.eye(3), atol=1e-5)


def test_power_spectrum_finds_a_wave(modules):
    size, waves = 64, 8
    x = torch.sin(2 * math.pi * waves * torch.arange(size) / size).expand(1, 3, size, size)
    rows = modules.controls.pixel_rows(x)
    edges = np.logspace(-2, np.log10(0.5), modules.controls.FREQUENCIES + 1)
    loudest = int(rows["power spectrum"].argmax())
    assert edges[loudest] <= waves / size <= edges[loudest + 1]
    assert np.allclose(rows["mean colour"][:3], 0, atol=1e-6)


def test_planted_hierarchy_is_found_and_noise_is_not(modules, tmp_path, capsys):
    generator = np.random.default_rng(0)
    groups, classes, each = 4, 4, 3
    centres = 3 * generator.standard_normal((groups, 1, 1, 20))
    centres = centres + generator.standard_normal((groups, classes, 1, 20))
    rows = (centres + 0.3 * generator.standard_normal((groups, classes, each, 20))).reshape(-1, 20)
    labels = np.repeat(np.arange(groups * classes), each).tolist()
    group = torch.arange(groups * classes) // classes
    meaning = 2.0 * (group[:, None] != group) + 2.0
    meaning.fill_diagonal_(0)
    wordnet = {"path": meaning.double(), "wu-palmer": meaning.double() / 4}
    noise = generator.standard_normal(rows.shape)
    said = {}
    for name, some in (("spectrum, 2", rows), ("features", noise)):
        distances = row_distances(class_means(some, labels).means)
        said[name] = modules.classes.compared(some, distances, labels, wordnet, {})
    planted, control = said["spectrum, 2"], said["features"]
    assert planted["path"][0] > 0.5
    assert planted["path"][1] < 0.001 < control["path"][1]
    assert planted["nearest"][0] > 0.9 > 0.4 > control["nearest"][0]
    assert abs(planted["shuffled"][0]) < 0.2
    numbers = {
        "photos": len(labels), "classes": [f"class {i}" for i in range(16)], "k": 20,
        "superclasses": [f"group {i}" for i in group.tolist()], "depths": ["2"],
        "wordnet": {kind: modules.store.condensed(one) for kind, one in wordnet.items()},
        "means": {"2": np.exp(class_means(rows, labels).means.numpy()).tolist()},
        "said": {**said, "power spectrum": control},
    }  # fmt: skip
    modules.store.keep_classes(numbers, tmp_path / "classes.json")
    numbers = json.loads((tmp_path / "classes.json").read_text())
    modules.classes.tell(numbers)
    assert f"{planted['path'][0]:+.3f}" in capsys.readouterr().out
    files = modules.class_figures.draw_all(numbers, tmp_path)
    assert len(files) == 8
    assert all(file.stat().st_size > 5000 for file in files)


def test_the_readme_says_what_the_kept_numbers_say(modules):
    readme = (EXAMPLES / "README.md").read_text()
    kept = modules.store.kept_depths(EXAMPLES / "results" / "imagenet-depths.npz")
    for depth, photos in kept["spectra"].items():
        assert len(photos) == 16
        assert all(photo["complete"] and photo["converged"].all() for photo in photos)
        s = modules.tables.collect(photos, "s")
        ratios = [f"{(s[:, i - 1] / s[:, 0]).mean():.2f}" for i in (100, 500)]
        (row,) = [line for line in readme.splitlines() if line.startswith(f"| {depth} |")]
        assert [cell.strip() for cell in row.split("|")][4:6] == ratios
    numbers = json.loads((EXAMPLES / "results" / "imagenet-classes.json").read_text())
    rows = {
        "spectra, `_blocks.15`": "spectrum, _blocks.15",
        "spectra, logits": "spectrum, output",
        "the network's last features": "features",
        "spectra, logits, untrained network": "untrained, output",
        "left spaces of the classes, logits": "left spaces, output",
    }
    whole = json.loads((EXAMPLES / "results" / "imagenet-whole-spectra.json").read_text())
    assert numbers["photos"] == whole["photos"] == 250
    whole_rows = {
        "counts of σ ≥ τ, `_blocks.15`": "counts, _blocks.15",
        "whole spectra by rank, `_blocks.15`": "whole, _blocks.15",
        "shape of whole spectra, `_blocks.15`": "whole shape, _blocks.15",
        "counts of σ ≥ τ, logits": "counts, output",
        "whole spectra by rank, logits": "whole, output",
        "shape of whole spectra, logits": "whole shape, output",
    }
    every = [(title, numbers["said"][name]) for title, name in rows.items()]
    every += [(title, whole["said"][name]) for title, name in whole_rows.items()]
    for title, found in every:
        (row,) = [line for line in readme.splitlines() if line.startswith(f"| {title} |")]
        assert row.split("|")[2].strip() == f"{found['path'][0]:.3f}".replace("-", "−")


def test_the_readme_says_what_was_counted():
    readme = (EXAMPLES / "README.md").read_text().splitlines()
    for row in json.loads((EXAMPLES / "results" / "whole-dimension.json").read_text()):
        if row["network"] != "alexnet":
            continue
        (line,) = [line for line in readme if line.startswith(f"| to {row['depth']} |")]
        cells = [cell.strip() for cell in line.split("|")]
        column = 3 if row["kind"] == "trained" else 4
        count = Estimate(*row["count"]).in_words().removeprefix("between ").replace(" and ", " to ")
        assert cells[2] == str(row["size"])
        assert cells[column] == count
        assert cells[column + 2] == Estimate(*row["participation"]).in_words()


def test_weights_are_read_as_numbers_only(modules):
    reader = modules.published.ArrayUnpickler
    array = np.arange(6, dtype=np.float32).reshape(1, 1, 2, 3)
    data = pickle.dumps({"kernel": array}, protocol=3)
    data = data.replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
    read = reader(io.BytesIO(data)).load()["kernel"]
    assert np.array_equal(read, array)
    assert modules.published.out_first(read).shape == (3, 2, 1, 1)
    with pytest.raises(pickle.UnpicklingError, match="not read"):
        reader(io.BytesIO(pickle.dumps(print))).load()


def test_whole_spectra_are_read_off_by_rank_and_by_threshold(modules, tmp_path):
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(300, 200), torch.nn.Tanh()).eval()
    X = torch.randn(3, 1, 300)
    spec = survey.Spec(inputs=list(X), model=net, layers=["output"], k=20, out=tmp_path / "run")
    results = survey.run(spec, report=False).results
    rows, (least, rank) = modules.whole.whole_rows(results, "output", np.array([2, 0, 1]))
    values = [torch.linalg.svdvals(torch.func.jacrev(net)(x).reshape(200, 300)) for x in X]
    s = torch.stack([values[2], values[0], values[1]]).detach().numpy()
    assert rank > 20
    np.testing.assert_allclose(np.exp(rows["whole"][:, 0]), s[:, 0], rtol=1e-4)
    at = np.geomspace(1, rank, rows["whole"].shape[1])
    truth = [np.interp(np.log(at), np.log(np.arange(1, 201)), np.log(one)) for one in s]
    # Between two thresholds of a run lies a factor of 1.26.
    np.testing.assert_allclose(rows["whole"], truth, atol=math.log(1.26))
    np.testing.assert_allclose(rows["whole shape"].mean(1), 0, atol=1e-12)
    np.testing.assert_allclose(np.exp(rows["counts"][:, 0]), (s >= least).sum(1), rtol=0.15)
