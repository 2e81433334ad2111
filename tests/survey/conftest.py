import pytest

from jvpsvd.networks import load_model
from jvpsvd.survey import run, specify


@pytest.fixture
def surveyed(tiny, tmp_path):
    """A function that runs the tiny net over shards and returns the outcome."""

    def survey(shards, out="run", spec="tiny:net", share=(0, 1), watch=None, **wanted):
        model = load_model(spec)
        made, depths = specify(model, shards, **{"k": 10, "layers": ["2", "output"], **wanted})
        watching = {} if watch is None else {"watch": watch}
        return run(made, depths, model, shards, tmp_path / out, share=share, **watching)

    return survey
