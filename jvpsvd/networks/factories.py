"""Networks that a function of the user's makes, named as package.module:factory."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from jvpsvd.arguments import nearest_name
from jvpsvd.errors import ModelError
from jvpsvd.networks.inputs import Inputs
from jvpsvd.networks.photo_input import PhotoInput
from jvpsvd.networks.published import first_of, import_module


def from_factory(spec: str, module_name: str, name: str) -> tuple[nn.Module, PhotoInput | Inputs]:
    """Return the network that a function makes, and what it takes.

    Args:
        spec: The specification, for messages.
        module_name: The module of the function, in the current folder or installed.
        name: The function, without arguments. It returns a module, or a pair of a module and a
            `PhotoInput` or `Inputs`.

    Raises:
        ModelError: If there is no such function, it takes arguments, fails, or returns something
            else.

    >>> from_factory("torch.nn:Flatten", "torch.nn", "Flatten")[0]
    Flatten(start_dim=1, end_dim=-1)
    >>> from_factory("torch.nn:Linear", "torch.nn", "Linear")
    Traceback (most recent call last):
    jvpsvd.errors.ModelError: 'torch.nn:Linear' takes arguments (in_features, out_features); ...
    """
    if "/" in module_name:
        stem = Path(module_name).stem
        raise ModelError(f"'{spec}' names a file; run in that folder, as {stem}:{name}")
    if module_name.startswith("."):
        raise ModelError(f"'{spec}' is relative; write the full name, package.module:factory")
    here = str(Path.cwd())
    if here not in sys.path:  # as `python -m` does, to find models in the user's folder
        sys.path.insert(0, here)
    factory = _find(spec, import_module(module_name, spec), name)
    asked = _arguments_asked(factory)
    if asked:
        raise ModelError(
            f"'{spec}' takes arguments ({', '.join(asked)}); name a function that takes none and "
            f"returns the network, def make(): return {name}(…)"
        )
    try:
        made = factory()
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # the user's own code, and what is written in Rust
        raise ModelError(f"'{spec}' failed with {first_of(error)}") from error
    pair = isinstance(made, tuple) and len(made) == 2
    module, taken = made if pair else (made, PhotoInput())
    if not isinstance(module, nn.Module) or not isinstance(taken, PhotoInput | Inputs):
        raise ModelError(
            f"'{spec}' returned {_describe(made)}; return a torch module, or a pair of a module "
            "and a jvpsvd.networks.PhotoInput, or Inputs for what is no photo"
        )
    return module, taken


def _find(spec: str, module: ModuleType, name: str) -> Callable[[], Any]:
    """Return the function of a name in a module."""
    wanted = "name a function that returns the network"
    try:
        found: Any = getattr(module, name, None)
    except Exception as error:  # a module may import on demand
        raise ModelError(f"'{spec}' does not import: {first_of(error)}; {wanted}") from error
    if isinstance(found, nn.Module):
        raise ModelError(
            f"'{spec}' is a network; {wanted} in evaluation mode, def make(): return {name}.eval()"
        )
    if isinstance(found, ModuleType):
        raise ModelError(f"'{spec}' is a module of Python; {wanted}, as {found.__name__}:make")
    if found is not None and not callable(found):
        raise ModelError(f"'{spec}' is {_describe(found)}, no function; {wanted}")
    if found is None:
        own = [each for each, value in vars(module).items() if callable(value) and each[:1] != "_"]
        similar = nearest_name(name, own)
        hint = wanted if similar is None else f"did you mean {module.__name__}:{similar}?"
        raise ModelError(f"'{spec}': module {module.__name__} has no function '{name}'; {hint}")
    function: Callable[[], Any] = found
    return function


def _arguments_asked(factory: Callable[..., Any]) -> list[str]:
    """Return the arguments that a function cannot be called without, if that is known."""
    try:
        taken = inspect.signature(factory, follow_wrapped=False).parameters.values()
    except (TypeError, ValueError):  # of C, without a signature
        return []
    optional = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    needed = (each for each in taken if each.default is each.empty and each.kind not in optional)
    return [each.name for each in needed]


def _describe(made: object) -> str:
    if isinstance(made, type):
        return f"the class {made.__name__}"
    if inspect.iscoroutine(made):
        made.close()  # or Python says that it was never awaited
    kind = type(made).__name__
    return "nothing" if made is None else f"{'an' if kind[0] in 'aeiouAEIOU' else 'a'} {kind}"
