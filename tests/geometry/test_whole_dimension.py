import pytest
import torch

from jvpsvd import svds
from jvpsvd.errors import ArgumentError
from jvpsvd.geometry import dimensions, whole_dimensions


def test_all_values_known_gives_what_dimensions_gives():
    values = torch.linspace(3, 0.1, 30).double()
    whole = whole_dimensions(svds(torch.diag(values), 5, method="exact"))
    from_values = dimensions(values)
    assert whole.count.value == int(from_values.count)
    assert whole.participation.value == pytest.approx(float(from_values.participation))
    assert whole.entropy.value == pytest.approx(float(from_values.entropy))
    assert whole.stable_rank.value == pytest.approx(float(from_values.stable_rank))
    assert whole.gap.value == int(from_values.gap)
    assert whole.gap_ratio == pytest.approx(float(from_values.gap_ratio))


def test_values_beyond_k_count():
    values = torch.cat([torch.linspace(30, 20, 10), torch.linspace(2, 0, 390)]).double()
    result = svds(torch.diag(values), 20, method="golub-kahan", seed=1)
    assert int(dimensions(result).count) == 20  # cut at k
    whole = whole_dimensions(result.spectrum)
    truth = dimensions(values)
    for name in ("count", "participation", "entropy", "stable_rank"):
        low, high = getattr(whole, name).interval(0.9999)
        assert low <= float(getattr(truth, name)) <= high
    assert whole.gap.value == 10
    assert "count: 2" in str(whole)


@pytest.mark.parametrize("wrong", [[3.0, 1.0], None, torch.ones(3)])
def test_lists_of_values_are_refused(wrong):
    with pytest.raises(ArgumentError, match="result of svds or its spectrum"):
        whole_dimensions(wrong)


def test_zeros_have_no_dimension():
    with pytest.raises(ArgumentError, match="no dimension"):
        whole_dimensions(svds(torch.zeros(4, 3), 1))


def test_a_batch_is_refused():
    with pytest.raises(ArgumentError, match=r"result\.of\(i\)"):
        whole_dimensions(svds(torch.eye(3).expand(2, 3, 3), 1))
