"""Packages that jvpsvd uses where they are installed: those of its extras."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from jvpsvd.errors import MissingPackageError


def require(what: str, extra: str, *packages: str) -> None:
    """Check that packages are installed, without importing them.

    Args:
        what: What needs them, for the message.
        extra: The extra of jvpsvd that has them.
        packages: Names by which they are imported.

    Raises:
        MissingPackageError: If one is not installed.

    >>> require("plot()", "plot", "no_such_package")
    Traceback (most recent call last):
    jvpsvd.errors.MissingPackageError: plot() needs no_such_package; pip install 'jvpsvd[plot]'
    """
    for package in packages:
        if not is_installed(package):
            raise MissingPackageError(f"{what} needs {package}; pip install 'jvpsvd[{extra}]'")


@contextmanager
def importing(what: str, extra: str, *packages: str) -> Iterator[None]:
    """Import packages in the body, which are installed, and work.

    Raises:
        MissingPackageError: If one is not, or does not.

    >>> with importing("a test", "test", "pytest"):
    ...     raise ImportError("built for another NumPy")
    Traceback (most recent call last):
    jvpsvd.errors.MissingPackageError: a test cannot import pytest (built for another NumPy); ...
    """
    require(what, extra, *packages)
    try:
        yield
    except Exception as error:  # half an installation raises whatever it comes to
        reason = " ".join(str(error).split()) or type(error).__name__
        raise MissingPackageError(
            f"{what} cannot import {', '.join(packages)} ({reason}); "
            f"pip install --force-reinstall 'jvpsvd[{extra}]'"
        ) from error


def is_installed(package: str) -> bool:
    """Whether a package can be imported; it is not imported.

    >>> is_installed("torch"), is_installed("no_such_package.part")
    (True, False)
    """
    try:
        return importlib.util.find_spec(package) is not None
    except ModuleNotFoundError:  # the package that a dotted name begins with
        return False


def package_folder(what: str, extra: str, package: str) -> Path:
    """Return the folder of a package whose files are read, without importing it.

    Raises:
        MissingPackageError: If it is not installed.

    >>> (package_folder("the test", "test", "pytest") / "__init__.py").is_file()
    True
    """
    require(what, extra, package)
    spec = importlib.util.find_spec(package)
    folders = spec.submodule_search_locations if spec else None
    if not folders:
        raise MissingPackageError(f"{what} needs {package}; pip install 'jvpsvd[{extra}]'")
    return Path(folders[0])
