"""``anchorft-eval``: accuracy of a model by the zero-shot head of its own text tower.

A run that trained a classifier (ft, lp-ft) is measured by that where it knows the classes.

Data sets fall into groups: in distribution, domain shift, zero-shot (classes that were not in
the finetune data). The table ends with the mean of each group.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from models.clip import Clip, load_clip
from schemas.errors import UserError
from shards import places
from shards.decoding import Tally, decoded_batches
from shards.sources import Sample, Source
from trainer.classifier import Classifier, Trained, classifier_for, load_classifier
from trainer.data_sets import GROUPS, DataSet, open_data_sets
from trainer.devices import choose_device
from trainer.head import zero_shot_head
from trainer.options import Parser
from trainer.results import table
from trainer.templates import load_templates


@dataclass(frozen=True)
class Result:
    """Accuracy on one data set, in percent.

    Attributes:
        samples: images measured.
        top1: share of images whose class has the highest logit.
        top5: share whose class is among the five highest; None with five classes or fewer.
        mean_per_class: top-1 of each class that has images, averaged.
        classes: size of the head.
        templates: texts averaged for each class; 0 with a trained classifier.
        bad: images left out, reason to number.
        examples: a few of those, for people.
    """

    samples: int
    top1: float
    top5: float | None
    mean_per_class: float
    classes: int
    templates: int
    bad: dict[str, int] = field(default_factory=dict)
    examples: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return dict(vars(self))


def evaluate(
    clip: Clip,
    source: Source,
    templates: Sequence[str],
    *,
    name: str,
    device: torch.device,
    batch_size: int = 256,
    threads: int = 4,
    max_bad_fraction: float = 0.01,
    classifier: Trained | None = None,
) -> Result:
    """Measure a model on a labelled source, its images streamed in their order.

    The model is used in eval mode and float32, with its own preprocessing, and left in the mode
    it was in.

    Args:
        clip: the model, already on ``device``.
        source: labelled images.
        templates: with ``{c}``.
        name: of the data set, for errors and the progress line.
        device: of the model.
        batch_size: images a forward pass.
        threads: that decode beside the model.
        max_bad_fraction: largest share of bad images.
        classifier: trained with the model, and the classes that it knows; it takes the zero-shot
            head's place where it knows all classes of the source.

    Raises:
        UserError: no classes, no images, or too many bad ones.
    """
    if not source.classes:
        raise UserError(f"{name}: {source.place!r} has no class names; it cannot be measured on.")
    model: Any = clip.model
    was_training = model.training
    model.eval()
    tally = Tally()
    seen = np.zeros(len(source.classes), np.int64)
    first, five = np.zeros_like(seen), np.zeros_like(seen)
    try:
        known = classifier and classifier_for(classifier, source.classes)
        head = known or Classifier(
            zero_shot_head(model, clip.tokenizer, source.classes, templates, device).clone()
        )
        head.to(device)
        bar = tqdm(desc=name, unit="image", leave=False, disable=not sys.stderr.isatty())
        samples = _samples(source, tally)
        for batch in decoded_batches(
            samples, clip.preprocess, tally, batch=batch_size, threads=threads
        ):
            images = torch.stack([item.prepared for item in batch])
            labels = np.array([item.sample.class_index for item in batch])
            ranked = _rank(model, images.to(device), head)
            hits = ranked == labels[:, None]
            np.add.at(seen, labels, 1)
            np.add.at(first, labels, hits[:, 0])
            np.add.at(five, labels, hits.any(axis=1))
            tally.kept += len(batch)
            bar.update(len(batch))
        bar.close()
    finally:
        model.train(was_training)
    _check(tally, name, source.place, max_bad_fraction)
    held = seen > 0
    return Result(
        samples=int(seen.sum()),
        top1=100 * float(first.sum() / seen.sum()),
        top5=100 * float(five.sum() / seen.sum()) if len(seen) > 5 else None,
        mean_per_class=100 * float((first[held] / seen[held]).mean()),
        classes=len(seen),
        templates=0 if known else len(templates),
        bad=dict(sorted(tally.dropped.items())),
        examples=[f"{key}: {reason} ({detail})" for key, reason, detail in tally.examples],
    )


def _samples(source: Source, tally: Tally) -> Iterator[Sample]:
    for unit in source.units:
        yield from source.read(unit, tally.drop)


@torch.inference_mode()
def _rank(model: Any, images: torch.Tensor, head: Classifier) -> np.ndarray[Any, Any]:
    """The (at most) five nearest classes of each image, best first, int64 [N, k]."""
    features = model.encode_image(images, normalize=True).float()
    nearest = head(features).topk(min(5, len(head.weight)), dim=1).indices
    return np.asarray(nearest.cpu().numpy())


def _check(tally: Tally, name: str, place: str, ceiling: float) -> None:
    bad = sum(tally.dropped.values())
    reasons = ", ".join(f"{reason} {number:,}" for reason, number in sorted(tally.dropped.items()))
    if not tally.kept:
        raise UserError(
            f"{name}: {place!r} holds no image that can be used ({reasons or 'empty'})."
        )
    if bad > ceiling * (bad + tally.kept):
        key, reason, detail = tally.examples[0]
        raise UserError(
            f"{name}: {bad:,} of {bad + tally.kept:,} images of {place!r} are bad ({reasons}), "
            f"more than --max-bad-fraction {ceiling:g}; for example {key}: {reason} ({detail})."
        )


def evaluate_all(
    clip: Clip,
    data_sets: Sequence[DataSet],
    *,
    device: torch.device,
    batch_size: int = 256,
    threads: int = 4,
    max_bad_fraction: float = 0.01,
    classifier: Trained | None = None,
) -> dict[str, Any]:
    """Measure a model on several data sets; see evaluate.

    Returns:
        What results.json holds, in percent: the mean top-1 of each group that has data sets, by
        the group's name, and under ``datasets`` name to group and Result.

    Raises:
        UserError: as evaluate.
    """
    datasets: dict[str, dict[str, Any]] = {}
    for data in data_sets:
        result = evaluate(
            clip,
            data.source,
            data.templates,
            name=data.name,
            device=device,
            batch_size=batch_size,
            threads=threads,
            max_bad_fraction=max_bad_fraction,
            classifier=classifier,
        )
        datasets[data.name] = {"group": data.group} | result.as_dict()
    means = {
        group: float(np.mean([d["top1"] for d in datasets.values() if d["group"] == group]))
        for group in GROUPS
        if any(d["group"] == group for d in datasets.values())
    }
    return means | {"datasets": datasets}


def add_evaluation_flags(parser: Parser) -> None:
    """Flags that say what is measured on, and how."""
    for group, title in GROUPS.items():
        parser.add_argument(
            "--" + group.replace("_", "-"),
            dest=group,
            action="extend",
            nargs="+",
            default=[],
            metavar="DATA",
            help=f"PATH or NAME=PATH of labelled images ({title})",
        )
    parser.add_argument(
        "--split",
        default="test",
        choices=("train", "test"),
        help="of CLIP_benchmark's layout (default: test)",
    )
    parser.add_argument(
        "--templates", help="openai, simple or a file (default: the data set's own, else openai)"
    )
    parser.add_argument(
        "--batch-size", type=int, default=256, help="images a forward pass (default: 256)"
    )
    parser.add_argument("--threads", type=int, default=4, help="that decode images (default: 4)")
    parser.add_argument(
        "--device", default="auto", help="auto, cpu, cuda or cuda:N (default: auto)"
    )
    parser.add_argument(
        "--max-bad-fraction",
        type=float,
        default=0.01,
        help="fail when more than this share of a data set is bad (default: 0.01)",
    )


def asked_data_sets(options: argparse.Namespace) -> list[DataSet]:
    """The data sets that the flags name, opened; the other flags are checked.

    Raises:
        UserError: no data set, one that is not there, or a value out of range.
    """
    wanted = {group: getattr(options, group) for group in GROUPS}
    if not any(wanted.values()):
        flags = ", ".join("--" + group.replace("_", "-") for group in GROUPS)
        raise UserError(f"nothing to measure on; give one of {flags}.")
    if options.batch_size < 1 or options.threads < 1:
        raise UserError("--batch-size and --threads must be at least 1.")
    if not 0 <= options.max_bad_fraction <= 1:
        raise UserError("--max-bad-fraction must be from 0 to 1.")
    if options.templates is not None:
        load_templates(options.templates)
    return open_data_sets(wanted, split=options.split, templates=options.templates)


def _parser() -> Parser:
    parser = Parser(prog="anchorft-eval", description=__doc__, allow_abbrev=False)
    parser.add_argument(
        "--model", required=True, help="NAME/TAG, hf-hub:ORG/REPO or a folder, such as a run's"
    )
    add_evaluation_flags(parser)
    parser.add_argument(
        "--head",
        default="auto",
        choices=("auto", "zero-shot"),
        help="auto: the classifier that the run trained, for data sets whose classes it knows, "
        "else the zero-shot head (default: auto)",
    )
    parser.add_argument("--output", help="file for the results, as JSON")
    return parser


def _run(argv: Sequence[str]) -> None:
    options = _parser().parse_strictly(argv)
    data_sets = asked_data_sets(options)
    device = choose_device(options.device)
    clip = load_clip(options.model, device=device)
    classifier = load_classifier(options.model) if options.head == "auto" else None
    results = evaluate_all(
        clip,
        data_sets,
        device=device,
        batch_size=options.batch_size,
        threads=options.threads,
        max_bad_fraction=options.max_bad_fraction,
        classifier=classifier,
    )
    print(table(results))
    for name, data in results["datasets"].items():
        for example in data["examples"]:
            print(f"{name}: left out {example}", file=sys.stderr)
    if options.output:
        body = {"model": clip.name, "weights_sha256": clip.weights_sha256()} | results
        places.write_bytes(options.output, (json.dumps(body, indent=2) + "\n").encode())


def main(argv: Sequence[str] | None = None) -> int:
    """Measure; 0 when it is done, 2 when something must be mended first."""
    try:
        _run(sys.argv[1:] if argv is None else argv)
    except UserError as error:
        print(f"anchorft-eval: error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
