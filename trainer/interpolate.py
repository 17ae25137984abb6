"""``anchorft-interpolate``: WiSE-FT, weights between a model and what finetuning made of it.

    weights(alpha) = (1 - alpha) * before + alpha * after

Wortsman et al., "Robust fine-tuning of zero-shot models", CVPR 2022. The curve over alpha shows
in-distribution against out-of-distribution accuracy; alpha 0.5 is the paper's choice where no
data of the other distribution may be looked at. A classifier that finetuning trained is mixed with
the zero-shot head of the model before.
"""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from models.clip import Clip, load_clip, save_clip
from schemas.errors import UserError
from shards import places
from trainer.classifier import (
    Classifier,
    Trained,
    from_zero_shot,
    load_classifier,
    save_classifier,
)
from trainer.data_sets import GROUPS
from trainer.devices import choose_device
from trainer.evaluate import add_evaluation_flags, asked_data_sets, evaluate_all
from trainer.head import zero_shot_head
from trainer.options import Parser
from trainer.output import output_folder
from trainer.run_file import read_run
from trainer.templates import load_templates

CURVE_NAME = "curve.json"
PICTURE_NAME = "curve.png"
_ALPHAS = tuple(i / 10 for i in range(11))


def interpolate(
    before: Mapping[str, torch.Tensor], after: Mapping[str, torch.Tensor], alpha: float
) -> dict[str, torch.Tensor]:
    """Weights and running statistics between two models of one shape.

    Args:
        before: state of the model that finetuning began with.
        after: state of the finetuned model.
        alpha: 0 gives ``before`` and 1 ``after``, to the bit. Whole numbers, such as the steps
            that batch normalisation counts, are not mixed: they are those of the nearer model.

    Returns:
        Tensors of the types of ``before``; floats are mixed in float32.

    Raises:
        UserError: the models have different weights by name or shape.
    """
    for name in sorted(before.keys() | after.keys()):
        shapes = [tuple(m[name].shape) if name in m else None for m in (before, after)]
        if shapes[0] != shapes[1]:
            raise UserError(
                f"the two models do not fit together: {name} has the shapes {shapes[0]} and "
                f"{shapes[1]}; give a model and what was finetuned from it."
            )
    mixed: dict[str, torch.Tensor] = {}
    for name, start in before.items():
        end = after[name].to(start.device)
        if alpha in (0.0, 1.0) or not start.is_floating_point():
            chosen = start if alpha < 0.5 else end
            mixed[name] = chosen.to(start.dtype, copy=True)
        else:
            mixed[name] = torch.lerp(start.float(), end.float(), alpha).to(start.dtype)
    return mixed


