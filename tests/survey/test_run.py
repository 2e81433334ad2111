import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from safetensors import safe_open
from support.forks import Forked
from support.shards import encoded, sample_members, write_tar

from jvpsvd.data import decode_photo
from jvpsvd.errors import ArgumentError, RunError, ShardError
from jvpsvd.networks import layer_map, load_model
from jvpsvd.survey import open_store, verify


def dense_spectrum(model, layer, photo):
    x = decode_photo(photo, model.photo_input)
    f, z = layer_map(model.module.double(), x.double(), to=layer)
    J = torch.func.jacrev(f)(z).reshape(-1, z.numel())
    model.module.float()
    return torch.linalg.svdvals(J.detach())


def test_rows_hold_the_true_spectra_of_every_photo_and_depth(surveyed, shard):
    outcome = surveyed([shard])
    model = load_model("tiny:net")
    rows = outcome.store.rows()
    assert [(r.key, r.layer) for r in rows] == [
        (f"photo{i}", layer) for i in range(4) for layer in ("2", "output")
    ]
    for row in rows:
        truth = dense_spectrum(model, row.layer, encoded(int(row.key[-1])))
        np.testing.assert_allclose(row.s, truth[:10], atol=2e-6 * float(truth[0]))
        assert (row.status, row.converged, row.label) == ("ok", 10, int(row.key[-1]) % 2)
        assert row.fro2 == pytest.approx(float((truth**2).sum()), rel=0.5)


def test_network_that_looks_at_its_values_gives_the_same_rows(surveyed, shard):
    plain = surveyed([shard], "plain", layers=["output"]).store.rows()
    looking = surveyed([shard], "looking", "tiny:looking", layers=["output"]).store.rows()
    for one, two in zip(plain, looking, strict=True):
        np.testing.assert_allclose(one.s, two.s, rtol=1e-5)


def test_bad_samples_become_rows_and_the_rest_goes_on(surveyed, tmp_path):
    members = [
        *sample_members("good0", 0, 0),
        ("broken.jpg", encoded(5)[:150]),
        ("text.jpg", b"hello"),
        ("none.cls", b"3"),
        *sample_members("good1", 1, 1),
    ]
    outcome = surveyed([write_tar(tmp_path / "s.tar", members)])
    status = {row.key: row.status for row in outcome.store.rows()}
    assert status == {
        "good0": "ok",
        "broken": "bad-photo",
        "text": "bad-photo",
        "none": "no-photo",
        "good1": "ok",
    }
    failures = [row for row in outcome.store.rows() if row.status != "ok"]
    assert outcome.failures == len(failures) == 6
    assert all(row.message and "\n" not in row.message for row in failures)
    assert verify(outcome.store).problems == ()


def test_depth_with_nan_fails_alone(surveyed, shard):
    rows = surveyed([shard], model="tiny:poisoned").store.rows()
    assert {(row.layer, row.status) for row in rows} == {("2", "ok"), ("output", "non-finite")}


def test_second_run_continues_and_recomputes_nothing(surveyed, finished, shard):
    spectra = finished().folder / "spectra"
    files = {f: f.stat().st_mtime_ns for f in spectra.iterdir()}
    lost = min(files)
    lost.unlink()
    second = surveyed([shard])
    assert (second.computed, second.skipped) == (1, 3)
    after = {f: f.stat().st_mtime_ns for f in spectra.iterdir()}
    assert after.keys() == files.keys()
    assert all(after[f] == files[f] for f in files if f != lost)


def test_interrupted_run_continues_to_equal_values(surveyed, shard):
    undisturbed = surveyed([shard], "undisturbed").store.rows()

    def interrupt(progress):
        if progress.photos_done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        surveyed([shard], "disturbed", report=interrupt)
    outcome = surveyed([shard], "disturbed")
    assert outcome.skipped == 2
    values = [row.s for row in outcome.store.rows()]
    np.testing.assert_allclose(values, [row.s for row in undisturbed], rtol=1e-5)


@pytest.mark.parametrize(
    "change", [{"k": 11}, {"tol": 1e-3}, {"layers": ["2"]}, {"model": "tiny:other"}, {"limit": 2}]
)
def test_another_spec_is_refused(surveyed, finished, shard, change):
    finished()
    with pytest.raises(RunError, match=r"is a run with .*, now "):
        surveyed([shard], **change)


