"""What users get wrong: one sentence, exit code 2, and nothing that was there is touched."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from tiny_builds import BLIP, CLIP, Built, build, contents, ended, start, without_progress
from tiny_data import image_folder, pair, write_tar

from pipelines.options import parse
from pipelines.parts import part_place
from schemas.errors import UserError

Run = Callable[..., Built]
Reference = tuple[Path, Built]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--finetune", "/no/where"], "'/no/where' is not there"),
        (["--pool", "/no/where"], "'/no/where' is not there"),
        (["--classnames", "/no/names.txt"], "'/no/names.txt' is not there"),
        (["--captioner", "./no/blip"], "captioner './no/blip' is not there"),
        (["--captioner", "nobody/nothing"], "captioner 'nobody/nothing' is neither a model folder"),
        (["--captioner", str(CLIP)], "captioner"),
        (["--encoder", "ViT-B-61/openai"], "did you mean 'ViT-B-16'?"),
        (["--encoder", "ViT-B-16/opneai"], "did you mean 'openai'?"),
        (["--encoder", str(BLIP)], "is not a model folder: it has no open_clip_config.json"),
        (["--max_new_tokens", "32"], "--max_new_tokens 32 is more than the captioner"),
        (["--max_new_tokens", "31", "--prompt", "a"], "after the prompt; give at most 30."),
        (["--device", "cuda:99"], "--device cuda:99 is not to be had"),
        (["--device", "toaster"], "--device toaster is not to be had"),
        (["--k", "25"], "--k 25 is larger than the pool, which has 24 usable pairs"),
        (["--min_score", "1"], "no anchors are left"),
    ],
)
def test_a_mistake_is_one_sentence(
    tmp_path: Path, finetune: Path, pairs: Path, options: list[str], said: str
) -> None:
    kinds = ["--kinds", "image-text-pair"] if options[0] == "--min_score" else []
    built = build(finetune, pairs, tmp_path / "set", *kinds, *options)
    assert built.code == 2
    assert said in built.sentence
    assert not (tmp_path / "set" / "anchor_set.json").exists()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--captoiner", "x"], "unknown option '--captoiner'; did you mean --captioner?"),
        (["--max-bad-fractoin=1"], "did you mean --max-bad-fraction?"),
        (["stray"], "unknown option 'stray'"),
        (["--k", "0"], "--k is 0; it must be at least 1"),
        (["--query_rows", "0"], "--query_rows is 0; it must be at least 1"),
        (["--index_memory", "0"], "--index_memory is 0; it is a number of GiB above 0"),
        (["--min_recall", "1.5"], "--min_recall is 1.5; it lies above 0 and is at most 1"),
        (["--index", "exact", "--min_recall", "0.9"], "--index exact finds everything"),
        (["--index", "exact", "--index_memory", "1"], "is for an index that is built here"),
        (["--pool_index", "x", "--index_memory", "1"], "is for an index that is built here"),
        (["--pool_index", "x", "--index", "hnsw"], "--pool_index names what is there; drop one"),
        (["--kinds", "text-compensated", "--pool", "", "--index", "hnsw"], "--index is given, but"),
        (["--max_bad_fraction", "2"], "--max_bad_fraction is 2.0"),
        (["--min_score", "-3"], "--min_score is -3.0"),
        (["--top_p", "0", "--decoding", "nucleus"], "--top_p is 0.0"),
        (["--num_beams", "4"], "--num_beams is for --decoding beam"),
        (["--top_p", "0.5", "--decoding", "beam"], "--top_p is for --decoding nucleus"),
        (["--caption_seed", "0"], "--caption_seed is for --decoding nucleus"),
        (["--captions_per_image", "2"], "needs --decoding beam or nucleus"),
        (["--decoding", "beam", "--captions_per_image", "4"], "exceeds --num_beams"),
        (["--min_new_tokens", "50"], "exceeds --max_new_tokens"),
        (["--min_new_tokens", "-1"], "--min_new_tokens is -1"),
        (["--stages", "caption,retreive"], "--stages has 'retreive'"),
        (["--stages", ","], "--stages is empty"),
        (["--kinds", "both"], "--kinds has 'both'"),
        (["--kinds", "text-compensated"], "--pool is given, but --kinds leaves"),
        (["--stages", "caption", "--kinds", "image-text-pair"], "--stages caption does nothing"),
        (["--pool", ""], "--pool is missing"),
        (["--output", ""], "--output is missing"),
        (["--work", "out"], "are the same folder"),
        (["--output", "in/anchors"], "lies in the folder of --finetune"),
    ],
)
def test_options_that_make_no_sense(options: list[str], said: str) -> None:
    base = ["--finetune", "in", "--pool", "pool", "--output", "out"]
    parse(base)
    with pytest.raises(UserError) as caught:
        parse([*base, *options])
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_beam_options_pass_through() -> None:
    from apache_beam.options.pipeline_options import DirectOptions, WorkerOptions

    base = ["--finetune", "in", "--pool", "pool", "--output", "out", "--direct_num_workers=3"]
    options = parse(base)[1]
    assert options.view_as(DirectOptions).direct_num_workers == 3
    assert options.view_as(WorkerOptions).default_sdk_harness_log_level == "CRITICAL"
    options = parse([*base, "--default_sdk_harness_log_level=DEBUG"])[1]
    assert options.view_as(WorkerOptions).default_sdk_harness_log_level == "DEBUG"


def test_worker_processes_share_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 8)
    base = ["--finetune", "in", "--pool", "pool", "--output", "out"]
    assert parse(base)[0].machine.model_threads == 0
    processes = [*base, "--direct_running_mode=multi_processing"]
    assert parse([*processes, "--direct_num_workers=3"])[0].machine.model_threads == 2
    assert parse([*processes, "--direct_num_workers=0"])[0].machine.model_threads == 1
    assert parse([*processes, "--direct_num_workers=99"])[0].machine.model_threads == 1
    told = parse([*processes, "--direct_num_workers=2", "--model_threads=5"])[0]
    assert told.machine.model_threads == 5


def test_workers_fail_in_the_same_sentence(tmp_path: Path, finetune: Path, pairs: Path) -> None:
    options = ("--direct_running_mode=multi_processing", "--direct_num_workers=2", "--k", "25")
    only = ("--kinds", "image-text-pair")
    built = ended(start(finetune, pairs, tmp_path / "set", *options, *only))
    assert built.code == 2, built.err
    assert built.sentence == (
        "--k 25 is larger than the pool, which has 24 usable pairs; give a smaller --k or a "
        "larger --pool."
    )
    assert len(without_progress(built.err)) == 2, built.err  # where the report lies, and why


def test_folders_without_images(tmp_path: Path, pairs: Path) -> None:
    root = image_folder(tmp_path / "ft", per_class=1)
    (root / "nothing").mkdir()
    (root / "nothing" / ".DS_Store").write_bytes(b"x")
    built = build(root, pairs, tmp_path / "set")
    assert built.code == 2
    assert f"class folder '{root}/nothing' is empty" in built.sentence
    (tmp_path / "bare").mkdir()
    assert "holds no class folders" in build(tmp_path / "bare", pairs, tmp_path / "set").sentence


def test_an_output_of_another_build_is_left_alone(reference: Reference, tmp_path: Path) -> None:
    output, _ = reference
    before = contents(output)
    finetune = image_folder(tmp_path / "ft", per_class=2)
    write_tar(tmp_path / "pool" / "0.tar", [])
    for options in ([], ["--work", str(tmp_path / "work")], ["--stages", "assemble"]):
        built = build(finetune, tmp_path / "pool", output, *options)
        assert built.code == 2
        assert "already holds an anchor set" in built.sentence
        assert "--force" in built.sentence
    assert contents(output) == before


def test_a_folder_with_other_files_is_left_alone(run: Run, tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "thesis.tex").write_text("years of work")
    built = run()
    assert built.code == 2
    assert "is not empty and does not belong to this build" in built.sentence
    assert contents(tmp_path / "set").keys() == {"thesis.tex"}


def test_a_set_whose_inputs_changed_is_left_alone(tmp_path: Path, pairs: Path) -> None:
    finetune = image_folder(tmp_path / "ft", per_class=2)
    assert build(finetune, pairs, tmp_path / "set").code == 0
    before = contents(tmp_path / "set")
    (finetune / "bar" / "0.jpg").write_bytes((finetune / "circle" / "0.jpg").read_bytes())
    built = build(finetune, pairs, tmp_path / "set")
    assert built.code == 2
    assert "already holds a set made from other inputs" in built.sentence
    assert contents(tmp_path / "set") == before
    built = build(finetune, pairs, tmp_path / "set", "--force")
    assert built.code == 0, built.err
    assert contents(tmp_path / "set") != before


def test_force_that_fails_loses_nothing(tmp_path: Path, finetune: Path, pairs: Path) -> None:
    assert build(finetune, pairs, tmp_path / "set").code == 0
    before = contents(tmp_path / "set")
    built = build(finetune, pairs, tmp_path / "set", "--force", "--k", "25")
    assert built.code == 2
    assert "larger than the pool" in built.sentence
    assert contents(tmp_path / "set") == before


def test_force_leaves_no_shard_of_the_old_set(tmp_path: Path, finetune: Path, pairs: Path) -> None:
    assert build(finetune, pairs, tmp_path / "set", "--shard_size", "4").code == 0
    kind = ("--kinds", "text-compensated")
    built = build(finetune, None, tmp_path / "set", "--force", "--shard_size", "8", *kind)
    assert built.code == 0, built.err
    manifest = json.loads((tmp_path / "set" / "anchor_set.json").read_text())
    named = {f["path"] for s in manifest["shards"] for f in (s, s["index"])}
    assert contents(tmp_path / "set").keys() == named | {
        *["README.md", "anchor_set.json", "croissant.json", "gallery.html"]
    }


def test_a_stage_alone_needs_what_came_before(run: Run, tmp_path: Path) -> None:
    built = run("--stages", "retrieve")
    assert built.code == 2
    assert "run the embed stage first" in built.sentence
    assert run("--stages", "caption,embed,screen,retrieve,select").code == 0
    for options, said in (
        (["--k", "2"], "made with another k: run the select stage again"),
        (["--decoding", "beam"], "made with another decoding: run the caption stage again"),
        (["--embed_batch", "7"], "made with another embed_batch: run the embed stage again"),
    ):
        built = run("--stages", "assemble", *options)
        assert built.code == 2
        assert said in built.sentence
    for stage, before in (("assemble", "select"), ("select", "retrieve"), ("retrieve", "screen")):
        place = Path(part_place(str(tmp_path / "set.work"), before, 0))
        place.write_bytes(b"PAR1 not")
        assert f"run the {before} stage first" in run("--stages", stage).sentence
    assert not (tmp_path / "set").exists()


def test_parts_of_another_pool_are_not_used(run: Run, tmp_path: Path, finetune: Path) -> None:
    assert run("--stages", "embed").code == 0
    for number in range(3):
        write_tar(tmp_path / "other" / f"p{number}.tar", pair("a", b"x", "t"))
    built = build(finetune, tmp_path / "other", tmp_path / "set", "--stages", "retrieve")
    assert built.code == 2
    assert "was made from '00000.tar', not from 'p0.tar'" in built.sentence


def test_the_ceiling_holds_for_stages_alone(tmp_path: Path, pairs: Path) -> None:
    finetune = image_folder(tmp_path / "ft", per_class=2)
    (finetune / "bar" / "0.jpg").write_bytes(b"broken")
    for stages in ("caption", "assemble"):
        built = build(finetune, pairs, tmp_path / "set", "--stages", stages)
        assert built.code == 2
        assert "1 of 6 samples are bad (not_an_image 1)" in built.sentence
        assert "bar/0.jpg" in built.sentence


def test_an_image_that_changes_on_the_way_is_noticed(tmp_path: Path, pairs: Path) -> None:
    finetune = image_folder(tmp_path / "ft", per_class=2)
    before = "caption,embed,screen,retrieve,select"
    assert build(finetune, pairs, tmp_path / "set", "--stages", before).code == 0
    image = finetune / "bar" / "1.jpg"
    data = image.read_bytes()
    image.write_bytes(data[:-1] + b"?")
    built = build(finetune, pairs, tmp_path / "set", "--stages", "assemble")
    assert built.code == 2
    assert "bar/1.jpg in 'bar/1.jpg' changed while the set was built" in built.sentence
    image.unlink()
    built = build(finetune, pairs, tmp_path / "set", "--stages", "assemble")
    assert "bar/1.jpg' is not there" in built.sentence
    image.write_bytes(data)
    assert build(finetune, pairs, tmp_path / "set", "--stages", "assemble").code == 0


def test_a_pool_that_is_cut_short_is_reported(tmp_path: Path, finetune: Path, pairs: Path) -> None:
    for tar in pairs.glob("*.tar"):
        data = tar.read_bytes()
        place = tmp_path / "pool" / tar.name
        place.parent.mkdir(exist_ok=True)
        place.write_bytes(data[: len(data) // 2] if tar.name == "00001.tar" else data)
    built = build(finetune, tmp_path / "pool", tmp_path / "set")
    assert built.code == 2
    assert "truncated_tar 1" in built.sentence
    assert "00001.tar" in built.sentence
    built = build(finetune, tmp_path / "pool", tmp_path / "set", "--max_bad_fraction", "0.1")
    assert built.code == 0
    assert "dropped truncated_tar 1" in built.out
