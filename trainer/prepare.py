"""What a run is put together from: everything is opened and checked, and nothing written."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch

from models.clip import Clip, load_clip
from schemas.errors import UserError
from shards.images import Decoder
from shards.jpeg import check_installed
from shards.reader import AnchorSet
from trainer.augment import Augmentation, Transform, least_side, read_steps, train_transform
from trainer.averages import Average
from trainer.classifier import Classifier, at_random, from_zero_shot
from trainer.compiling import check_compiler
from trainer.config import TrainConfig
from trainer.data import Share, TrainingBatches
from trainer.data_sets import DataSet, open_data_sets
from trainer.devices import choose_precision
from trainer.head import zero_shot_head
from trainer.index import ImageIndex
from trainer.inputs import open_finetune, open_shares, resolve_weights
from trainer.methods import load_method
from trainer.methods.method import AnchorWeights, Ingredients, Method
from trainer.objective.features import Towers
from trainer.optim import warmup_steps
from trainer.parallel.processes import World
from trainer.plan import Leg, Plan
from trainer.teachers.teacher import make_teacher
from trainer.teachers.terms import teacher_terms
from trainer.templates import templates_for

PROBE_EPOCHS, PROBE_LR = 5, 1e-3
WINDOW = 10_000
"""Samples that --shuffle shards mixes."""


@dataclass(frozen=True)
class Prepared:
    """A run that could begin.

    Attributes:
        method: what it minimises.
        weights: of the terms of each anchor set.
        templates: with ``{c}``, for class texts.
        dataset: the batches of its steps.
        plan: its steps.
        clip: the model to start from, on the CPU.
    """

    method: Method
    weights: tuple[AnchorWeights, ...]
    templates: tuple[str, ...]
    dataset: TrainingBatches
    plan: Plan
    clip: Clip


def open_measured(config: TrainConfig) -> list[DataSet]:
    """The data sets that the run is measured on.

    Raises:
        UserError: one is not there.
    """
    return open_data_sets(
        {
            "id": config.run.eval_id,
            "shift": config.run.eval_shift,
            "zero_shot": config.run.eval_zero_shot,
        }
    )


def prepare(
    config: TrainConfig,
    sets: Sequence[AnchorSet],
    world: World,
    load: Callable[[str], Clip] = load_clip,
) -> Prepared:
    """Open the data, load the model, make the plan.

    Args:
        config: the options.
        sets: the anchor sets that they name.
        world: the processes that train together.
        load: the model by its spec.

    Raises:
        UserError: an option, the data, the model or the compiler must be mended first.
    """
    method = load_method(config.loss.method or ("arf" if sets else "flyp"))
    if config.data.decoder == "simplejpeg":
        check_installed()
    if config.run.compile:
        check_compiler(world.device)
    weights = resolve_weights(config, method, sets)
    templates = templates_for(config.data.finetune, config.data.templates)
    index = open_finetune(config, world)
    shares = open_shares(config, sets, weights, index, world)
    with torch.random.fork_rng(devices=[]):  # a model is built with random weights first
        clip = load(config.run.model)
    dataset = TrainingBatches(
        index,
        templates=templates,
        transform=make_transform(config, clip),
        tokenizer=clip.tokenizer,
        seed=config.run.seed,
        batch_size=config.data.batch_size,
        shares=shares,
        decoder=cast(Decoder, config.data.decoder),
        window=shuffle_window(config, index, shares),
        least=least_side(clip.preprocess_cfg, config.data.crop_min) if config.data.halve else None,
        rank=world.rank,
        world=world.size,
    )
    plan = make_plan(config, method, dataset.order.steps_per_epoch, weights, world.device)
    check_chunks(plan, clip.model)
    if config.run.grad_checkpointing:
        checkpoint_activations(clip.model)
    return Prepared(method, weights, templates, dataset, plan, clip)


def augmentation(config: TrainConfig) -> list[dict[str, Any]] | None:
    """The steps of --augment, or None.

    Raises:
        UserError: the file is not there, or holds no steps.
    """
    return None if config.data.augment is None else read_steps(config.data.augment)


def make_transform(config: TrainConfig, clip: Clip) -> Transform:
    """What is done to every training image.

    Raises:
        UserError: as augmentation, or its steps do not fit the model.
    """
    steps = augmentation(config)
    if steps is None:
        return train_transform(clip.preprocess_cfg, config.data.crop_min)
    return Augmentation(steps, clip.preprocess_cfg, str(config.data.augment))


def shuffle_window(config: TrainConfig, index: ImageIndex, shares: Sequence[Share]) -> int | None:
    """Samples over which shards are mixed; None where the order knows no shards.

    Raises:
        UserError: nothing is in shards.
    """
    if config.data.shuffle == "global":
        return None
    if (index.offset < 0).all() and all(share.pairs is None for share in shares):
        raise UserError(
            f"--shuffle shards means nothing for {config.data.finetune!r}, where every image is a "
            f"file of its own; leave it out."
        )
    return config.data.shuffle_window or WINDOW


def make_towers(ready: Prepared, config: TrainConfig, world: World) -> Towers:
    """The model, with the method's classifier as it begins, on the world's device."""
    ready.clip.model.to(world.device)
    classes = ready.dataset.index.classes
    head = make_head(ready.method, ready.clip, classes, ready.templates, config, world)
    towers = Towers(ready.clip.model, head).to(world.device)
    if config.run.compile:
        images = -(-ready.dataset.order.batch // world.size)
        towers.compile_encoders(max(2, min(images, ready.plan.chunk or images)))
    return towers


def make_averages(config: TrainConfig, towers: Towers, total: int) -> dict[str, Average]:
    """What follows the weights of a run of ``total`` steps, by its name in checkpoints.

    A teacher is made too, and the towers learn from it from now on; one that stays as it is
    follows nothing.
    """
    found: dict[str, Average] = {}
    teacher = make_teacher(config.teacher, towers, total)
    if teacher is not None and teacher.average is not None:
        found["teacher"] = teacher.average
    if config.optim.ema is not None:
        found["ema"] = Average(towers, decay=config.optim.ema)
    return found


def make_plan(
    config: TrainConfig,
    method: Method,
    steps_per_epoch: int,
    weights: Sequence[AnchorWeights],
    device: torch.device,
) -> Plan:
    """What the options come to for a data set of so many steps an epoch.

    Raises:
        UserError: the warm-up is longer than the run, or an option means nothing to the method.
    """
    optim = config.optim
    probes = any(phase.probe for phase in method.phases)
    if not probes and (optim.probe_epochs, optim.probe_lr) != (None, None):
        raise UserError(
            f"--method {method.name} trains no classifier alone first; leave --probe-epochs and "
            f"--probe-lr out."
        )
    legs: list[Leg] = []
    given = Ingredients(tuple(weights), config.loss.multi_positive)
    for phase in method.phases:
        terms = phase.terms(given)
        taught = teacher_terms(config.teacher, method.name, terms)
        start = legs[-1].stop if legs else 0
        epochs = (optim.probe_epochs or PROBE_EPOCHS) if phase.probe else optim.epochs
        steps = epochs * steps_per_epoch
        legs.append(
            Leg(
                start=start,
                stop=start + steps,
                warmup=warmup_steps(optim.warmup, steps),
                lr=(optim.probe_lr or PROBE_LR) if phase.probe else optim.lr,
                terms=(*terms, *taught),
                trains=phase.trains,
            )
        )
    if not legs and config.run.eval_every is not None:
        raise UserError(f"--method {method.name} trains nothing; leave --eval-every out.")
    if not legs and config.run.compile:
        raise UserError(f"--method {method.name} trains nothing; leave --compile out.")
    if not legs and (optim.ema is not None or config.teacher.teacher != "none"):
        raise UserError(f"--method {method.name} trains nothing; leave --ema and --teacher out.")
    every = [term for leg in legs for term in leg.terms]
    if given.multi_positive and not any(getattr(term, "multi_positive", False) for term in every):
        raise UserError(f"--method {method.name} has no class texts; leave --multi-positive out.")
    return Plan(
        steps_per_epoch=steps_per_epoch,
        legs=legs,
        clip_grad=optim.clip_grad,
        seed=config.run.seed,
        precision=choose_precision(config.run.precision, device),
        chunk=config.run.chunk_size,
        log_every=config.run.log_every,
        checkpoint_every=config.run.checkpoint_every,
        keep_last=config.run.keep_last,
        eval_every=config.run.eval_every,
    )


def make_head(
    method: Method,
    clip: Clip,
    classes: Sequence[str],
    templates: Sequence[str],
    config: TrainConfig,
    world: World,
) -> Classifier | None:
    """The classifier of a method that has one, as it begins."""
    if method.head is None:
        return None
    clip.model.eval()
    head = zero_shot_head(clip.model, clip.tokenizer, classes, templates, world.device)
    if method.head == "random":
        return at_random(len(classes), head.shape[1], config.run.seed)
    scale: torch.Tensor = clip.model.logit_scale  # type: ignore[assignment]
    return from_zero_shot(head, scale)


def check_chunks(plan: Plan, model: torch.nn.Module) -> None:
    """Refuse what would not be the gradient of the whole batch.

    Raises:
        UserError: a tower's rows depend on each other.
    """
    if plan.chunk is None:
        return
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            raise UserError(
                f"--chunk-size needs a model without batch normalisation, whose batches cannot be "
                f"cut; {name} is one. Leave it out."
            )


def checkpoint_activations(model: torch.nn.Module) -> None:
    """Have each block of the towers compute its activations again in the backward pass.

    Raises:
        UserError: the model cannot, or its running statistics would count each batch twice.
    """
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            raise UserError(
                f"--grad-checkpointing needs a model without batch normalisation, which would "
                f"count every batch twice; {name} is one. Leave it out."
            )
    if not hasattr(model, "set_grad_checkpointing"):
        raise UserError("--grad-checkpointing means nothing to this model; leave it out.")
    model.set_grad_checkpointing(True)  # type: ignore[operator]


def samples_per_epoch(dataset: TrainingBatches) -> dict[str, int]:
    """Samples that an epoch of finetune images asks for, by kind of images."""
    steps = dataset.order.steps_per_epoch
    return {"finetune": len(dataset.index)} | {
        dataset.shares[number].pairs_name: steps * order.batch
        for number, order in dataset.pair_orders.items()
    }