def test_folder_of_something_else_is_refused(surveyed, shard, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").touch()
    with pytest.raises(RunError, match="exists and is not a run"):
        surveyed([shard], "mine")


def test_shares_are_disjoint_and_together_everything(surveyed, shard):
    one = surveyed([shard], share=(0, 2))
    assert (one.computed, len(verify(one.store).problems)) == (2, 4)
    two = surveyed([shard], share=(1, 2))
    assert two.computed == 2
    assert verify(two.store).problems == ()
    with pytest.raises(ArgumentError, match="share 2/2"):
        surveyed([shard], share=(2, 2))


def test_a_share_that_has_nothing_to_do_says_why(surveyed, shard, caplog):
    assert surveyed([shard], share=(1, 2), batch=8).computed == 0
    (said,) = caplog.messages
    assert said.startswith("share 1/2 has nothing to do: as many as 8 photos are solved together")
    assert "--batch 1" in said


@pytest.mark.parametrize(("wanted", "keys"), [({"limit": 3}, "012"), ({"per_class": 1}, "01")])
def test_choice_of_samples(surveyed, shard, wanted, keys):
    outcome = surveyed([shard], **wanted)
    assert [sample.key for sample in outcome.store.samples()] == [f"photo{i}" for i in keys]


def test_vectors_are_stored_and_are_those_of_the_jacobian(surveyed, shard):
    outcome = surveyed([shard], vectors=True, limit=1)
    model = load_model("tiny:net")
    f, z = layer_map(model.module, decode_photo(encoded(0), model.photo_input), to="output")
    J = torch.func.jacrev(f)(z).reshape(-1, z.numel())
    (file,) = (outcome.store.folder / "vectors").glob("*-001.safetensors")
    with safe_open(file, "pt") as stored:
        U, s, Vh = (stored.get_tensor(name) for name in ("U", "s", "Vh"))
        assert stored.metadata() == {"shard": shard.name, "key": "photo0", "layer": "output"}
    torch.testing.assert_close(J @ Vh.T, U * s, atol=1e-5, rtol=0)


def test_shards_without_samples_are_refused(surveyed, tmp_path):
    with pytest.raises(ShardError, match="no sample in 1 shard"):
        surveyed([write_tar(tmp_path / "s.tar", [])])


def test_progress_sees_every_photo_and_depth(surveyed, shard):
    reported = []
    surveyed([shard], report=reported.append)
    assert {(progress.key, progress.layer) for progress in reported if progress.layer} == {
        (f"photo{i}", layer) for i in range(4) for layer in ("2", "output")
    }
    assert [progress.photos_done for progress in reported if progress.rows] == [1, 2, 3, 4]
    assert all(0 <= progress.share_of_photo <= 1 for progress in reported)


def test_other_photos_under_the_same_names_are_refused(surveyed, finished, shard, tmp_path):
    finished()
    (tmp_path / "other").mkdir()
    members = [m for i in range(4) for m in sample_members(f"photo{i}", 9 + i, i % 2)]
    with pytest.raises(RunError, match=r"other bytes in good-0000.tar"):
        surveyed([write_tar(tmp_path / "other" / shard.name, members)])


@pytest.mark.parametrize("harm", ["truncate", "empty", "delete", "folder", "manifest"])
def test_harm_to_the_folder_is_mended_by_the_same_run(surveyed, finished, shard, harm):
    store = finished()
    values = [row.s for row in store.rows()]
    file = min((store.folder / "spectra").iterdir())
    if harm == "truncate":
        file.write_bytes(file.read_bytes()[:-20])
    elif harm == "empty":
        file.write_bytes(b"")
    elif harm == "delete":
        file.unlink()
    elif harm == "folder":
        shutil.rmtree(store.folder / "spectra")
    else:
        (store.folder / "manifest.parquet").write_bytes(b"")
    assert verify(store).problems
    outcome = surveyed([shard])
    assert outcome.computed == {"folder": 4, "manifest": 0}.get(harm, 1)
    assert verify(store).problems == ()
    np.testing.assert_allclose([row.s for row in store.rows()], values, rtol=1e-5)


def test_lost_vectors_are_missed_and_made_again(surveyed, finished, shard):
    store = finished(vectors=True, limit=2)
    min((store.folder / "vectors").iterdir()).unlink()
    (problem,) = verify(store).problems
    assert problem.startswith("no vectors: good-0000.tar photo")
    assert surveyed([shard], vectors=True, limit=2).computed == 1
    assert verify(store).problems == ()


def test_failures_that_another_try_may_mend_are_tried_again(surveyed, shard):
    wanted = {"layers": ["output"], "limit": 2}
    tight = surveyed([shard], memory=100, **wanted)
    assert {row.status for row in tight.store.rows()} == {"refused"}
    roomy = surveyed([shard], **wanted)
    assert (roomy.computed, roomy.failures) == (2, 0)


def test_shares_started_together_end_as_one_run(tiny, tmp_path):
    members = [m for i in range(8) for m in sample_members(f"photo{i}", i, 0)]
    shard = write_tar(tmp_path / "s.tar", members)
    code = (
        "import sys; from jvpsvd.cli import main; main(['run', '--model', 'tiny:net', '-k', '5', "
        "'--layers', 'output', '--shards', 's.tar', '--out', 'out', '--share', sys.argv[1]])"
    )
    started = [Forked(code, f"{i}/3", folder=tmp_path) for i in range(3)]
    for process in started:
        said = process.communicate(timeout=100)
        assert process.returncode == 0, said
    store = open_store(tmp_path / "out")
    assert verify(store).problems == ()
    assert len(store.rows()) == 8
    assert shard.exists()


@pytest.mark.parametrize("batch", [1, 3])
def test_what_progress_raises_during_a_solve_ends_the_run(surveyed, shard, batch):
    def report(progress):
        if progress.share_of_photo > 0:
            raise ValueError("stop please")

    with pytest.raises(ValueError, match="stop please"):
        surveyed([shard], report=report, batch=batch)
    assert surveyed([shard], batch=batch).failures == 0


def test_shard_that_is_away_for_a_while_does_not_stop_the_others(surveyed, tmp_path):
    shards = [
        write_tar(tmp_path / f"{name}.tar", sample_members(f"photo-{name}", i, i))
        for i, name in enumerate("ab")
    ]
    whole = surveyed(shards)
    first, second = (row.key for row in whole.store.rows()[::2])
    next(
        file
        for file in whole.store.layout.task_files()
        if second in str(pq.read_table(file)["key"])
    ).unlink()
    away = shards[1].rename(tmp_path / "elsewhere")
    without = surveyed(shards)
    assert {r.key for r in without.store.rows() if r.status == "undelivered"} == {second}
    away.rename(shards[1])
    assert surveyed(shards).failures == 0
    assert first != second


def test_hole_that_is_filled_later_is_another_run(surveyed, tmp_path):
    there = write_tar(tmp_path / "a.tar", sample_members("photo-a", 0, 0))
    hole = tmp_path / "b.tar"
    outcome = surveyed([there, hole])
    assert [row.status for row in outcome.store.rows()] == ["ok", "ok", *["missing-shard"] * 2]
    write_tar(hole, sample_members("photo-b", 1, 1))
    with pytest.raises(RunError, match=r"b\.tar missing or unreadable when it began, and here now"):
        surveyed([there, hole])


def test_a_tolerance_below_rounding_is_logged_before_the_first_photo(surveyed, shard, caplog):
    lines = []

    def report(progress):
        if progress.layer:
            lines.append([record.getMessage() for record in caplog.records])

    surveyed([shard], tol=1e-8, k=2, report=report)
    assert lines
    assert "tol=1e-08 is below the rounding of float32" in lines[0][0]
    assert lines[0] == lines[-1]  # once
    caplog.clear()
    surveyed([shard], tol=1e-8, k=2)  # nothing is left to do
    surveyed([shard], tol=1e-6, k=2, out="another")
    assert not caplog.records


def test_a_run_shows_a_line_for_each_task_unless_told_not_to(surveyed, shard, capsys):
    surveyed([shard], "shown", report=True)
    assert "photo 4/4" in capsys.readouterr().err
    surveyed([shard], "silent", report=False)
    assert capsys.readouterr().err == ""
