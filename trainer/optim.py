"""AdamW over both towers and the logit scale; linear warm-up, then a cosine to zero."""

from __future__ import annotations

import math

import torch

from schemas.errors import UserError
from trainer.config import OptimConfig
from trainer.objective.contrastive import MAX_LOG_SCALE

DEFAULT_WARMUP = 500
"""FLYP's, for ImageNet; a short run warms up for a tenth of its steps."""


def warmup_steps(asked: int | None, total: int) -> int:
    """Steps of warm-up in a run of ``total`` steps.

    Raises:
        UserError: the warm-up asked for leaves no steps for the rest.
    """
    if asked is None:
        return min(DEFAULT_WARMUP, total // 10)
    if asked >= total:
        raise UserError(
            f"--warmup {asked} is not less than the {total} steps of the run; lower it, or train "
            f"for more --epochs."
        )
    return asked


def learning_rate(step: int, *, peak: float, warmup: int, total: int) -> float:
    """The learning rate of step 0, 1, ..., total - 1, as in FLYP's and open_clip's code.

    It rises linearly to ``peak`` at step warmup - 1, then follows half a cosine that would reach
    0 at step ``total``.
    """
    if step < warmup:
        return peak * (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / (total - warmup))) * peak


def make_optimizer(model: torch.nn.Module, config: OptimConfig) -> torch.optim.AdamW:
    """AdamW over all trainable parameters.

    ``decay="matrices"`` exempts what has fewer than two dimensions (biases, norms, the logit
    scale), as open_clip does; ``"all"`` exempts nothing, as FLYP's code does.

    The fused kernel goes over the weights once, the plain update a dozen times. It rounds in
    another order, so runs with and without it differ in the last bits.
    """
    parameters = [p for p in model.parameters() if p.requires_grad]
    groups: list[dict[str, object]] = [
        {"params": parameters, "weight_decay": config.weight_decay},
    ]
    if config.decay == "matrices":
        groups = [
            {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": config.weight_decay},
            {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
        ]
    return torch.optim.AdamW(
        groups,
        lr=config.lr,
        betas=(config.beta1, config.beta2),
        eps=config.eps,
        fused=config.fused or None,  # None leaves torch its own choice of the plain ones
    )


def set_learning_rate(optimizer: torch.optim.Optimizer, value: float) -> None:
    """Use ``value`` in the next step."""
    for group in optimizer.param_groups:
        group["lr"] = value


@torch.no_grad()
def clamp_logit_scale(model: torch.nn.Module) -> None:
    """Bring the logit scale back to at most ln 100 after a step."""
    model.logit_scale.clamp_(max=MAX_LOG_SCALE)  # type: ignore[operator, union-attr]
