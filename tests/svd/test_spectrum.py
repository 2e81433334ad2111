import numpy as np
import pytest
import torch
from support.thinned import thinned
from torch import nn

from jvpsvd import JacobianOperator, aslinearoperator, spectral_density, svds
from jvpsvd.errors import ArgumentError

P = 400


def spectra(p=P, seed=0):
    generator = torch.Generator().manual_seed(seed)
    i = torch.arange(1, p + 1, dtype=torch.float64)
    u = torch.rand(p, generator=generator, dtype=torch.float64)
    return {
        "flat": torch.full_like(i, 1.3),
        "bulk": torch.cat([10 + 40 * u[:20], 2 * u[20:]]),
        "power": 20 / i,
        "exponential": 30 * torch.exp(-8 * i / p),
        "deficient": torch.where(i <= p // 3, 1 + 3 * u, 0.0),
        "repeated": 0.2 + (12 * u).floor() / 3,
        "line": 3 * u,
    }


def numbers(values):
    share = values**2 / (values**2).sum()
    entropy = float(-torch.xlogy(share, share).sum())
    return {
        "count": float((values >= 0.7).sum()),
        "participation": float(1 / (share**2).sum()),
        "entropy": entropy,
        "effective rank": float(np.exp(entropy)),
        "nuclear": float(values.sum()),
        "schatten 3": float((values**3).sum() ** (1 / 3)),
    }


def estimates(spectrum):
    return {
        "count": spectrum.count(0.7),
        "participation": spectrum.participation_ratio(),
        "entropy": spectrum.entropy(),
        "effective rank": spectrum.effective_rank(),
        "nuclear": spectrum.schatten(1),
        "schatten 3": spectrum.schatten(3),
    }


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", spectra())
def test_all_values_known_is_exact(kind, dtype):
    values = spectra(60)[kind].to(dtype)
    spectrum = svds(torch.diag(values), 5, method="exact").spectrum
    for name, truth in numbers(values.double()).items():
        found = estimates(spectrum)[name]
        assert found.standard_error == 0
        assert found.low - 1e-9 * truth <= truth <= found.high + 1e-9 * truth, name
        assert found.high - found.low <= 1e-3 * truth + 1e-9 or kind == "repeated"
    assert "all 60 values are known" in str(spectrum.count(0.7))


OPTIONS = {
    "default": {},
    "values only": {"vectors": False},
    "restarts": {"memory": "5MiB"},
    "wide": {"block_size": 16},
    "randomized": {"method": "randomized"},
    "subspace": {"method": "randomized", "memory": "3MiB"},
}


@thinned("kind, how, dtype", list(spectra()), list(OPTIONS), [torch.float32, torch.float64], keep=2)
def test_intervals_hold_the_truth(kind, how, dtype):
    values = spectra()[kind].to(dtype)
    options = {"method": "golub-kahan", "k": 20, "seed": 3} | OPTIONS[how]
    result = svds(torch.diag(values), on_unconverged="ignore", **options)
    every = estimates(result.spectrum)
    for name, truth in numbers(values.double()).items():
        low, high = every[name].interval(0.9999)
        assert low - 1e-5 * truth <= truth <= high + 1e-5 * truth, name


@pytest.mark.parametrize("kind", ["line", "power", "exponential"])
def test_standard_errors_are_those_of_other_starts(kind):
    values = spectra(300)[kind]
    off = {name: [] for name in ("participation", "entropy", "nuclear")}
    for seed in range(60):
        spectrum = svds(torch.diag(values), 5, method="golub-kahan", seed=seed, tol=1e-3).spectrum
        every, exact = estimates(spectrum), numbers(values)
        for name in off:
            found, truth = every[name], exact[name]
            middle = np.clip(truth, found.low, found.high)  # what the bounds leave open
            off[name].append((truth - middle) / found.standard_error)
    for name, each in off.items():
        assert np.sqrt(np.mean(np.square(each))) < 1.3, name
    assert np.sqrt(np.mean(np.square(off["participation"]))) > 0.7  # both rules give it exactly


def test_converged_ritz_values_beyond_k_are_known():
    values = torch.cat([torch.linspace(40, 10, 20), torch.rand(380)]).double()
    result = svds(torch.diag(values), 10, method="golub-kahan")
    spectrum = result.spectrum
    assert len(spectrum.values) >= 20
    assert str(spectrum.count(5.0)).startswith("20:")


def test_copies_of_a_value_are_not_taken_for_all_copies():
    values = torch.cat([torch.full((100,), 2.0), torch.full((300,), 0.5)]).double()
    spectrum = svds(torch.diag(values), 5, method="golub-kahan", block_size=8).spectrum
    low, high = spectrum.count(1.0).interval(0.9999)
    assert low <= 100 <= high
    assert high - low < 150


@pytest.mark.parametrize("method", ["golub-kahan", "randomized"])
def test_thresholds_below_rounding_have_bounds(method):
    values = torch.linspace(0, 2, 200) ** 7
    J = torch.diag(values)
    spectrum = svds(J, 12, method=method, on_unconverged="ignore").spectrum
    tiny = 128 * torch.finfo(torch.float32).eps
    found = spectrum.counts([0.0, 1e-30, 0.1 * tiny, tiny, 7.9 * tiny, 8.1 * tiny, 100 * tiny])
    assert (np.diff([found.value, found.low, found.high]) <= 1e-3).all()
    assert (found.low <= found.value).all()
    assert (found.value <= found.high).all()
    assert (found.high[:5] == 200).all()  # nothing is known to be that small


def test_zeros_are_not_counted():
    values = torch.zeros(500, dtype=torch.float64)
    values[:30] = torch.linspace(3, 2, 30)
    spectrum = svds(torch.diag(values), 10, method="golub-kahan").spectrum
    for threshold in (1e-6, 0.1, 1.0):
        found = spectrum.count(threshold)
        assert (found.value, found.low, found.high) == pytest.approx((30, 30, 30), abs=1e-2)


def with_copies():
    """Values many of which equal the threshold 1, exactly or up to rounding."""
    torch.manual_seed(0)
    some = torch.linspace(0.2, 3.0, 100, dtype=torch.float64)
    ones = torch.ones(P, dtype=torch.float64)
    return {
        "identity": ones,
        "projection": torch.cat([ones, torch.zeros(P).double()]),
        "three values": torch.cat([2 * ones, ones, ones / 2]),
        "among others": torch.cat([ones, some]),
        "scattered by rounding": 1 + 1e-15 * (torch.rand(P).double() - 0.5),
        "a little above": ones * (1 + 1e-6),
    }


@pytest.mark.parametrize("method", ["golub-kahan", "randomized", "density", "exact"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", with_copies())
def test_values_that_equal_the_threshold_are_counted(kind, dtype, method):
    values = with_copies()[kind]
    A = torch.diag(values).to(dtype)
    if method == "density":
        spectrum = spectral_density(aslinearoperator(A), probes=16)
    else:
        spectrum = svds(A, 20, method=method, on_unconverged="ignore").spectrum
    truth = int((values >= 1 - 1e-6).sum())
    found = spectrum.count(1.0)
    sampling = 4 * found.standard_error + 1
    if kind != "among others":  # so many others that steps do not tell them apart
        assert abs(found.value - truth) <= sampling
    assert found.low <= truth <= found.high + sampling
    below, above = spectrum.count(0.999), spectrum.count(1.001)
    assert abs(below.value - truth) <= sampling + (below.high - below.low)
    fewer = int((values >= 1.001).sum())
    assert abs(above.value - fewer) <= 4 * above.standard_error + 1 + (above.high - above.low)


@pytest.mark.parametrize("network", ["pooling", "ReLU", "flatten", "a pad", "residual"])
def test_layers_whose_values_are_one_pass_all_of_their_directions(network):
    torch.manual_seed(0)
    x = torch.randn(1, 1, 48, 48)
    layer, truth = {
        "pooling": (nn.MaxPool2d(2), 576),
        "ReLU": (nn.ReLU(), int((x > 0).sum())),
        "flatten": (nn.Flatten(), 2304),
        "a pad": (nn.ZeroPad2d(3), 2304),
        "residual": (lambda z: z + z[..., :1, :] * 0.5, 2304 - 48),
    }[network]
    found = svds(JacobianOperator(layer, x), 10, method="golub-kahan", tol=1e-5).spectrum.count(1)
    sampling = 4 * found.standard_error + 1
    assert abs(found.value - truth) <= sampling + 0.01 * truth
    assert found.low <= truth <= found.high + sampling


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("width", "tol"), [(1e-4, 1e-5), (1e-4, 1e-3), (1e-5, 1e-5)])
def test_values_within_the_errors_of_others_are_not_taken_for_all_of_them(width, tol, seed):
    """A cluster of which a solve has found some values, each to its tolerance."""
    generator = torch.Generator().manual_seed(seed)
    values = 1 + width * torch.randn(229, generator=generator, dtype=torch.float64)
    spectrum = svds(torch.diag(values), 23, tol=tol, method="golub-kahan", seed=seed).spectrum
    found = spectrum.count(1.0)
    truth = int((values >= 1).sum())
    assert found.low - 5 * found.standard_error <= truth <= found.high + 5 * found.standard_error


def test_an_exhausted_space_leaves_nothing_open():
    values = torch.rand(40, generator=torch.Generator().manual_seed(1)).double()
    spectrum = svds(torch.diag(values), 30, method="golub-kahan").spectrum
    assert spectrum.count(0.5).value == int((values >= 0.5).sum())
    assert spectrum.log_volume().value == pytest.approx(float(values.log().sum()), rel=1e-6)


def test_wide_operators_have_the_spectrum_of_their_transpose():
    A = torch.randn(50, 300, generator=torch.Generator().manual_seed(0)).double()
    wide, tall = (svds(B, 10, method="golub-kahan").spectrum for B in (A, A.T))
    assert wide.size == tall.size == 50
    truth = torch.linalg.svdvals(A)
    threshold = float(truth[30:32].mean())
    for spectrum in (wide, tall):
        low, high = spectrum.count(threshold).interval(0.9999)
        assert low <= 31 <= high


def test_a_given_start_is_no_sample():
    A = torch.diag(torch.linspace(1, 3, 200)).double()
    first = svds(A, 5, method="golub-kahan")
    spectrum = svds(A, 5, method="golub-kahan", start=first).spectrum
    found = spectrum.count(1.5)
    assert (found.low, found.high) == (5, 200)
    assert "between 5 and 200" in str(found)
    assert "the start was given" in str(found)
    assert spectrum.count(2.999).low == 1
    for one, most in ((spectrum.participation_ratio(), 200), (spectrum.effective_rank(), 200)):
        assert 1 <= one.low <= one.value <= one.high <= most + 1e-9
    assert 0 <= spectrum.entropy().value <= np.log(200)


@pytest.mark.parametrize("known", [1, 5, 60])
@pytest.mark.parametrize("kind", spectra())
def test_without_a_sample_bounds_hold_whatever_the_other_values_are(kind, known):
    values = spectra(80)[kind]
    first = svds(torch.diag(values), known, method="golub-kahan")
    spectrum = svds(
        torch.diag(values), known, method="golub-kahan", start=first, on_unconverged="ignore"
    ).spectrum
    for name, truth in numbers(values).items():
        found = estimates(spectrum)[name]
        assert found.low - 1e-4 * truth <= truth <= found.high + 1e-4 * truth, name


@pytest.mark.parametrize("kind", spectra())
def test_every_value_is_at_least_zero(kind):
    result = svds(torch.diag(spectra()[kind]), 10, method="golub-kahan")
    found = result.spectrum.count(0.0)
    assert (found.value, found.low, found.high) == (P, P, P)


def test_the_log_volume_of_a_sample_is_bounded_from_above_alone():
    values = spectra()["line"]
    found = svds(torch.diag(values), 10, method="golub-kahan").spectrum.log_volume()
    assert found.low == -np.inf
    assert found.interval(0.9999)[1] >= float(values.log().sum())
    zeros = svds(torch.diag(spectra()["deficient"]), 10, method="golub-kahan").spectrum
    assert zeros.log_volume().low == -np.inf
    assert str(zeros.log_volume()).startswith(("at most", "unknown"))


def test_batches_have_a_spectrum_each():
    values = torch.rand(4, 80, generator=torch.Generator().manual_seed(2)).double() * 2
    result = svds(torch.diag_embed(values), 10, method="golub-kahan")
    for i in range(4):
        low, high = result.of(i).spectrum.count(1.0).interval(0.9999)
        assert low <= int((values[i] >= 1).sum()) <= high
    with pytest.raises(ArgumentError, match=r"result\.of\(i\)"):
        _ = result.spectrum


def test_matrices_of_a_batch_that_end_at_other_times_keep_their_own_sample():
    i = torch.arange(1, 201, dtype=torch.float64)
    values = torch.stack([3 * 0.8**i, 3 - i / 80, 3 / i, torch.where(i <= 30, 2.0, 0.01 / i)])
    result = svds(torch.diag_embed(values), 6, method="golub-kahan", seed=2)
    for i, truth in enumerate(values):
        spectrum = result.of(i).spectrum
        assert float(spectrum.values[0]) == pytest.approx(float(truth[0]), rel=1e-4)
        for name, number in numbers(truth).items():
            low, high = estimates(spectrum)[name].interval(0.9999)
            assert low - 1e-4 * number <= number <= high + 1e-4 * number, (i, name)


def test_it_costs_no_product():
    A = aslinearoperator(torch.diag(torch.linspace(0, 3, 300)))
    result = svds(A, 10, method="golub-kahan")
    before = A.products
    result.spectrum.count(1.0)
    result.spectrum.entropy()
    assert A.products == before == result.products


def test_curves_agree_with_counts():
    spectrum = svds(torch.diag(spectra()["line"]), 20, method="golub-kahan").spectrum
    grid = np.linspace(0.1, 3.2, 12)
    counts, cdf, density = spectrum.counts(grid), spectrum.cdf(grid), spectrum.density(grid)
    for i, threshold in enumerate(grid):
        assert counts[i].value == pytest.approx(spectrum.count(threshold).value, abs=1e-6)
    np.testing.assert_allclose(cdf.value, 1 - counts.value / P)
    assert (cdf.low <= cdf.value).all()
    assert (cdf.value <= cdf.high).all()
    np.testing.assert_allclose(
        (density.value * np.diff(grid)).sum(), counts.value[0] - counts.value[-1]
    )
    assert (np.diff(counts.value) <= 1e-6).all()
    assert (density.low <= density.value + 1e-9).all()


@pytest.mark.parametrize("method", ["exact", "golub-kahan"])
def test_quantiles_invert_the_cdf(method):
    values = spectra()["line"]
    spectrum = svds(torch.diag(values), 20, method=method).spectrum
    for q in (0.2, 0.5, 0.9):
        found = spectrum.quantile(q)
        truth = float(torch.quantile(values, q))
        low, high = found.interval(0.999)
        assert low - 0.02 <= truth <= high + 0.02
        assert found.low <= found.value <= found.high


@pytest.mark.parametrize("grid", [[], [1.0, 1.0], [2.0, 1.0], [-1.0, 1.0], [np.nan], [[1.0]], "x"])
def test_grids_that_do_not_ascend_are_refused(grid):
    spectrum = svds(torch.eye(3), 1).spectrum
    for ask in (spectrum.counts, spectrum.cdf, spectrum.density):
        with pytest.raises(ArgumentError):
            ask(grid)


@pytest.mark.parametrize("threshold", [True, "1", None, -1.0, np.nan, np.inf])
def test_thresholds_that_are_no_numbers_are_refused(threshold):
    with pytest.raises(ArgumentError, match="threshold"):
        svds(torch.eye(3), 1).spectrum.count(threshold)


def test_an_operator_of_zeros_has_no_dimension():
    spectrum = svds(torch.zeros(5, 4), 2).spectrum
    assert spectrum.count(1.0).value == 0
    assert np.isnan(spectrum.participation_ratio().value)
    assert np.isnan(spectrum.entropy().value)


def test_a_plot_reaches_to_the_full_rank():
    pytest.importorskip("matplotlib").use("Agg")
    spectrum = svds(torch.diag(spectra()["power"]), 20, method="golub-kahan").spectrum
    ax = spectrum.plot(label="power")
    assert ax.get_xlim()[1] >= P
    assert len(ax.lines[0].get_xdata()) == len(spectrum.values)
    assert len(ax.collections) == 2
    import matplotlib.pyplot as plt

    plt.close(ax.figure)


@pytest.mark.parametrize("method", ["exact", "golub-kahan"])
def test_all_values_are_at_least_0(method):
    spectrum = svds(torch.randn(60, 40), 5, method=method).spectrum
    assert str(spectrum.count(0)) == "40: no singular value is negative"
    at_0 = spectrum.counts([0.0, 1.0])[0]
    assert (at_0.value, at_0.low, at_0.high, at_0.standard_error) == (40, 40, 40, 0)
