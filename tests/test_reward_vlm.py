"""Real classes of Qwen2-VL and Qwen3-VL with tiny random weights: what they are shown, learn and refuse."""

import json
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from reward_examples import batch, ordered_and_shuffled
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen2VLConfig, Qwen2VLModel, Qwen3VLConfig, Qwen3VLModel
from transformers.models.qwen2_vl.image_processing_qwen2_vl import smart_resize
from transformers.models.qwen2_vl.video_processing_qwen2_vl import Qwen2VLVideoProcessor
from transformers.models.qwen3_vl.processing_qwen3_vl import Qwen3VLProcessor
from transformers.models.qwen3_vl.video_processing_qwen3_vl import Qwen3VLVideoProcessor

import reward
from core import video
from core.cli import main
from core.errors import UserError
from core.preferences import Store
from reward import vlm
from reward.bradley_terry import A, B
from reward.video_align import ASPECTS, TOKENS, fill, video_align
from reward.vlm import Reading, Scorer, VlmConfig

SPECIAL = [
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|video_pad|>",
    "<|image_pad|>",
    "<pad>",
]
PROMPTS = ["a red ball", "a blue ball moves"]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder with a Qwen2-VL of two tiny layers and a tokenizer of single letters."""
    return _model(tmp_path_factory.mktemp("qwen2"), 2)


@pytest.fixture(scope="module")
def base3(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The same of Qwen3-VL."""
    return _model(tmp_path_factory.mktemp("qwen3"), 3)


def _model(folder: Path, generation: int) -> str:
    letters = [chr(code) for code in range(10, 127)]
    words = Tokenizer(models.WordLevel({word: index for index, word in enumerate([*SPECIAL, *letters])}, unk_token="~"))
    words.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokens = PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>")
    tokens.add_special_tokens({"additional_special_tokens": SPECIAL[:-1]})
    tokens.save_pretrained(folder)
    torch.manual_seed(0)
    text = {
        "vocab_size": len(SPECIAL) + len(letters),
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
    }
    text |= {"num_attention_heads": 2, "num_key_value_heads": 2, "pad_token_id": SPECIAL.index("<pad>")}
    text |= {"rope_parameters": {"rope_type": "default", "mrope_section": [2, 3, 3], "rope_theta": 1e4}}
    text |= {"bos_token_id": 0, "eos_token_id": 1}
    vision = {"depth": 1, "num_heads": 2, "patch_size": 4}
    places = {"video_token_id": 4, "image_token_id": 5, "vision_start_token_id": 2, "vision_end_token_id": 3}
    if generation == 2:
        vision |= {"embed_dim": 16, "hidden_size": 32, "mlp_ratio": 2}
        model = Qwen2VLModel(Qwen2VLConfig(text_config=text, vision_config=vision, **places))
    else:
        text["head_dim"] = 16
        vision |= {"hidden_size": 16, "out_hidden_size": 32, "intermediate_size": 32}
        vision |= {"num_position_embeddings": 16, "deepstack_visual_indexes": [0]}
        model = Qwen3VLModel(Qwen3VLConfig(text_config=text, vision_config=vision, **places))
    model.save_pretrained(folder)
    return str(folder)


def _frames(time: int = 5) -> torch.Tensor:
    return torch.rand(2, time, 3, 16, 24, generator=torch.Generator().manual_seed(0))


def _scorer(base: str, aspects: tuple[str, ...] = ("motion_quality", "overall")) -> Scorer:
    torch.manual_seed(1)
    return Scorer(base, Reading.of(aspects, num_frames=4)).eval()


@pytest.mark.parametrize(
    ("generation", "processor"), [(vlm.QWEN2, Qwen2VLVideoProcessor), (vlm.QWEN3, Qwen3VLVideoProcessor)]
)
def test_patches_are_those_of_the_processor(generation: vlm.Generation, processor: Any) -> None:
    frames = (_frames(4) * 255).round() / 255
    ours, grid = vlm.patches(frames, generation, 4, 2, 2, 10_000)
    theirs = processor(patch_size=4, merge_size=2, temporal_patch_size=2)
    options = {"do_sample_frames": False, "size": {"shortest_edge": 1, "longest_edge": 10_000}, "return_tensors": "pt"}
    wanted = theirs(videos=[(one * 255).byte() for one in frames], **options)
    assert torch.tensor([grid, grid]).tolist() == wanted["video_grid_thw"].tolist()
    torch.testing.assert_close(ours, wanted["pixel_values_videos"], atol=1e-4, rtol=1e-4)


