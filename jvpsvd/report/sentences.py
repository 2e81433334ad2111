"""What the page says in sentences: what was found, how far it holds, how to repeat and cite it."""

from __future__ import annotations

import math
import shlex
from pathlib import Path

import numpy as np

from jvpsvd.arguments import shown
from jvpsvd.data.demo import DEMO_SHARD
from jvpsvd.report.analysis import Analysis
from jvpsvd.report.estimates import in_words
from jvpsvd.report.health import Health
from jvpsvd.report.typed_options import commands_of, seeds_of_random_weights, values_of_option
from jvpsvd.report.values import RunValues
from jvpsvd.survey.spec.identity import Identity
from jvpsvd.survey.store.class_distances import ClassComparison
from jvpsvd.survey.store.notes import read_notes
from jvpsvd.survey.store.record import RECORD
from jvpsvd.text_table import at_most, count_noun

_PAPER = """@article{mototake_ikegami,
  title  = {The Analysis of Deep Neural Networks},
  author = {Mototake, Y. and Ikegami, T.},
  note   = {In Japanese; Graduate School of Arts and Sciences, The University of Tokyo},
}"""
_ILSVRC = """@article{russakovsky2015imagenet,
  title   = {{ImageNet} Large Scale Visual Recognition Challenge},
  author  = {Russakovsky, Olga and Deng, Jia and Su, Hao and Krause, Jonathan and others},
  journal = {International Journal of Computer Vision},
  volume  = {115}, pages = {211--252}, year = {2015},
}"""
_FOOLBOX = """@misc{foolbox,
  title = {Foolbox, whose 20 ImageNet photos are used},
  howpublished = {PyPI foolbox, MIT licence},
}"""


def noun_of(run: RunValues) -> str:
    """Return what the rows of a run are of: photos, texts or other inputs."""
    return f"{run.store.identity.sample_word}s"


def lead(run: RunValues) -> str:
    """Return what was computed, in a sentence."""
    identity, k = run.store.identity, run.store.identity.k
    fewer = "" if run.common_k == k else ", or all of one that has fewer"
    values = "The largest singular value" if k == 1 else f"The top {k} singular triplets"
    return (
        f"{values} of the Jacobian at {count_noun(len(run.depths), 'depth')} for "
        f"{count_noun(len(run.samples), identity.sample_word)}{fewer}, "
        f"to a residual of {identity.tol:g} σ₁."
    )


def finding(analysis: Analysis) -> str:
    """Return what the last depth with values says, in a sentence; empty if none has any."""
    depth = analysis.depths[analysis.deepest]
    values, noun = depth.values, noun_of(analysis.run)[:-1]
    if not len(values.photo):
        return ""
    count = in_words(depth.estimates.mean("count"), at_least=depth.estimates.bounds("count"))
    return (
        f"At {values.layer}, a small change of the {noun} is stretched by at most σ₁ = "
        f"{values.s[:, 0].mean():.4g}; {count} of {values.size} directions reach "
        f"σ ≥ {analysis.threshold:g}. Means over {count_noun(len(values.photo), noun)}."
    )


def trust(run: RunValues) -> str:
    """Return how far values hold: worst residual, and how well the Jacobians are defined."""
    worst = max((float(np.fmax.reduce(d.relative, initial=-1)) for d in run.depths), default=-1)
    moved = [d.defined_to[np.isfinite(d.defined_to)] for d in run.depths]
    known = np.concatenate(moved) if moved else np.zeros(0)
    said = f"Residuals are at most {at_most(worst)} σ₁" if worst >= 0 else ""
    if len(known) and said:
        one, most = run.store.identity.sample_word, float(known.max())
        moves = f"alone moves J by up to {at_most(most)} σ₁" if most else "did not move J"
        said += f"; rounding of the {one} {moves}"
    return f"{said}." if said else ""


def summarize_health(health: Health) -> str:
    """Return the counts of a run in a sentence."""
    are = "is" if health.certified == 1 else "are"
    parts = [f"{health.certified} of {count_noun(health.rows, 'row')} {are} certified in full"]
    if health.short:
        missed = f"{health.unconverged} of {count_noun(health.triplets, 'triplet')} not certified"
        have = "has" if health.short == 1 else "have"
        parts.append(f"{health.short} {have} values with {missed}")
    if health.failed:
        parts.append(f"{health.failed} failed, for the reasons below")
    missing = f"{health.missing} {'is' if health.missing == 1 else 'are'} missing"
    parts.append(missing if health.missing else "none is missing")
    if health.below_residual:
        values = count_noun(health.triplets, "value")
        own = "is below its" if health.below_residual == 1 else "are below their"
        parts.append(
            f"{health.below_residual} of {values} {own} own residual, which is all that is known "
            "of their size"
        )
    return "; ".join(parts) + "."


def meaning(compared: ClassComparison) -> str:
    """Return how far distances of classes by spectra are those of WordNet, at the last depth."""
    depth = compared.depths[-1]
    if depth.test is None:
        return f"At {depth.layer}, distances of classes do not vary."
    said = (
        f"At {depth.layer}, distances of {len(compared.wnids)} classes by spectra have the rank "
        f"correlation {depth.test.correlation:.3f} with WordNet's (p = {depth.test.p_value:.2g}"
    )
    if depth.interval is not None:
        said += f"; 95 % interval {depth.interval.low:.2f} to {depth.interval.high:.2f}"
    if not math.isnan(depth.shuffled[0]):
        mean, deviation = depth.shuffled
        said += f"; shuffled labels leave {mean:.2f} ± {deviation:.2f}"
    said += ")."
    if depth.nearest is not None:
        near = depth.nearest
        said += (
            f" {100 * near.precision:.0f} % of photos are nearest to their own class, by chance "
            f"{100 * near.chance:.0f} %."
        )
    return said


