"""What torch advises those who write operations does not reach those who take products."""

import subprocess
import sys

import pytest

RUN = """
import warnings
warnings.simplefilter("always")
warnings.simplefilter("ignore", ResourceWarning)  # of torch 2.6, when it ends
import torch
from torch import nn
from jvpsvd import JacobianOperator
net = getattr(nn, "{kind}")(3, 4, batch_first=True).to(torch.{dtype}).eval()
J = JacobianOperator(lambda x: net(x)[0], torch.randn(1, 5, 3, dtype=torch.{dtype}), tf32={tf32},
                     derivatives="{way}")
J @ torch.ones(15, 3, dtype=torch.{dtype}), J.T @ torch.ones(20, 3, dtype=torch.{dtype})
"""


@pytest.mark.parametrize("tf32", [False, pytest.param(True, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    ("kind", "dtype", "way"),
    [
        ("LSTM", "float32", "auto"),
        ("LSTM", "float64", "auto"),
        ("LSTM", "float32", "transforms"),
        ("GRU", "float32", "auto"),
    ],
)
def test_nothing_is_said_of_operations_that_vmap_does_one_by_one(kind, dtype, way, tf32):
    code = RUN.format(kind=kind, dtype=dtype, way=way, tf32=tf32)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr == ""