def test_qwen3_reads_the_time_of_every_tube_as_its_processor_says_it() -> None:
    seen = {"video_grid_thw": torch.tensor([[3, 4, 6]])}
    seen["video_metadata"] = [SimpleNamespace(fps=vlm.FPS, frames_indices=list(range(6)))]  # type: ignore[list-item]
    theirs = SimpleNamespace(
        video_processor=SimpleNamespace(merge_size=2, temporal_patch_size=2),
        vision_start_token=vlm.START,
        video_token=vlm.PAD,
        vision_end_token=vlm.END,
        _calculate_timestamps=partial(Qwen3VLProcessor._calculate_timestamps, None),
    )
    ours = vlm.placeholder((3, 4, 6), 2, 2, timed=True)
    assert ours == Qwen3VLProcessor.replace_video_token(theirs, seen, 0)  # type: ignore[arg-type]
    assert ours.startswith(f"<0.2 seconds>{vlm.START}{6 * vlm.PAD}{vlm.END}<1.2 seconds>")


@pytest.mark.parametrize("size", [(480, 832), (448, 448), (720, 1280), (64, 64), (1000, 130)])
def test_sizes_are_those_of_the_processor(size: tuple[int, int]) -> None:
    assert vlm.fitting(*size, 28, 448 * 448) == smart_resize(*size, 28, 1, 448 * 448)


@pytest.mark.parametrize("generation", ["base", "base3"])
def test_scores_do_not_depend_on_the_batch_and_see_prompt_order_and_every_aspect(
    generation: str, request: pytest.FixtureRequest
) -> None:
    scorer = _scorer(request.getfixturevalue(generation))
    with torch.no_grad():
        both = scorer(_frames(), PROMPTS)
        alone = torch.cat([scorer(_frames()[[i]], [PROMPTS[i]]) for i in range(2)])
        assert both.shape == (2, 2)
        torch.testing.assert_close(both, alone, atol=1e-5, rtol=1e-4)
        assert not torch.allclose(scorer(_frames(), PROMPTS[::-1]), both, atol=1e-4)
        assert not torch.allclose(scorer(_frames().flip(1), PROMPTS), both, atol=1e-4)
    assert not torch.allclose(both[:, 0], both[:, 1], atol=1e-4)


