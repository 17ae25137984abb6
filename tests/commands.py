"""The product's commands in this process, whose imports are done."""

from __future__ import annotations

import contextlib
import importlib
import io


def command(module: str, *words: object) -> str:
    """What ``python -m module WORDS`` prints; fails with it when the command does."""
    name = module if "." in module else f"{module}.__main__"
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        code = importlib.import_module(name).main([str(word) for word in words])
    assert code == 0, said.getvalue()
    return said.getvalue()
