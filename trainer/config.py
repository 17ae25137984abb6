"""The options of a run: small frozen dataclasses, one command-line flag a field.

The defaults are FLYP's published settings for ImageNet (Goyal et al., CVPR 2023) and weights of
1 for the anchors' terms.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from dataclasses import MISSING, asdict, dataclass, fields
from typing import Any, get_type_hints

from schemas.errors import UserError
from trainer.options import Parser, add_flags, flag, nearest, option
from trainer.recipes import read_recipe


@dataclass(frozen=True)
class DataConfig:
    """What is trained on, and how it is mixed."""

    finetune: str = option(
        "labelled images: an image folder, labelled webdataset tars (folder, brace range, glob, "
        "CLIP_benchmark root) or a CSV, TSV or parquet list"
    )
    anchors: tuple[str, ...] = option("anchor sets", ())
    classnames: str | None = option("file of class names, if not beside the images", None)
    templates: str | None = option(
        "openai (80 ImageNet templates), simple (7), or a file with one template with {c} a line "
        "(default: the data set's own zeroshot_classification_templates.txt, else openai)",
        None,
    )
    batch_size: int = option("finetune images a step", 512)
    anchor_batch_size: tuple[int, ...] = option(
        "image-text-pair anchors a step; one number, or one for each set (default: the batch size)",
        (),
    )
    crop_min: float = option("least share of an image's area that a random crop keeps", 0.9)
    shuffle: str = option(
        "order of the samples: any (global), or tar after tar in a drawn order, mixed over a "
        "window (shards), for disks and networks that are slow to jump",
        "global",
        choices=("global", "shards"),
    )
    shuffle_window: int | None = option(
        "with --shuffle shards: samples that are mixed (default: 10000)", None
    )
    augment: str | None = option(
        "YAML file with a list of torchvision.transforms.v2, such as - RandomHorizontalFlip: "
        "{p: 0.5}, instead of the random crop; the model's normalisation is added (default: the "
        "crop)",
        None,
        harmless=True,  # another name of the file; what it holds may not change
    )
    decoder: str = option(
        "of JPEGs: simplejpeg is a little faster, with the same pixels, and a package of its own",
        "pil",
        choices=("pil", "simplejpeg"),
        harmless=True,
    )
    halve: bool = option(
        "let JPEGs of twice the size that a crop needs, or more, be halved while they are "
        "decoded: faster, and pixels a little different",
        False,
    )
    workers: int | None = option(
        "processes that read and decode; 0 does it between steps (default: one a core, at most 8)",
        None,
        harmless=True,
    )
    max_bad_fraction: float = option(
        "fail when more than this share of an epoch's samples is bad", 0.01, harmless=True
    )


@dataclass(frozen=True)
class LossConfig:
    """The method, and the weights of its terms."""

    method: str | None = option(
        "zero-shot, ft, ft-random, lp-ft, flyp, arf, arf-tc, arf-itp, or a .py file of yours that "
        "defines METHOD (default: arf with --anchors, else flyp)",
        None,
    )
    lambda_tc: tuple[float, ...] = option(
        "weight of the text-compensated term; one number, or one for each set (default: 1 where "
        "the set has the kind)",
        (),
    )
    lambda_itp: tuple[float, ...] = option("the same for the image-text-pair term", ())
    multi_positive: bool = option(
        "in the class-text term, texts of the same class are positives, not negatives", False
    )


@dataclass(frozen=True)
class OptimConfig:
    """AdamW and its schedule."""

    epochs: int = option("passes over the finetune images", 10)
    lr: float = option("peak learning rate", 1e-5)
    probe_epochs: int | None = option(
        "for a method that trains the classifier alone first (lp-ft): passes that do (default: 5)",
        None,
    )
    probe_lr: float | None = option("peak learning rate of these passes (default: 0.001)", None)
    warmup: int | None = option(
        "steps of linear warm-up (default: 500, or a tenth of the run if that is less)", None
    )
    weight_decay: float = option("AdamW's decoupled weight decay", 0.1)
    decay: str = option(
        "what decays: all parameters, as in FLYP's code, or matrices only, as in open_clip's",
        "all",
        choices=("all", "matrices"),
    )
    beta1: float = option("AdamW's beta1", 0.9)
    beta2: float = option("AdamW's beta2", 0.999)
    eps: float = option("AdamW's epsilon", 1e-8)
    clip_grad: float | None = option("largest norm of the gradient (default: no limit)", None)
    fused: bool = option("torch's fused AdamW: one kernel for the whole update", True)
    ema: float | None = option(
        "measure and leave an exponential moving average of the weights, which keeps this share "
        "of itself at every step, such as 0.999 (default: the last weights)",
        None,
    )


@dataclass(frozen=True)
class TeacherConfig:
    """A teacher, and the distillation from it."""

    teacher: str = option(
        "what the model is held to by a distillation term: nothing; the start model (frozen); an "
        "exponential moving average of the weights (ema); or their mean along the run, weighted "
        "by a Beta kernel (wma)",
        "none",
        choices=("none", "frozen", "ema", "wma"),
    )
    teacher_decay: float | None = option(
        "share of itself that the ema teacher keeps at every step (default: 0.999)", None
    )
    teacher_beta: tuple[float, ...] = option(
        "the wma teacher's kernel: two numbers, the parameters of a Beta distribution over the "
        "run (default: 0.5 0.5)",
        (),
    )
    distill_weight: float | None = option(
        "weight of each distillation term; 0 leaves them out, for a method whose own term asks the "
        "teacher (default: 1)",
        None,
    )
    distill_temperature: float | None = option(
        "divides the logits of model and teacher; its square multiplies the term (default: 1)", None
    )
    distill_on: str = option(
        "finetune images with class texts, anchor pairs, or both; auto is what the method trains "
        "on",
        "auto",
        choices=("auto", "finetune", "pairs", "both"),
    )


@dataclass(frozen=True)
class RunConfig:
    """From which model to which folder, on what, with which measurements."""

    model: str = option("model to start from: NAME/TAG, hf-hub:ORG/REPO or a folder")
    output: str = option("folder of the run; it becomes a model folder", harmless=True)
    seed: int = option("seed of every draw", 0)
    device: str = option("auto, cpu, cuda or cuda:N", "auto", harmless=True)
    precision: str = option(
        "of the forward pass; auto is bf16 on a GPU and fp32 elsewhere; fp16 scales the loss, for "
        "GPUs without bf16",
        "auto",
        choices=("auto", "fp32", "bf16", "fp16"),
    )
    tf32: bool = option(
        "products of float32 matrices in TF32, on a GPU: faster, and less exact", False
    )
    chunk_size: int | None = option(
        "images or texts that are encoded at once: GradCache, for batches that do not fit into "
        "memory (default: all at once)",
        None,
    )
    grad_checkpointing: bool = option(
        "keep no activations inside the towers' blocks and compute them again for the gradient: "
        "less memory, more time",
        False,
    )
    compile: bool = option(
        "put the towers of model and teacher through torch.compile, which takes minutes in the "
        "first steps",
        False,
    )
    log_every: int = option("steps between two lines of metrics.jsonl", 10, harmless=True)
    checkpoint_every: int | None = option(
        "steps between two checkpoints, beside the one after every epoch", None, harmless=True
    )
    keep_last: int = option("checkpoints to keep while it runs", 1, harmless=True)
    eval_every: int | None = option(
        "epochs between two measurements on the --eval-* data while it trains (default: at the "
        "end only)",
        None,
        harmless=True,
    )
    best: str | None = option(
        "keep the model that does best at these measurements in OUTPUT/best: id, shift or "
        "zero_shot (a group's mean top-1), or GROUP/NAME/top1, /top5 or /mean_per_class "
        "(default: only the last one)",
        None,
        harmless=True,
    )
    max_nonfinite: int = option(
        "end the run at so many steps whose loss or gradient is no number; they are skipped",
        10,
        harmless=True,
    )
    track: tuple[str, ...] = option(
        "where metrics go beside metrics.jsonl: tensorboard, wandb, trackio (default: nowhere)",
        (),
        harmless=True,
    )
    eval_id: tuple[str, ...] = option(
        "in-distribution data to measure at the end: PATH or NAME=PATH", (), harmless=True
    )
    eval_shift: tuple[str, ...] = option("the same for domain shift", (), harmless=True)
    eval_zero_shot: tuple[str, ...] = option("the same for unseen classes", (), harmless=True)
    force: bool = option("replace the run that the output folder holds", False, harmless=True)


@dataclass(frozen=True)
class TrainConfig:
    """Everything that a run is made from: a field is a section of a recipe."""

    data: DataConfig
    run: RunConfig
    loss: LossConfig = LossConfig()
    optim: OptimConfig = OptimConfig()
    teacher: TeacherConfig = TeacherConfig()

    def as_dict(self) -> dict[str, dict[str, Any]]:
        """Component to field to value, ready for JSON (tuples become lists)."""
        return {
            part: {name: _plain(value) for name, value in values.items()}
            for part, values in asdict(self).items()
        }

    def binding(self) -> dict[str, Any]:
        """The fields that the weights depend on, by flag: what a resumed run must share."""
        return {
            flag(item.name): _plain(getattr(part, item.name))
            for part in vars(self).values()
            for item in fields(part)
            if not item.metadata["harmless"]
        }

    def binding_defaults(self) -> dict[str, Any]:
        """The defaults of these fields: what a run had that was begun before a field was there."""
        return {
            flag(item.name): _plain(item.default)
            for part in vars(self).values()
            for item in fields(part)
            if not item.metadata["harmless"] and item.default is not MISSING
        }


def _plain(value: Any) -> Any:
    """As JSON has it."""
    return list(value) if isinstance(value, tuple) else value


def parts() -> dict[str, type]:
    """The sections of a recipe, each with its dataclass."""
    return get_type_hints(TrainConfig)


def make_parser() -> Parser:
    """The parser of ``anchorft-train``: recipes, and a flag for each field."""
    parser = Parser(
        prog="anchorft-train",
        description="Finetune a CLIP on labelled images, with anchors or without (FLYP).",
        epilog="A flag is stronger than a recipe, and a recipe than those before it. A flag whose "
        "default is not a value takes none back: --clip-grad none, --anchors none.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "recipes", nargs="*", metavar="RECIPE", help="YAML file of options (default: none)"
    )
    for part in parts().values():
        add_flags(parser, part)
    return parser


def parse(argv: Sequence[str]) -> TrainConfig:
    """Parse a command line.

    Raises:
        UserError: an unknown, missing or contradictory option, or a recipe that cannot be read.
    """
    return resolve(make_parser().parse_strictly(argv))


def resolve(options: argparse.Namespace) -> TrainConfig:
    """The config of parsed options: defaults, then recipes in their order, then flags.

    Raises:
        UserError: as parse.
    """
    layers = [read_recipe(recipe, parts()) for recipe in options.recipes]
    components = {}
    for section, part in parts().items():
        values: dict[str, Any] = {}
        for layer in layers:
            values |= layer.get(section, {})
        for item in fields(part):
            if hasattr(options, item.name):
                values[item.name] = getattr(options, item.name)
            if item.default is MISSING and item.name not in values:
                raise UserError(
                    f"{flag(item.name)} is missing; give it, or {section}.{item.name} in a recipe."
                )
        components[section] = part(**values)
    config = TrainConfig(**components)
    check(config)
    return config


def check(config: TrainConfig) -> None:
    """Refuse values that mean nothing, and options that contradict each other.

    Raises:
        UserError: naming the first such option.
    """
    for part in vars(config).values():
        for item in fields(part):
            value = getattr(part, item.name)
            for one in value if isinstance(value, tuple) else (value,):
                if isinstance(one, float) and not math.isfinite(one):
                    raise UserError(f"{flag(item.name)} must be a finite number, not {one}.")
            choices = item.metadata["choices"]
            if choices and value not in choices:
                hint = nearest(str(value), choices)
                raise UserError(
                    f"{flag(item.name)} must be one of {', '.join(choices)}, not {value!r}{hint}."
                )
    data, loss, optim, run = config.data, config.loss, config.optim, config.run
    least: list[tuple[str, float | None, float]] = [
        ("--batch-size", data.batch_size, 2),
        *(("--anchor-batch-size", size, 2) for size in data.anchor_batch_size),
        *(("--lambda-tc", weight, 0) for weight in loss.lambda_tc),
        *(("--lambda-itp", weight, 0) for weight in loss.lambda_itp),
        ("--probe-epochs", optim.probe_epochs, 1),
        ("--chunk-size", run.chunk_size, 1),
        ("--shuffle-window", data.shuffle_window, 1),
        ("--workers", data.workers, 0),
        ("--max-bad-fraction", data.max_bad_fraction, 0),
        ("--epochs", optim.epochs, 1),
        ("--warmup", optim.warmup, 0),
        ("--weight-decay", optim.weight_decay, 0),
        ("--seed", run.seed, 0),
        ("--log-every", run.log_every, 1),
        ("--checkpoint-every", run.checkpoint_every, 1),
        ("--keep-last", run.keep_last, 1),
        ("--eval-every", run.eval_every, 1),
        ("--max-nonfinite", run.max_nonfinite, 1),
    ]
    for name, value, bound in least:
        if value is not None and value < bound:
            raise UserError(f"{name} must be at least {bound:g}, not {value}.")
    if not 0 < data.crop_min <= 1:
        raise UserError(f"--crop-min must be above 0 and at most 1, not {data.crop_min}.")
    if not (0 <= optim.beta1 < 1 and 0 <= optim.beta2 < 1):
        raise UserError("--beta1 and --beta2 must be at least 0 and below 1.")
    positive = (optim.lr, optim.probe_lr, optim.eps, optim.clip_grad)
    if any(value is not None and value <= 0 for value in positive):
        raise UserError("--lr, --probe-lr, --eps and --clip-grad must be above 0.")
    if data.shuffle_window is not None and data.shuffle != "shards":
        raise UserError("--shuffle-window means nothing without --shuffle shards; give that too.")
    if data.augment is not None and data.halve:
        raise UserError(
            "--halve goes by the size that --crop-min needs, not by --augment's; leave one out."
        )
    if data.augment is not None and data.crop_min != DataConfig.crop_min:
        raise UserError("--crop-min means nothing with --augment; write it into that file.")
    if not data.anchors:
        for name, values in (("--lambda-tc", loss.lambda_tc), ("--lambda-itp", loss.lambda_itp)):
            if any(values):
                raise UserError(
                    f"{name} {max(values):g} needs anchors; give --anchors, or leave it."
                )
        if data.anchor_batch_size:
            raise UserError("--anchor-batch-size needs anchors; give --anchors, or leave it.")
    elif data.anchor_batch_size and loss.lambda_itp and not any(loss.lambda_itp):
        raise UserError("--anchor-batch-size means nothing with --lambda-itp 0; leave one out.")
    if run.eval_every is not None and not (run.eval_id or run.eval_shift or run.eval_zero_shot):
        raise UserError("--eval-every needs data to measure on; give --eval-id, or leave it out.")
    if run.best is not None and run.eval_every is None:
        raise UserError("--best needs measurements while training; give --eval-every 1.")
    if optim.ema is not None and not 0 < optim.ema < 1:
        raise UserError(f"--ema must be above 0 and below 1, not {optim.ema}.")
    _check_teacher(config.teacher)


def _check_teacher(config: TeacherConfig) -> None:
    """Refuse what means nothing to the kind of teacher, and values out of range."""
    decay, beta = config.teacher_decay, config.teacher_beta
    if decay is not None and config.teacher != "ema":
        raise UserError(f"--teacher-decay means nothing with --teacher {config.teacher}; give ema.")
    if beta and config.teacher != "wma":
        raise UserError(f"--teacher-beta means nothing with --teacher {config.teacher}; give wma.")
    for name, value in (
        ("--distill-weight", config.distill_weight),
        ("--distill-temperature", config.distill_temperature),
        ("--distill-on", config.distill_on),
    ):
        if config.teacher == "none" and value not in (None, "auto"):
            raise UserError(f"{name} needs a teacher; give --teacher frozen, ema or wma.")
    if config.distill_weight is not None and config.distill_weight < 0:
        raise UserError(f"--distill-weight must be at least 0, not {config.distill_weight}.")
    if config.distill_temperature is not None and config.distill_temperature <= 0:
        raise UserError(f"--distill-temperature must be above 0, not {config.distill_temperature}.")
    if decay is not None and not 0 < decay < 1:
        raise UserError(f"--teacher-decay must be above 0 and below 1, not {decay}.")
    if beta and (len(beta) != 2 or min(beta) <= 0):
        raise UserError("--teacher-beta takes two numbers above 0, such as 0.5 0.5.")