@pytest.mark.parametrize("generation", ["base", "base3"])
def test_lora_learns_from_votes_and_the_folder_scores_alike(
    generation: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    clips = [clip for _, right, wrong in ordered_and_shuffled(6) for clip in (right, wrong * 0.2)]  # plainly darker
    frames, prompts = batch(clips)[:, :, :, ::2, ::2], ["a ball"] * 12
    pair, votes = torch.arange(12).view(6, 2), torch.zeros(6, 1, 3)
    pair[1::2] = pair[1::2].flip(1)
    votes[0::2, 0, A] = votes[1::2, 0, B] = 1
    scorer = _scorer(request.getfixturevalue(generation), ("overall",))
    before = {name: value.clone() for name, value in scorer.model.visual.state_dict().items()}
    config = VlmConfig(lora_rank=4, epochs=6, batch_pairs=3, learning_rate=1e-2)
    judge = vlm.fit(scorer, lambda rows: (frames[rows], [prompts[i] for i in rows]), pair, votes, ["overall"], config)
    scores = judge(frames, prompts)
    right = scores.total[0::2] > scores.total[1::2]
    assert right.float().mean() >= 5 / 6
    torch.testing.assert_close(scores.total, scores.parts["overall"])
    assert all(torch.equal(value, before[name]) for name, value in scorer.model.visual.state_dict().items())
    vlm.save(judge, tmp_path / "reward", config)
    assert (tmp_path / "reward" / "adapter.safetensors").stat().st_size < 60_000  # without the base model
    again = reward.load(str(tmp_path / "reward"))
    torch.testing.assert_close(again(frames, prompts).total, scores.total)
    (tmp_path / "reward" / "adapter.safetensors").write_bytes(b"short")
    with pytest.raises(UserError, match="damaged reward"):
        reward.load(str(tmp_path / "reward"))


def test_the_votes_of_a_store_become_a_reward_by_one_command(
    base: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = Store(tmp_path / "votes.db", ["motion_quality", "overall"])
    for index, (_, right, wrong) in enumerate(ordered_and_shuffled(8)):
        ids = []
        for name, clip in (("right", right), ("wrong", wrong * 0.2)):
            video.write(tmp_path / f"{index}-{name}.mp4", clip[:, :, ::2, ::2], 8.0)
            ids.append(store.add_video(tmp_path / f"{index}-{name}.mp4"))
        pair = store.add_pair(f"ball {index}", *ids[:: 1 - 2 * (index % 2)])
        for aspect in store.aspects:
            store.record_vote(pair, "ada", aspect, "ab"[index % 2])
    words = ["reward", "vlm", "--store", str(store.path), "--out", str(tmp_path / "reward"), "--weights", base]
    options = "--lora_rank 2 --epochs 2 --learning_rate 1e-2 --num_frames 4 --lora_targets q_proj".split()
    assert main([*words, *options]) == 0
    assert "pairs: 5 training, 1 calibration, 2 held out" in capsys.readouterr().out
    report = json.loads((tmp_path / "reward" / "report.json").read_text())
    assert set(report["aspects"]) == {"motion_quality", "overall"} and report["num_videos"] == 16
    assert report["aspects"]["overall"]["accuracy"]["n"] == 2
    judge = reward.load(str(tmp_path / "reward"))
    scores = judge(torch.rand(1, 5, 3, 16, 16), ["a ball"])
    assert set(scores.parts) == {"motion_quality", "overall"} and torch.equal(scores.total, scores.parts["overall"])
    assert main([*words, "--lora_rank", "0"]) == 2
    assert "rank, epochs and batch_pairs must be at least 1" in capsys.readouterr().err


def _video_align(folder: Path, base: str) -> tuple[Path, dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """A checkpoint in VideoAlign's layout with the old names: LoRA of one layer, and what else was trained."""
    told = {"data_config": {"max_frame_pixels": 4096, "fps": 2, "num_frames": 4.0}, "training_args": {}}
    told |= {"model_config": {"model_name_or_path": base}, "peft_lora_config": {"lora_r": 2, "lora_alpha": 4}}
    norms = {f"{aspect}_{kind}": 0.5 + index for index, aspect in enumerate(ASPECTS) for kind in ("mean", "std")}
    (folder / "model_config.json").write_text(json.dumps(told | {"inference_config": norms}))
    (folder / "template.txt").write_text("judge {prompt} " + " ".join(TOKENS))
    step = folder / "checkpoint-11352"
    step.mkdir()
    torch.manual_seed(5)
    lora = {"base_model.model.model.layers.1.self_attn.q_proj.lora_A.weight": torch.randn(2, 32)}
    lora["base_model.model.model.layers.1.self_attn.q_proj.lora_B.weight"] = torch.randn(32, 2)
    rest = {"base_model.model.rm_head.weight": torch.randn(3, 32)}
    rest["base_model.model.visual.merger.ln_q.weight"] = torch.rand(16)
    rest["base_model.model.model.embed_tokens.weight"] = torch.randn(130, 32)
    from safetensors.torch import save_file

    save_file(lora, step / "adapter_model.safetensors")
    torch.save(rest, step / "non_lora_state_dict.pth")
    return folder, lora, rest


def test_video_aligns_checkpoint_is_merged_and_normalised_as_published(base: str, tmp_path: Path) -> None:
    folder, lora, rest = _video_align(tmp_path, base)
    judge = video_align(str(folder))
    down, up = lora.values()
    plain = Qwen2VLModel.from_pretrained(base).language_model.layers[1].self_attn.q_proj.weight
    merged = judge.scorer.model.language_model.layers[1].self_attn.q_proj.weight
    torch.testing.assert_close(merged, plain + 2 * up @ down)
    torch.testing.assert_close(
        judge.scorer.model.visual.merger.ln_q.weight, rest["base_model.model.visual.merger.ln_q.weight"]
    )
    torch.testing.assert_close(judge.scorer.head.weight, rest["base_model.model.rm_head.weight"])
    scores = judge(_frames(), PROMPTS)
    with torch.no_grad():
        raw = judge.scorer(_frames(), PROMPTS)
    norm = torch.tensor([0.5, 1.5, 2.5])
    torch.testing.assert_close(torch.stack([scores.parts[one] for one in ASPECTS], 1), (raw - norm) / norm)
    torch.testing.assert_close(scores.total, ((raw - norm) / norm).sum(1))
    assert reward.load(f"video-align:{folder}").name == "video-align"


def test_checkpoints_that_do_not_fit_are_refused_in_one_line(base: str, tmp_path: Path) -> None:
    folder, _, rest = _video_align(tmp_path, base)
    scorer = Scorer(base, Reading(TOKENS, "{prompt} " + " ".join(TOKENS)))
    with pytest.raises(UserError, match="another layout: model.unknown is out of place"):
        fill(scorer, rest | {"model.unknown": torch.zeros(1)}, 1.0, folder)
    with pytest.raises(UserError, match="rm_head.weight is out of place"):
        fill(scorer, {}, 1.0, folder)
    (folder / "template.txt").unlink()
    with pytest.raises(UserError, match=r"template\.txt is missing"):
        video_align(str(folder))
    (folder / "model_config.json").write_text("{}")
    with pytest.raises(UserError, match="not VideoAlign's"):
        video_align(str(folder))
    with pytest.raises(UserError, match="the template must hold"):
        Scorer(base, Reading(("<|x|>",), "no place for it"))
