"""The versions of what computes, for `jvpsvd --version`."""

from __future__ import annotations

import importlib.util
import platform
import runpy
from pathlib import Path

from jvpsvd import __version__


def describe_versions() -> str:
    """Return the versions of jvpsvd, torch, NumPy, CUDA and Python; torch itself is not imported.

    >>> describe_versions().startswith(f"jvpsvd {__version__} (torch ")
    True
    """
    from importlib.metadata import version  # it takes 30 ms, which `--help` need not wait for

    package = importlib.util.find_spec("torch")
    folders = package.submodule_search_locations if package else None
    torch = runpy.run_path(str(Path(folders[0], "version.py"))) if folders else {}
    return (
        f"jvpsvd {__version__} (torch {torch.get('__version__', 'none')}, "
        f"numpy {version('numpy')}, CUDA {torch.get('cuda') or 'none'}, "
        f"Python {platform.python_version()})"
    )
