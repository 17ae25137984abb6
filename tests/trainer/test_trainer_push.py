"""The model card, and a run on the Hub: the stand-in of tests/hub_standin over a real socket."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml
from hub_standin import Hub, hub_standin
from test_trainer_run import interrupt

import trainer.best
from schemas.errors import UserError
from trainer.card import hub_name, model_card
from trainer.metrics import read_metrics
from trainer.push import main, model_files
from trainer.train import TrainResult

Run = Callable[..., TrainResult]


@pytest.fixture
def hub() -> Iterator[Hub]:
    with hub_standin() as served:
        yield served


def commands(hub: Hub, *argvs: list[str]) -> tuple[int, str, str]:
    """One after the other in a process, since the client reads its endpoint when it is imported."""
    own = {"HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1"}
    code = "import sys; from trainer.push import main; sys.exit(max(map(main, eval(sys.argv[1]))))"
    done = subprocess.run(
        [sys.executable, "-c", code, repr(argvs)],
        cwd=Path(__file__).parents[2],
        env=os.environ | own | {"HF_TOKEN": "hf_test", "HF_HUB_DISABLE_TELEMETRY": "1"},
        capture_output=True,
        text=True,
    )
    return done.returncode, done.stdout, done.stderr


def test_the_card_names_what_the_model_is_made_from(run: Run, anchors: Path, images: Path) -> None:
    result = run("--anchors", anchors, "--eval-id", f"a|b={images}")
    told = json.loads((result.output / "config.json").read_text())
    card = (result.output / "README.md").read_text()
    front, _, body = card.removeprefix("---\n").partition("\n---\n")
    about = yaml.safe_load(front)
    assert about["library_name"] == "open_clip"
    assert "base_model" not in about  # a folder of this machine has no name on the Hub
    assert told["inputs"]["start_model"]["weights_sha256"] in body
    assert told["inputs"]["anchor_sets"][0]["digest"] in body
    assert r"class\_text × 1, tc × 1, itp × 1" in body
    assert result.results is not None
    assert f"| {result.results['datasets']['a|b']['top1']:.2f} |" in body
    assert r"| a\|b | in distribution | 24 |" in body
    assert str(images) not in card


def test_the_card_names_parents_and_anchors_that_lie_on_the_hub(run: Run) -> None:
    told = json.loads((run().output / "config.json").read_text())
    told["config"]["run"]["model"] = "ViT-B-16/laion2b_s34b_b88k"
    told["config"]["data"]["anchors"] = ["hf://datasets/team/anchors@v2", "here"]
    front = model_card("m", told, None).removeprefix("---\n").partition("\n---\n")[0]
    about = yaml.safe_load(front)
    assert about["base_model"] == "laion/CLIP-ViT-B-16-laion2B-s34B-b88K"
    assert about["datasets"] == ["team/anchors"]
    assert hub_name("hf-hub:team/clip") == "team/clip"
    assert hub_name("some/folder") is None


def test_a_run_is_pushed_in_open_clips_layout(run: Run, hub: Hub, images: Path) -> None:
    result = run("--eval-id", images, "--eval-every", "1", "--best", "id")
    folder = result.output
    history = [str(folder), "hf://team/model@v2", "--history"]
    best = [str(folder / "best"), "hf://team/best"]
    code, said, wrong = commands(hub, [str(folder), "hf://team/model"], history, best)
    assert code == 0, wrong
    assert said.count("/team/model/commit/") == 2
    files = hub.files("team/model")
    for name in ("open_clip_config.json", "open_clip_model.safetensors", "README.md"):
        assert files[name] == (folder / name).read_bytes()
    assert "tokenizer.json" in files
    assert not {"metrics.jsonl", "config.json", "loss.png"} & set(files)
    assert hub.private["team/model"]
    assert {"metrics.jsonl", "config.json", "loss.png"} <= set(hub.files("team/model", "v2"))
    kept = hub.files("team/best")
    assert kept.keys() == files.keys()
    for name in ("open_clip_config.json", "open_clip_model.safetensors", "README.md"):
        assert kept[name] == (folder / "best" / name).read_bytes()


def crash(*arguments: object) -> str:
    raise KeyboardInterrupt


def test_the_card_of_the_best_model_says_what_it_was_best_at(
    run: Run, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flags = ("--eval-id", f"seen={images}", "--eval-every", "1", "--best", "id/seen/top1")
    with monkeypatch.context() as patch:
        patch.setattr(trainer.best, "model_card", crash)
        with pytest.raises(KeyboardInterrupt):
            run(*flags)
    folder = tmp_path / "run"
    assert (folder / "best" / "open_clip_config.json").exists()
    with pytest.raises(UserError, match="holds no run"):  # its card might be of other weights
        model_files(folder / "best")
    result = run(*flags)
    assert result.results is not None
    best = result.results["best"]
    evals = {line["step"]: line["eval"] for line in read_metrics(folder) if "eval" in line}
    card = (folder / "best" / "README.md").read_text()
    told = f"the weights after step {best['step']} of 6 ({best['step'] // 3} epochs)"
    assert told in " ".join(card.split())
    assert f"that the run measured: `id/seen/top1` {best['value']:.2f}." in card
    assert f"measurement after step {best['step']}." in card
    assert f"| seen | in distribution | 24 | {evals[best['step']]['id/seen/top1']:.2f} |" in card
    assert card.startswith("---\n")
    assert "\n# run-best\n" in card
    assert folder / "best" / "README.md" in model_files(folder / "best")
    last = (folder / "README.md").read_text()
    assert "measurement after the last step." in last
    assert "the weights after step" not in last


def test_what_cannot_be_pushed_is_a_sentence(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    interrupt(run, 4, monkeypatch)
    for arguments, sentence in (
        ([str(tmp_path / "run"), "hf://team/model"], "is not finished"),
        ([str(tmp_path), "hf://team/model"], "holds no run; give the --output of one"),
        ([str(tmp_path / "run"), "team/model"], "is not of the form hf://ORG/NAME"),
        ([str(tmp_path / "run"), "hf://datasets/team/model"], "is not of the form"),
    ):
        assert main(arguments) == 2
        assert sentence in capsys.readouterr().err.splitlines()[-1]
