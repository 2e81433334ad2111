import pytest
import torch
from support.svd_problems import Diagonal, spectrum

from jvpsvd import spectral_density, svds
from jvpsvd.svd import Progress

METHODS = ("golub-kahan", "exact")


@pytest.mark.parametrize("method", METHODS)
def test_a_function_sees_every_check(method):
    checks = []
    A = Diagonal(spectrum("harmonic", 300))
    result = svds(A, 20, tol=1e-8, method=method, progress=checks.append)
    assert len(checks) > 1
    assert all(isinstance(check, Progress) for check in checks)
    assert {check.wanted for check in checks} == {20}
    assert checks[-1].converged == 20
    assert checks[-1].share == 1
    assert checks[-1].worst is None or checks[-1].worst <= 1e-8
    products = [check.products.total for check in checks]
    assert products == sorted(products)
    assert products[-1] <= result.products.total
    assert all(0 <= check.converged <= 20 for check in checks)


def test_early_checks_are_not_yet_converged():
    checks = []
    svds(Diagonal(spectrum("line", 300)), 20, method="golub-kahan", progress=checks.append)
    assert checks[0].converged < 20
    assert checks[0].worst > 1e-5


@pytest.mark.parametrize("method", METHODS)
def test_the_bar_goes_to_stderr(method, capsys):
    svds(Diagonal(spectrum("harmonic", 60)), 5, method=method, progress=True)
    shown = capsys.readouterr()
    assert "triplets" in shown.err
    assert "5/5" in shown.err
    assert shown.out == ""


def test_the_bar_of_a_density_counts_random_vectors(capsys):
    spectral_density(Diagonal(spectrum("harmonic", 60)), 4, 5, progress=True)
    shown = capsys.readouterr()
    assert "random vectors" in shown.err
    assert "4/4" in shown.err
    assert shown.out == ""


def test_silence_is_the_default(capsys):
    svds(Diagonal(spectrum("harmonic", 60)), 5)
    assert capsys.readouterr() == ("", "")


def test_an_error_of_the_function_reaches_the_caller():
    def stop(progress):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        svds(torch.eye(30), 3, progress=stop)


def test_showing_progress_changes_nothing():
    A = Diagonal(spectrum("harmonic", 100))
    shown = svds(A, 5, method="golub-kahan", progress=lambda progress: None)
    assert torch.equal(shown.s, svds(A, 5, method="golub-kahan").s)


@pytest.mark.parametrize("method", ["golub-kahan", "exact", "randomized"])
def test_the_time_left_is_predicted_and_runs_out(method):
    checks = []
    A = Diagonal(spectrum("harmonic", 300))
    options = {"on_unconverged": "ignore"} if method == "randomized" else {}
    svds(A, 20, tol=1e-8, method=method, progress=checks.append, **options)
    seconds = [check.seconds_left for check in checks if check.seconds_left is not None]
    assert seconds
    assert all(left >= 0 for left in seconds)
    assert seconds[-1] <= seconds[0]
