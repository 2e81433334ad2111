"""Public names of before give the new ones, with a warning that says what to write."""

import pytest

from jvpsvd import report, survey

RENAMED = [
    (survey, "Look", "RunProgress"),
    (survey, "Verdict", "Verification"),
    (survey, "Watch", "ReportProgress"),
    (survey, "on_stderr", "show_progress"),
    (survey, "unwatched", "ignore_progress"),
    (report, "Gathered", "RunValues"),
    (report, "gather", "read_values"),
]


@pytest.mark.parametrize(("module", "before", "now"), RENAMED)
def test_a_name_of_before_still_works(module, before, now):
    with pytest.warns(DeprecationWarning, match=f"{before} is now {module.__name__}.{now}"):
        found = getattr(module, before)
    assert found is getattr(module, now)


@pytest.mark.parametrize("module", [survey, report])
def test_any_other_name_is_an_attribute_error(module):
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        module.nothing  # noqa: B018
