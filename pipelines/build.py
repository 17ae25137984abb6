"""The composition: which stage feeds which. One pipeline, four stages, any of them alone."""

from __future__ import annotations

from typing import Any, TypeAlias

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.runners.runner import PipelineResult

from pipelines import assemble, caption, embed, retrieve
from pipelines.config import BuildConfig
from pipelines.finish import finish
from pipelines.parts import Part, left_parts
from pipelines.reading import check_ceiling
from schemas.record import IMAGE_TEXT_PAIR, TEXT_COMPENSATED, Kind
from shards.sources import Source

Parts: TypeAlias = "beam.PCollection[list[Part]]"


class Composition:
    """Builds the graph for a config; each stage's output is the next one's input.

    A stage that was not asked for is stood in for by the files that it left earlier.

    Args:
        root: the pipeline.
        config: the options.
        finetune: the labelled source.
        pool: the source of pairs, where that kind is built.
        complete: the output already holds a finished set of this very build.
    """

    def __init__(
        self,
        root: beam.Pipeline,
        config: BuildConfig,
        finetune: Source,
        pool: Source | None,
        *,
        complete: bool,
    ) -> None:
        self._root = root
        self._config = config
        self._finetune = finetune
        self._pool = pool
        self._complete = complete

    def expand(self) -> None:
        """Add the stages that were asked for."""
        captions = neighbours = queries = pool = None
        if TEXT_COMPENSATED in self._config.kinds:
            captions = self._caption()
        if IMAGE_TEXT_PAIR in self._config.kinds:
            queries = self._embed(embed.FINETUNE, self._finetune)
            pool = self._embed(embed.POOL, self._pool)
            if "retrieve" in self._config.stages:
                assert queries is not None
                assert pool is not None
                step = retrieve.Retrieve(
                    work=self._config.work, k=self._config.k, force=self._config.force
                )
                neighbours = self._listed("neighbours", (queries, pool) | "Retrieve" >> step)
            elif "assemble" in self._config.stages:
                options = {"k": self._config.k}
                neighbours = self._left_by(retrieve.STAGE, self._finetune, options)
        if "assemble" in self._config.stages:
            stages = [parts for parts in (captions, queries, pool) if parts is not None]
            self._assemble(captions, neighbours, stages)

    def _needed(self, *later: str) -> bool:
        return any(stage in self._config.stages for stage in later)

    def _caption(self) -> Parts | None:
        if "caption" not in self._config.stages:
            if not self._needed("assemble"):
                return None
            options = caption.caption_options(
                self._config.decoding, self._config.caption_batch, self._finetune.classes
            )
            return self._left_by(caption.STAGE, self._finetune, options)
        step = caption.Caption(
            work=self._config.work,
            classes=self._finetune.classes,
            captioner=self._config.captioner,
            decoding=self._config.decoding,
            batch=self._config.caption_batch,
            **self._how(),
        )
        units = self._root | "FinetuneToCaption" >> beam.Create(self._finetune.units)
        return self._listed("captions", units | "Caption" >> step)

    def _embed(self, stage: str, source: Source | None) -> Parts | None:
        assert source is not None
        if "embed" not in self._config.stages:
            if not self._needed("retrieve", "assemble"):
                return None
            options = embed.embed_options(self._config.embed_batch, source.classes)
            return self._left_by(stage, source, options)
        step = embed.Embed(
            stage,
            work=self._config.work,
            classes=source.classes or None,
            encoder=self._config.encoder,
            batch=self._config.embed_batch,
            **self._how(),
        )
        units = self._root | f"{stage}-units" >> beam.Create(source.units)
        return self._listed(stage, units | stage >> step)

    def _how(self) -> dict[str, Any]:
        return {
            "device": self._config.device,
            "model_threads": self._config.model_threads,
            "decode_threads": self._config.decode_threads,
            "force": self._config.force,
        }

    def _left_by(self, stage: str, source: Source, options: dict[str, Any]) -> Parts:
        names = [unit.name for unit in source.units]
        parts = left_parts(self._config.work, stage, names, options)
        check_ceiling(parts, self._config.max_bad_fraction)
        return self._root | f"{stage}-left" >> beam.Create([parts])

    def _listed(self, name: str, parts: Parts) -> Parts:
        """All parts of a stage as one list: the barrier after which its ceiling is known."""
        return (
            parts
            | f"{name}-list" >> beam.combiners.ToList()
            | f"{name}-ceiling" >> beam.Map(check_ceiling, self._config.max_bad_fraction)
        )

    def _assemble(
        self, captions: Parts | None, neighbours: Parts | None, stages: list[Parts]
    ) -> None:
        plans: list[beam.PCollection[assemble.ShardPlan]] = []
        candidates: list[Parts] = []
        roots: dict[str, str] = {}
        made: list[tuple[Kind, Parts]] = []
        if captions is not None:
            made.append((TEXT_COMPENSATED, captions))
            roots[TEXT_COMPENSATED] = self._finetune.units[0].root
        if neighbours is not None:
            assert self._pool is not None
            made.append((IMAGE_TEXT_PAIR, neighbours))
            roots[IMAGE_TEXT_PAIR] = self._pool.units[0].root
        shard_size = self._config.shard_size
        for kind, parts in made:
            each = parts | f"{kind}-each" >> beam.FlatMap(lambda listed: listed)
            step = (
                assemble.TextCompensated(work=self._config.work)
                if kind == TEXT_COMPENSATED
                else assemble.ImageTextPairs(
                    work=self._config.work, min_score=self._config.min_score
                )
            )
            found = each | kind >> step | f"{kind}-list" >> beam.combiners.ToList()
            candidates.append(found)
            plans.append(
                found
                | f"{kind}-plan"
                >> beam.FlatMap(
                    lambda listed, kind=kind: assemble.plan_shards(kind, listed, shard_size)
                )
            )
        shards = (
            tuple(plans)
            | "Plans" >> beam.Flatten()
            | "WriteShards"
            >> assemble.WriteShards(
                work=self._config.work,
                output=self._config.output,
                roots=roots,
                complete=self._complete,
                force=self._config.force,
            )
        )
        everything = tuple(stages + candidates) | "Stages" >> beam.Flatten()
        (
            self._root
            | "Once" >> beam.Create([None])
            | "Finish"
            >> beam.Map(
                finish,
                beam.pvalue.AsList(shards),
                beam.pvalue.AsList(everything),
                self._config,
                self._finetune.classes,
            )
        )


def run(
    config: BuildConfig,
    options: PipelineOptions,
    finetune: Source,
    pool: Source | None,
    *,
    complete: bool,
) -> PipelineResult:
    """Build the pipeline and run it to its end.

    Raises:
        Exception: whatever ended the job, UserError among them (see pipelines.__main__).
    """
    pipeline = beam.Pipeline(options=options)
    Composition(pipeline, config, finetune, pool, complete=complete).expand()
    result = pipeline.run()
    result.wait_until_finish()
    return result
