import pytest

from jvpsvd.survey import PhotoSelection, Spec, run


@pytest.fixture
def surveyed(tiny, tmp_path):
    """A function that runs the tiny net over shards, photo by photo, and returns the outcome."""

    def survey(shards, out="run", model="tiny:net", report=False, **wanted):
        defaults = {"k": 10, "layers": ["2", "output"], "batch": 1, "choice": "first"}
        options = {**defaults, **wanted}
        names = ("classes", "per_class", "limit", "choice")
        photos = PhotoSelection(**{name: options.pop(name) for name in names if name in options})
        spec = Spec(shards=shards, model=model, out=tmp_path / out, photos=photos, **options)
        return run(spec, report)

    return survey
