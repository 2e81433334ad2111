import pytest
import torch
from svd_problems import Diagonal, spectrum

from jvpsvd import svds
from jvpsvd.svd import Progress

METHODS = ("golub-kahan", "exact")


@pytest.mark.parametrize("method", METHODS)
def test_a_function_sees_every_look(method):
    looks = []
    A = Diagonal(spectrum("harmonic", 300))
    result = svds(A, 20, tol=1e-8, method=method, progress=looks.append)
    assert len(looks) > 1
    assert all(isinstance(look, Progress) for look in looks)
    assert {look.wanted for look in looks} == {20}
    assert looks[-1].converged == 20
    assert looks[-1].worst <= 1e-8
    spent = [look.products.total for look in looks]
    assert spent == sorted(spent)
    assert spent[-1] <= result.products.total
    assert all(0 <= look.converged <= 20 for look in looks)


def test_early_looks_are_not_yet_converged():
    looks = []
    svds(Diagonal(spectrum("line", 300)), 20, method="golub-kahan", progress=looks.append)
    assert looks[0].converged < 20
    assert looks[0].worst > 1e-5


@pytest.mark.parametrize("method", METHODS)
def test_the_bar_goes_to_stderr(method, capsys):
    svds(Diagonal(spectrum("harmonic", 60)), 5, method=method, progress=True)
    shown = capsys.readouterr()
    assert "triplets" in shown.err
    assert "5/5" in shown.err
    assert shown.out == ""


def test_silence_is_the_default(capsys):
    svds(Diagonal(spectrum("harmonic", 60)), 5)
    assert capsys.readouterr() == ("", "")


def test_an_error_of_the_function_reaches_the_caller():
    def stop(look):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        svds(torch.eye(30), 3, progress=stop)


def test_watching_changes_nothing():
    A = Diagonal(spectrum("harmonic", 100))
    watched = svds(A, 5, method="golub-kahan", progress=lambda look: None)
    assert torch.equal(watched.s, svds(A, 5, method="golub-kahan").s)


@pytest.mark.parametrize("method", ["golub-kahan", "exact", "randomized"])
def test_the_time_left_is_told_and_runs_out(method):
    looks = []
    A = Diagonal(spectrum("harmonic", 300))
    options = {"on_unconverged": "ignore"} if method == "randomized" else {}
    svds(A, 20, tol=1e-8, method=method, progress=looks.append, **options)
    told = [look.seconds_left for look in looks if look.seconds_left is not None]
    assert told
    assert all(left >= 0 for left in told)
    assert told[-1] <= told[0]
