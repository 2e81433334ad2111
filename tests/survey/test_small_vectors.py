"""Small copies of a few vectors, which a run keeps for its page."""

import numpy as np
import pytest
import torch
from support.shards import sample_members, write_tar

from jvpsvd import survey
from jvpsvd.cli import main
from jvpsvd.errors import ArgumentError
from jvpsvd.survey import Spec, run, verify

LAYERS = ["3", "output"]
NAMES = ("good-0000.tar", "photo1")


@pytest.fixture
def surveyed(tiny, shard, tmp_path):
    def call(name, **options):
        out = tmp_path / name
        asked = {"shards": [shard], "model": "tiny:net", "layers": LAYERS, "k": 8, "out": out}
        return run(Spec(**asked | options))

    return call


@pytest.mark.parametrize("batch", [1, 4])
def test_they_are_the_first_vectors_and_the_last(surveyed, batch):
    small = surveyed("small", vectors=3, batch=batch).results
    whole = surveyed("whole", vectors=True, batch=batch).results
    for layer, units in (("3", 72), ("output", 30)):
        kept, exact = small.small_vectors(*NAMES, layer), whole.vectors(*NAMES, layer)
        assert kept["index"].tolist() == [1, 2, 3, 8]
        torch.testing.assert_close(kept["s"], exact["s"])
        rows = kept["index"] - 1
        Vh = kept["Vh"].float().reshape(4, 768) / 768**0.5  # 16 pixels: nothing is averaged
        U = kept["U"].float() / units**0.5
        signs = (Vh * exact["Vh"][rows]).sum(1).sign()[:, None]
        torch.testing.assert_close(Vh * signs, exact["Vh"][rows], atol=2e-3, rtol=2e-3)
        torch.testing.assert_close(U * signs, exact["U"].mT[rows], atol=2e-3, rtol=2e-3)


def test_a_large_photo_is_averaged(tmp_path, monkeypatch):
    from jvpsvd.networks import PhotoInput
    from jvpsvd.survey.store.small_vectors import PIXELS, expected_shapes, small_copies

    identity = survey.Identity(
        "m", "w", PhotoInput(), ("a.tar",), ("9c",), ("output",), 6, 1e-5, small_vectors=2
    )
    Vh = torch.zeros(6, 3, 224, 224)
    Vh[5, 1] = torch.linspace(-1, 1, 224)
    U = torch.ones(20_000, 6)
    kept = small_copies(U, torch.ones(6), Vh.reshape(6, -1), identity)
    assert {name: tuple(one.shape) for name, one in kept.items()} == expected_shapes(
        identity, 6, 20_000
    )
    assert kept["Vh"].shape == (3, 3, PIXELS, PIXELS)
    ramp = kept["Vh"][2, 1].float() / (3 * 224 * 224) ** 0.5
    np.testing.assert_allclose(ramp[0], np.linspace(-1, 1, PIXELS), atol=0.02)
    assert not kept["Vh"][2, 0].any()


def test_a_run_that_keeps_them_is_verified_and_continued(surveyed, tmp_path):
    store = surveyed("run", vectors=2, batch=1).store
    assert verify(store).problems == ()
    assert surveyed("run", vectors=2, batch=1).computed == 0
    file = next((store.folder / "vectors").iterdir())
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    (problem,) = verify(store).problems
    assert "changed" in problem or "not finite" in problem
    file.unlink()
    assert surveyed("run", vectors=2, batch=1).computed == 1
    assert verify(store).problems == ()


def test_inputs_that_are_no_photos_keep_whole_right_vectors(tmp_path):
    model = torch.nn.Sequential(torch.nn.Linear(40, 12), torch.nn.Tanh())
    out = tmp_path / "run"
    spec = Spec(inputs=list(torch.randn(2, 1, 40)), model=model, k=5, vectors=1, out=out)
    results = run(spec).results
    sample = results.store.samples()[0]
    kept = results.small_vectors(sample.shard, sample.key, results.layers[-1])
    assert kept["Vh"].shape == (2, 40)
    assert verify(results.store).problems == ()


def test_asking_for_what_was_not_kept_says_how_to_keep_it(surveyed):
    none, small = surveyed("none").results, surveyed("small", vectors=1).results
    with pytest.raises(ArgumentError, match="no small vectors; run again with --vectors 4"):
        none.small_vectors(*NAMES, "3")
    with pytest.raises(ArgumentError, match="only small copies of vectors"):
        small.vectors(*NAMES, "3")


@pytest.mark.parametrize(
    ("words", "exact", "small"),
    [([], False, 0), (["--vectors"], True, 0), (["--vectors", "2"], False, 2)],
)
def test_the_command_line_says_which(tiny, shard, tmp_path, words, exact, small):
    out = tmp_path / "run"
    with pytest.raises(SystemExit) as ended:
        main(
            ["run", "--shards", str(shard), "--model", "tiny:net", "--layers", "output", "-k", "3",
             *words, "--share", "0/2", "--out", str(out)]
        )  # fmt: skip
    assert ended.value.code == 0
    identity = survey.open(out).store.identity
    assert (identity.vectors, identity.small_vectors) == (exact, small)


def test_a_number_that_is_none_is_a_mistake(tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["run", "--vectors", "few", "--out", str(tmp_path / "run")])
    assert ended.value.code == 2
    assert "--vectors few is no number" in capsys.readouterr().err


def test_the_demo_keeps_a_few():
    assert Spec().defaults.vectors == 4
    assert Spec(inputs=[1]).defaults.vectors == 0


def test_shards_of_photos_keep_none_unless_asked(tiny, tmp_path):
    members = [m for i in range(2) for m in sample_members(f"photo{i}", i, i)]
    shard = write_tar(tmp_path / "s-0000.tar", members)
    out = tmp_path / "run"
    run(Spec(shards=[shard], model="tiny:net", layers=["output"], k=3, out=out))
    assert not (out / "vectors").exists()