def command(run: RunValues) -> tuple[str, str]:
    """Return the command that makes a run again, and what the reader has to fill in."""
    identity, photos = run.store.identity, run.store.identity.photos
    words = ["jvpsvd", "run", "--model", identity.model]
    notes = []
    if identity.model.isidentifier():  # the class of a module; names of models have - or :
        notes.append(f"{identity.model} was given in Python: name a function that returns it")
    seeds = seeds_of_random_weights(run.store.folder)
    if len(seeds) == 1:
        words += ["--random-weights", *seeds]
    elif files := values_of_option(run.store.folder, "--weights"):
        words += ["--weights", "WEIGHTS"]
        named = " or ".join(sorted(shown(Path(file).name) for file in files))
        notes.append(f"WEIGHTS is {named}: SHA-256 of the weights {identity.weights_sha256[:12]}")
    elif not commands_of(run.store.folder):
        notes.append(
            f"SHA-256 of its weights is {identity.weights_sha256[:12]}; if yours differ, give "
            "--weights or --random-weights"
        )
    if identity.shards != (DEMO_SHARD,):
        words += ["--shards", "SHARDS"]
        notes.append(f"SHARDS is the folder of {', '.join(identity.shards[:3])}")
    if identity.start is not None:
        words += ["--since", identity.start]
    words += ["--layers", ",".join(identity.layers), "-k", str(identity.k)]
    words += ["--tol", str(identity.tol), "--seed", str(identity.seed)]
    words += ["--batch", str(identity.batch)]
    for name, value in (("per-class", photos.per_class), ("limit", photos.limit)):
        words += [f"--{name}", str(value)] if value is not None else []
    if photos.choice is not None:
        words += ["--choice", photos.choice]
    if photos.classes is not None:
        words += ["--classes", ",".join(photos.classes)]
    if identity.vectors or identity.small_vectors:
        words += ["--vectors", *([] if identity.vectors else [str(identity.small_vectors)])]
    words += ["--density"] if identity.density else []
    return shlex.join([*words, "--out", "RUN"]), "; ".join(notes)


def citations(run: RunValues) -> str:
    """Return the paper, the software and the data as BibTeX."""
    software = versions_of(run).get("jvpsvd", "unknown")
    entry = (
        "@software{jvpsvd,\n  title   = {jvpsvd: certified singular triplets of neural-network "
        "Jacobians},\n  author  = {{The jvpsvd developers}},\n"
        f"  version = {{{software}}},\n}}"
    )
    entries = [_PAPER, entry]
    if run.store.identity.shards == (DEMO_SHARD,):
        entries.append(_FOOLBOX)
    if run.store.identity.shards == (DEMO_SHARD,) or any(sample.wnid for sample in run.samples):
        entries.append(_ILSVRC)
    return "\n\n".join(entries)


def versions_of(run: RunValues) -> dict[str, str]:
    """Return the versions with which a run was begun."""
    versions = read_notes(run.store.folder / RECORD).get("versions")
    return versions if isinstance(versions, dict) else {}


def describe_run(run: RunValues) -> list[tuple[str, str]]:
    """Return what was computed, as names and values."""
    identity = run.store.identity
    record = read_notes(run.store.folder / RECORD)
    photos = identity.photos
    chosen = [
        f"{name.replace('_', ' ')} {value}"
        for name, value in (("per_class", photos.per_class), ("limit", photos.limit))
        if value is not None
    ]
    if photos.classes is not None:
        chosen.append(f"{count_noun(len(photos.classes), 'class', 'classes')} by name")
    listed = ", ".join(identity.shards[:5]) + (", …" if len(identity.shards) > 5 else "")
    kept = "not stored"
    if identity.small_vectors:
        kept = f"small copies of the first {identity.small_vectors} and the last"
    rows = [
        ("model", identity.model),
        ("weights, SHA-256", identity.weights_sha256),
        ("input", _describe_input(identity)),
        ("shards", f"{len(identity.shards)}: {listed}"),
        (f"{noun_of(run)} chosen", "; ".join(chosen) if chosen else "all"),
        ("k", str(identity.k)),
        ("tolerance", f"{identity.tol:g} σ₁"),
        ("seed", str(identity.seed)),
        ("random start", describe_starts(identity)),
        ("numbers", f"{identity.dtype}, numerics {identity.numerics}"),
        ("vectors", "stored" if identity.vectors else kept),
        ("begun", str(record.get("created", "unknown"))),
    ]
    versions = ", ".join(f"{name} {value}" for name, value in versions_of(run).items())
    return [*rows, ("versions", versions)] if versions else rows


def describe_starts(identity: Identity) -> str:
    """Return whether samples share the random start of their solves."""
    one = identity.sample_word
    return f"one for each {one}" if identity.own_starts else f"one for all {one}s"


def _describe_input(identity: Identity) -> str:
    if identity.start_shape is None:
        sizes = identity.photo_input
        return f"{sizes.size} × {sizes.size} pixels, {sizes.channels}"
    shape = " × ".join(map(str, identity.start_shape))
    kind, start = identity.inputs or "photos", identity.start or "the input"
    return f"{kind}, differentiated from {start}, {shape}"