def draw_curve(curve: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Write a PNG: each group's accuracy against that in distribution, or against alpha.

    Args:
        curve: one entry an alpha, with ``alpha`` and the means of the groups in percent.
        path: of the PNG.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # slow to import, used once
    from matplotlib.figure import Figure

    groups = [group for group in GROUPS if group in curve[0]]
    others = [group for group in groups if group != "id"]
    along = "id" in groups and bool(others)
    figure = Figure(figsize=(6, 4.5), layout="constrained")
    canvas = FigureCanvasAgg(figure)
    axes = figure.add_subplot(
        xlabel=f"{GROUPS['id']}, top-1 %" if along else "alpha", ylabel="top-1 %"
    )
    for group in others if along else groups:
        x = [point["id"] if along else point["alpha"] for point in curve]
        y = [point[group] for point in curve]
        axes.plot(x, y, marker="o", markersize=4, label=GROUPS[group])
        for which in (0, -1):
            axes.annotate(
                f"{curve[which]['alpha']:g}",
                (x[which], y[which]),
                xytext=(4, 4),
                textcoords="offset points",
                fontsize=8,
            )
    axes.grid(alpha=0.25)
    axes.legend()
    data = io.BytesIO()
    canvas.print_png(data)
    places.write_bytes(str(path), data.getvalue())


def _parser() -> Parser:
    parser = Parser(prog="anchorft-interpolate", description=__doc__, allow_abbrev=False)
    parser.add_argument(
        "--before", required=True, help="model before: NAME/TAG, hf-hub:ORG/REPO or a folder"
    )
    parser.add_argument(
        "--after", required=True, help="the finetuned model, such as a run's folder"
    )
    parser.add_argument("--output", required=True, help="local folder for curve and models")
    parser.add_argument(
        "--alpha",
        type=float,
        nargs="+",
        default=_ALPHAS,
        help="shares of the finetuned weights to measure (default: 0, 0.1, ..., 1)",
    )
    parser.add_argument(
        "--save",
        type=float,
        nargs="+",
        default=(),
        metavar="ALPHA",
        help="write the model of this alpha to OUTPUT/alpha-ALPHA",
    )
    add_evaluation_flags(parser)
    return parser


def _run(argv: Sequence[str]) -> None:
    options = _parser().parse_strictly(argv)
    for name in ("alpha", "save"):
        for alpha in getattr(options, name):
            if not 0 <= alpha <= 1:
                raise UserError(f"--{name} {alpha:g} does not lie between 0 and 1.")
    asked = any(getattr(options, group) for group in GROUPS)
    if not asked and not options.save:
        raise UserError("there is nothing to do; give data to measure on, or --save an alpha.")
    folder = output_folder(options.output)
    data_sets = asked_data_sets(options) if asked else []
    device = choose_device(options.device)
    clip, end = load_clip(options.before, device=device), load_clip(options.after, device=device)
    _check_clips(clip, end)
    before = {name: tensor.clone() for name, tensor in clip.model.state_dict().items()}
    after = end.model.state_dict()
    about = {
        "before": {"name": clip.name, "weights_sha256": clip.weights_sha256()},
        "after": {"name": end.name, "weights_sha256": end.weights_sha256()},
    }
    heads = _heads(options.after, clip, device)
    curve: list[dict[str, Any]] = []
    for alpha in sorted({*options.save, *(options.alpha if data_sets else ())}):
        clip.model.load_state_dict(interpolate(before, after, alpha))
        classifier = heads and _between(heads, alpha)
        if alpha in options.save:
            save_clip(clip, folder / f"alpha-{alpha:g}")
            if classifier:
                names = classifier.classes
                save_classifier(classifier.classifier, names, folder / f"alpha-{alpha:g}")
            print(f"{folder / f'alpha-{alpha:g}'}: the model of alpha {alpha:g}")
        if data_sets and alpha in options.alpha:
            results = evaluate_all(
                clip,
                data_sets,
                device=device,
                batch_size=options.batch_size,
                threads=options.threads,
                max_bad_fraction=options.max_bad_fraction,
                classifier=classifier,
            )
            curve.append({"alpha": alpha} | results)
            print(_line(curve[-1]), flush=True)
    if curve:
        body = about | {"curve": curve}
        places.write_bytes(str(folder / CURVE_NAME), (json.dumps(body, indent=2) + "\n").encode())
        draw_curve(curve, folder / PICTURE_NAME)
        print(f"{folder / CURVE_NAME}, {folder / PICTURE_NAME}")


def _heads(after: str, clip: Clip, device: torch.device) -> tuple[Classifier, Trained] | None:
    """The classifiers at both ends, if finetuning trained one; see trainer.classifier.

    Before finetuning it is the zero-shot head of the run's templates, however the run's own began.
    """
    trained = load_classifier(after)
    if trained is None:
        return None
    told = read_run(Path(after.removeprefix("local-dir:")))
    templates = told["inputs"]["templates"] if told else load_templates("openai")
    head = zero_shot_head(clip.model, clip.tokenizer, trained.classes, templates, device)
    scale: torch.Tensor = clip.model.logit_scale  # type: ignore[assignment]
    return from_zero_shot(head, scale), trained


def _between(heads: tuple[Classifier, Trained], alpha: float) -> Trained:
    start, trained = heads
    mixed = interpolate(start.state_dict(), trained.classifier.state_dict(), alpha)
    return Trained(Classifier(mixed["weight"], mixed["bias"]), trained.classes)


def _line(point: Mapping[str, Any]) -> str:
    groups = [f"{title} {point[group]:.2f}" for group, title in GROUPS.items() if group in point]
    return f"alpha {point['alpha']:<4g} {', '.join(groups)}"


def _check_clips(before: Clip, after: Clip) -> None:
    """Refuse models that read images or texts differently: a mixture of them means nothing.

    Raises:
        UserError: their preprocessing or their tokenizers differ.
    """
    # On a sample of each: configurations may say the same in other words.
    text, image = ["a photo of 2 things."], Image.linear_gradient("L").convert("RGB")
    image = image.crop((10, 0, 200, 256))
    same_texts = torch.equal(before.tokenizer(text), after.tokenizer(text))
    if not same_texts or not torch.equal(before.preprocess(image), after.preprocess(image)):
        raise UserError(
            f"{before.name!r} and {after.name!r} read images or texts differently; give a model "
            f"and what was finetuned from it."
        )


def main(argv: Sequence[str] | None = None) -> int:
    """Interpolate; 0 when it is done, 2 when something must be mended first."""
    try:
        _run(sys.argv[1:] if argv is None else argv)
    except UserError as error:
        print(f"anchorft-interpolate: error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
