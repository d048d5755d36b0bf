"""The sandbox CLIP: the true vocabulary, rows that know nothing of each other, an embedding blind to frame order."""

from pathlib import Path

import pytest
import torch
from open_clip.tokenizer import SimpleTokenizer
from torch import Tensor

from base_model.text import SandboxClip, load_clip
from base_model.world.dataset import prompts

WORDS = ["a red ball bounces", "", "a large orange triangle swings left on a rod like a pendulum", "Ünïcode  dog, 3.5!"]


@pytest.fixture(scope="module")
def clip() -> SandboxClip:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return SandboxClip(dim=16, vision_width=48, vision_layers=1, text_width=16, text_layers=2).eval()


def _frames(batch: int = 3, time: int = 4, size: int = 64) -> Tensor:
    return torch.rand(batch, time, 3, size, size, generator=torch.Generator().manual_seed(1))


def test_token_ids_are_those_of_open_clip(clip: SandboxClip) -> None:
    texts = [*WORDS, *prompts(0, 40)]
    expected = SimpleTokenizer(context_length=77)(texts)
    assert torch.equal(clip.tokenize(texts), expected[:, :40]) and not expected[:, 40:].any()


def test_a_prompt_too_long_is_cut_and_keeps_its_end(clip: SandboxClip) -> None:
    ids = clip.tokenize(["red ball " * 60])[0]
    assert len(ids) == 40 and ids[-1] == clip.tokenizer.eot_token_id and (ids != 0).all()


def test_every_sandbox_prompt_fits_the_context(clip: SandboxClip) -> None:
    longest = max((clip.tokenize([text])[0] != 0).sum() for text in prompts(1, 60, style="descriptive", most_objects=3))
    assert longest < 40


@torch.no_grad()
def test_a_row_does_not_depend_on_the_other_prompts_of_the_call(clip: SandboxClip) -> None:
    together = clip.text_tokens(WORDS)
    for index, text in enumerate(WORDS):
        for alone, row in zip(clip.text_tokens([text]), together, strict=True):
            assert torch.allclose(alone[0].float(), row[index].float(), atol=1e-6)


@torch.no_grad()
def test_padding_changes_no_real_token(clip: SandboxClip) -> None:
    vectors, mask, pooled = clip.text_tokens(["a small red ball"])
    assert mask[0].tolist() == [True] * 6 + [False] * 34  # begin, four words, end
    short = SandboxClip(**{**clip.config, "context_length": 6}).eval()
    weights = clip.state_dict()
    weights["clip.positional_embedding"] = weights["clip.positional_embedding"][:6]
    short.load_state_dict({name: value for name, value in weights.items() if name in short.state_dict()})
    unpadded, _, same = short.text_tokens(["a small red ball"])
    assert torch.allclose(vectors[:, :6], unpadded, atol=1e-5) and torch.allclose(pooled, same, atol=1e-6)


@torch.no_grad()
def test_embeddings_have_length_one(clip: SandboxClip) -> None:
    frames = _frames()
    for embedding in (clip.encode_text(WORDS), clip.encode_frames(frames), clip.encode_videos(frames)):
        assert embedding.shape[-1] == 16 and torch.allclose(embedding.norm(dim=-1), torch.tensor(1.0), atol=1e-5)


@torch.no_grad()
def test_the_text_embedding_is_open_clips_own(clip: SandboxClip) -> None:
    own = clip.clip.encode_text(clip.tokenize(WORDS), normalize=True)
    assert torch.allclose(clip.encode_text(WORDS), own, atol=1e-6)


@torch.no_grad()
def test_the_order_of_frames_changes_nothing(clip: SandboxClip) -> None:
    frames = _frames()
    assert torch.allclose(clip.encode_videos(frames), clip.encode_videos(frames.flip(1)), atol=1e-6)
    assert torch.allclose(clip.encode_frames(frames).flip(1), clip.encode_frames(frames.flip(1)), atol=1e-6)


@torch.no_grad()
def test_other_sizes_are_resampled_to_the_models_own(clip: SandboxClip) -> None:
    constant = torch.full((1, 2, 3, 64, 64), 0.3)
    assert torch.allclose(clip.encode_videos(constant), clip.encode_videos(constant[..., :32, :48]), atol=1e-5)


@torch.no_grad()
def test_patch_tokens_of_a_frame(clip: SandboxClip) -> None:
    tokens = clip.encode_frames(_frames(), tokens=True)
    assert tokens.shape == (3, 4, 64, 48)


def test_score_is_the_cosine_and_has_a_gradient(clip: SandboxClip) -> None:
    frames = _frames().requires_grad_()
    score = clip.score(frames, WORDS[:3])
    expected = torch.nn.functional.cosine_similarity(clip.encode_videos(frames), clip.encode_text(WORDS[:3]))
    assert score.shape == (3,) and torch.allclose(score, expected, atol=1e-6)
    score.sum().backward()
    assert frames.grad is not None and frames.grad.abs().amax(dim=(1, 2, 3, 4)).min() > 0


@torch.no_grad()
def test_a_saved_clip_loads_as_it_was(clip: SandboxClip, tmp_path: Path) -> None:
    clip.save_pretrained(tmp_path)
    loaded = load_clip(tmp_path)
    assert torch.equal(loaded.encode_text(WORDS), clip.encode_text(WORDS))
    assert torch.equal(loaded.encode_videos(_frames()), clip.encode_videos(_frames()))
    assert not loaded.training and not any(value.requires_grad for value in loaded.parameters())
