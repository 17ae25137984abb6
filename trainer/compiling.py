"""The towers through torch.compile.

The method of a tower is compiled and not the module, so that nothing shows it: names in
checkpoints, copies and the saved model are those of the plain model, and whoever calls the model
itself, as measuring does, gets what the saved model gives.
"""

from __future__ import annotations

import inspect
import secrets
from collections.abc import Callable, Sequence
from typing import Any

import torch

from schemas.errors import UserError

Encode = Callable[..., torch.Tensor]


def compiled(encode: Encode, rows: int) -> Encode:
    """A tower's method, compiled when it is first called: once for all numbers of rows above 1.

    Beside that one there is a graph for a single row, and each is made again for every mode that
    the tower is called in (with and without gradients, in eval mode for a teacher): few enough for
    torch's limit of 8, beyond which it would not compile any more.

    Args:
        encode: takes float32 [N, 3, H, W] or int64 [N, context], and keywords.
        rows: that are usual in a call, at least 2.
    """
    import torch._dynamo as dynamo  # a second that only runs which compile pay

    whole = torch.compile(encode, backend=_backend)

    def call(inputs: torch.Tensor, **settings: Any) -> torch.Tensor:
        if len(inputs) > 1:  # torch has a graph of its own for 1 in any case
            # From the first call on, since batches differ (the last of an epoch, captions). And
            # how sums are split follows from the usual number and not from the first one seen,
            # which is another in a run that goes on.
            dynamo.mark_dynamic(inputs, 0, hint_override=rows)
        # Its pieces for DistributedDataParallel cannot hold a checkpointed block.
        with dynamo.config.patch(optimize_ddp=False):
            return whole(inputs, **settings)

    return call


def _backend(graph: torch.fx.GraphModule, inputs: Sequence[Any]) -> Any:
    """Inductor, but for what would draw other numbers, or add up in an order of chance."""
    from torch._inductor import config
    from torch._inductor.compile_fx import compile_fx
    from torch._inductor.decomposition import select_decomp_table
    from torch._inductor.lowering import FALLBACK_ALLOW_LIST

    settings = {"fallback_random": True}  # torch's generator: both passes of chunks draw alike
    with config.patch(settings):
        table = dict(select_decomp_table())
    # Inductor's own adds the rows of a token up with atomics; torch's comes to the same bits.
    del table[torch.ops.aten.embedding_dense_backward.default]
    # Where CI is in the environment, torch takes a kernel of its own for an oversight otherwise.
    FALLBACK_ALLOW_LIST.add("aten::embedding_dense_backward")
    return compile_fx(graph, list(inputs), config_patches=settings, decompositions=table)


def check_compiler(device: torch.device) -> None:
    """Compile something small and new.

    Raises:
        UserError: torch is too old, or has no compiler here that works.
    """
    import torch._dynamo as dynamo

    if "hint_override" not in inspect.signature(dynamo.mark_dynamic).parameters:
        raise UserError(
            f"--compile needs a newer torch than {torch.__version__}; update it, or leave it out."
        )
    size = 2 + secrets.randbelow(2**20)  # a new one, or a cache may hide that nothing compiles
    try:
        torch.compile(lambda rows: rows.sin() + 1, dynamic=False)(torch.ones(size, device=device))
    except Exception as error:  # torch, triton and the compilers raise many kinds
        raise UserError(
            f"--compile needs a compiler for {device} ({reason(error)}); install one (for the CPU "
            f"g++, for a GPU gcc and triton), or leave it out."
        ) from error


def is_of_compiling(error: BaseException) -> bool:
    """True if torch failed to compile something."""
    return type(error).__module__.startswith(("torch._dynamo.", "torch._inductor."))


def reason(error: BaseException) -> str:
    """Kind and first line of an error, or of the one that torch found in its way."""
    error = getattr(error, "inner_exception", error)
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0].rstrip('. :')}"
