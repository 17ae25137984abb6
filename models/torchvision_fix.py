"""Make torchvision importable where its compiled operators cannot load.

torchvision's wheels on PyPI are linked against CUDA. Beside a CPU build of torch the library
does not load, and ``import torchvision`` (hence ``import open_clip``) dies while it registers
fake kernels for operators that nobody declared. Declaring those operators is enough for
everything used here (transforms and image folders); calling them still fails, as it should.
"""

from __future__ import annotations

import functools
import importlib.util
from pathlib import Path

import torch

# The operators for which torchvision registers fake kernels at import time, with its own schemas.
_EAGER_OPERATORS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)
_libraries: list[torch.library.Library] = []  # A Library's declarations live as long as it does.


@functools.cache
def ensure_torchvision() -> bool:
    """Declare torchvision's eager operators if its compiled library does not load.

    Call it before the first import of torchvision or open_clip; later calls do nothing. Where
    torchvision is sound (or absent) it changes nothing.

    Returns:
        True if the compiled operators are available, False if they were only declared.
    """
    spec = importlib.util.find_spec("torchvision")
    if spec is None or spec.origin is None:
        return False
    for library in sorted(Path(spec.origin).parent.glob("_C*.so")):
        try:
            torch.ops.load_library(str(library))
        except OSError:
            continue
        return True
    namespace = torch.library.Library("torchvision", "FRAGMENT")
    for schema in _EAGER_OPERATORS:
        name = schema.partition("(")[0]
        if not hasattr(torch.ops.torchvision, name):
            namespace.define(schema)
    _libraries.append(namespace)
    return False
