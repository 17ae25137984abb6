"""The methods, by name; ``method`` says what one is. Another is one file: see load_method."""

from __future__ import annotations

import difflib
import importlib.util
from pathlib import Path

from schemas.errors import UserError
from trainer.methods.arf import ARF, ARF_ITP, ARF_TC
from trainer.methods.classifier import FT, FT_RANDOM, LP_FT
from trainer.methods.flyp import FLYP
from trainer.methods.method import Method

ZERO_SHOT = Method("zero-shot", "no training: the model as it is", phases=())
METHODS = {
    method.name: method for method in (ZERO_SHOT, FT, FT_RANDOM, LP_FT, FLYP, ARF, ARF_TC, ARF_ITP)
}


def load_method(spec: str) -> Method:
    """A method by its name, or from a Python file of the user's that defines ``METHOD``.

    The file is run, so it must be one that the user trusts like any program.

    Args:
        spec: one of METHODS, or a path that ends in ``.py``.

    Raises:
        UserError: no such method, or a file without one.
    """
    if not spec.endswith(".py"):
        if spec in METHODS:
            return METHODS[spec]
        close = difflib.get_close_matches(spec, METHODS, n=1)
        hint = f"did you mean {close[0]!r}? " if close else ""
        raise UserError(
            f"--method {spec!r} is not known; {hint}There are {', '.join(METHODS)}, or a .py file."
        )
    path = Path(spec)
    if not path.is_file():
        raise UserError(f"--method {spec!r} is not there; check the path.")
    about = importlib.util.spec_from_file_location(f"anchorft_method_{path.stem}", path)
    assert about is not None
    assert about.loader is not None
    module = importlib.util.module_from_spec(about)
    about.loader.exec_module(module)
    method = getattr(module, "METHOD", None)
    if not isinstance(method, Method):
        raise UserError(f"{spec!r} defines no METHOD of trainer.methods.method.Method.")
    return method
