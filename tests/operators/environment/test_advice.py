"""What torch advises those who write operations does not reach those who take products."""

import subprocess
import sys

import pytest

# Torch advises once a process, so that each network has one: a fork, before any has computed.
RUN = """
import os, sys, warnings
warnings.simplefilter("always")
warnings.filterwarnings("ignore", message=".*fork")
warnings.simplefilter("ignore", ResourceWarning)  # of torch 2.6, when it ends
import torch
from torch import nn
from jvpsvd import JacobianOperator

JacobianOperator(torch.tanh, torch.ones(2), derivatives="trace")  # loads what records
for case in sys.argv[1:]:
    kind, dtype, way, tf32 = case.split()
    dtype = getattr(torch, dtype)
    if os.fork():
        if os.wait()[1]:
            sys.stderr.write(f"<- {case}")
        continue
    net = getattr(nn, kind)(3, 4, batch_first=True).to(dtype).eval()
    J = JacobianOperator(lambda x: net(x)[0], torch.randn(1, 5, 3, dtype=dtype), derivatives=way,
                         tf32=tf32 == "True")
    J @ torch.ones(15, 3, dtype=dtype), J.T @ torch.ones(20, 3, dtype=dtype)
    sys.stdout.write(f"{case}\\n")
    break
"""
CASES = ["LSTM float32 auto", "LSTM float64 auto", "LSTM float32 transforms", "GRU float32 auto"]


@pytest.mark.parametrize("tf32", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_nothing_is_said_of_operations_that_vmap_does_one_by_one(tf32):
    cases = [f"{case} {tf32}" for case in CASES]
    done = subprocess.run(
        [sys.executable, "-c", RUN, *cases], capture_output=True, text=True, check=True
    )
    assert done.stderr == ""
    assert done.stdout.splitlines() == cases
