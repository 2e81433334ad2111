"""After a recording that failed, torch and later recordings work as before."""

import subprocess
import sys
import textwrap

import numpy as np
import pytest
import torch
from torch import nn

from jvpsvd import JacobianOperator
from jvpsvd.errors import TraceError


class Square(torch.autograd.Function):
    """A custom function of the old kind, without setup_context."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**2

    @staticmethod
    def backward(ctx, cotangent):
        return 2 * ctx.saved_tensors[0] * cotangent


def caught(x):
    """Catch an error in a recording: its guard is freed within the transforms."""
    try:
        return x * torch.quantile(x, 0.3)
    except RuntimeError:
        return x * x.mean()


def with_generator(x):
    return x**2 * torch.rand(6, generator=torch.Generator().manual_seed(0))


UNRECORDABLE = {
    "quantile": lambda x: x * torch.quantile(x, 0.3),
    "quantiles": lambda x: torch.quantile(x, torch.tensor([0.2, 0.5])),
    "nanquantile": lambda x: x * torch.nanquantile(x, 0.3),
    "an error that is caught": caught,
    "tolist": lambda x: x * x.sin().tolist()[1],
    "item": lambda x: x * x[1].item(),
    "control flow": lambda x: x**2 if x.sum() > 0 else 3 * x,
    "numpy": lambda x: x * float(np.asarray(x.detach()).max()),
    "storage": lambda x: x * x.detach().untyped_storage().nbytes(),
    "a tensor of numbers": lambda x: x * torch.tensor([*x]),
    "a generator": with_generator,
    "a custom function": Square.apply,
    "no forward mode": lambda x: torch.unique(x),
    "unique in one row": lambda x: torch.unique(x, dim=0),
}


@pytest.mark.parametrize("name", UNRECORDABLE)
def test_torch_and_other_recordings_work_as_before(name):
    x = torch.linspace(0.1, 1.0, 6)
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 4)).eval()
    expected = torch.func.jacrev(net)(x).detach()
    with pytest.raises(TraceError):
        JacobianOperator(UNRECORDABLE[name], x, derivatives="trace")
    (_, tangent) = torch.func.jvp(torch.tanh, (x,), (torch.ones(6),))
    torch.testing.assert_close(tangent, 1 - torch.tanh(x) ** 2)
    hessian = torch.autograd.functional.hessian(lambda z: z.pow(3).sum(), x)
    torch.testing.assert_close(hessian, torch.diag(6 * x))
    J = JacobianOperator(net, x, derivatives="trace")
    torch.testing.assert_close(J.to_dense(), expected)


def test_the_locals_of_the_users_frames_are_kept_for_a_debugger():
    def fn(x):
        name = "kept"
        return (x * torch.quantile(x, 0.3), name)[0]

    with pytest.raises(TraceError) as caught:
        JacobianOperator(fn, torch.linspace(0.1, 1.0, 6), derivatives="trace")
    error: BaseException = caught.value
    while error.__cause__ is not None:
        error = error.__cause__
    frames, position = [], error.__traceback__
    while position is not None:
        frames.append(position.tb_frame)
        position = position.tb_next
    (own,) = [frame for frame in frames if frame.f_code is fn.__code__]
    assert own.f_locals["name"] == "kept"


READS = {
    "tolist": "y.tolist()",
    "detach": "y.detach().tolist()",
    "data": "y.data.tolist()",
    "another dtype": "y.view(torch.int32).tolist()",
    "indices": "y.argsort()[2:].tolist()",
    "a matrix": "y.reshape(2, 3)[1:].tolist()",
    "numpy": "y.numpy(force=True)",
    "array": "numpy.asarray(y.detach())",
    "dlpack": "torch.from_dlpack(y.detach()) + 1",
    "data_ptr": "ctypes.c_float.from_address(y.data_ptr()).value",
    "storage": "list(y.untyped_storage())",
    "tensor": "torch.tensor([*y])",
    "item": "y[1].item()",
}


def test_what_reads_the_memory_of_a_view_is_refused_without_a_crash():
    script = f"""
        import ctypes, numpy, torch, jvpsvd

        for name, read in {READS}.items():
            def fn(x):
                y = x[1]
                eval(read)
                return x * y.sum()

            try:
                jvpsvd.JacobianOperator(fn, torch.ones(3, 6), derivatives="trace")
            except jvpsvd.errors.TraceError as error:
                print(name, error, sep=": ", flush=True)
    """
    command = [sys.executable, "-c", textwrap.dedent(script)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, (done.stdout, done.stderr)
    for name, line in zip(READS, done.stdout.splitlines(), strict=True):
        assert line.startswith(f"{name}: cannot record the function: it "), line


def test_numbers_of_a_view_that_does_not_depend_on_the_point_are_read():
    def fn(x):
        return x * sum(torch.ones(4).cumsum(0)[1:].tolist())

    J = JacobianOperator(fn, torch.ones(2), derivatives="trace")
    torch.testing.assert_close(J.to_dense(), 9 * torch.eye(2))


def test_auto_takes_transforms_where_a_list_is_made_of_a_view():
    def fn(x):
        return torch.stack([x[0] * v for v in x[1].tolist()])

    torch.manual_seed(0)
    x = torch.randn(3, 40)
    J = JacobianOperator(fn, x, derivatives="auto")
    expected = torch.func.jacrev(fn)(x).reshape(J.shape)
    torch.testing.assert_close(J @ torch.eye(120), expected)
