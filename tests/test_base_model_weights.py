"""The weights that ship: small enough, the ones the model card names, and good enough to align."""

import hashlib
import re

import numpy as np
import pytest
import torch

from base_model.native import NativeGenerator
from base_model.options import WEIGHTS
from base_model.pipeline import sandbox
from base_model.world.dataset import Clip, make_clip
from base_model.world.motion import match
from base_model.world.reader import read
from core.randomness import numpy_generator

pytestmark = pytest.mark.skipif(
    not (WEIGHTS / "model_index.json").is_file(), reason="base_model/weights is not there; `soralign pretrain` makes it"
)


@pytest.fixture(scope="module")
def generator() -> NativeGenerator:
    return sandbox("float32")


@pytest.fixture(scope="module")
def clips() -> list[Clip]:
    return [make_clip(17, index, split="heldout", style="descriptive") for index in range(64)]


@pytest.fixture(scope="module")
def decoded(generator: NativeGenerator, clips: list[Clip]) -> np.ndarray:
    """The first 32 clips through the codec and back."""
    frames = torch.from_numpy(np.stack([clip.frames for clip in clips[:32]]))
    with torch.no_grad():
        return torch.cat([generator.decode(generator.encode(part)) for part in frames.split(8)]).numpy()


def test_the_files_are_at_most_40_megabytes_together() -> None:
    assert sum(path.stat().st_size for path in WEIGHTS.rglob("*") if path.is_file()) <= 40_000_000


def test_the_model_card_names_every_file_of_weights_by_its_sha256() -> None:
    card = (WEIGHTS / "README.md").read_text(encoding="utf-8")
    named = dict(re.findall(r"`([^`\s]+\.safetensors)`\s+([0-9a-f]{64})", card))
    files = {path.relative_to(WEIGHTS).as_posix(): path for path in WEIGHTS.rglob("*.safetensors")}
    assert set(named) == set(files) and len(files) == 3
    for name, path in files.items():
        assert hashlib.sha256(path.read_bytes()).hexdigest() == named[name], name


def test_no_weight_is_broken(generator: NativeGenerator) -> None:
    for part in (generator.vae, generator.transformer, generator.clip):
        assert all(value.isfinite().all() for value in part.state_dict().values())


def test_latents_are_normalised_by_the_statistics_that_ship(generator: NativeGenerator, clips: list[Clip]) -> None:
    with torch.no_grad():
        latents = generator.encode(torch.from_numpy(np.stack([clip.frames for clip in clips[:32]])))
    for part in (latents[:, :, :1], latents[:, :, 1:]):
        assert part.mean().abs() < 0.1 and abs(part.std() - 1) < 0.15


def test_the_codec_keeps_38_decibels_of_heldout_clips(decoded: np.ndarray, clips: list[Clip]) -> None:
    error = np.square(decoded - np.stack([clip.frames for clip in clips[:32]])).mean()
    assert -10 * np.log10(error) >= 38.0


def test_the_codec_keeps_what_the_reader_reads(decoded: np.ndarray, clips: list[Clip]) -> None:
    rows = [match(read(frames), clip.spec) for frames, clip in zip(decoded, clips, strict=False)]
    for name in ("colour", "count", "shape", "family", "direction"):
        assert np.mean([row[name] for row in rows]) >= 0.9, name


def test_clip_finds_the_prompt_of_a_video_among_32(generator: NativeGenerator, clips: list[Clip]) -> None:
    prompts = [clip.prompt for clip in clips]
    with torch.no_grad():
        videos = generator.clip.encode_videos(torch.from_numpy(np.stack([clip.frames[::2] for clip in clips])))
        score = (videos @ generator.clip.encode_text(prompts).T).numpy()
    rng, hits = numpy_generator(0, "distractors"), []
    for own in range(len(clips)):
        others = [index for index in range(len(clips)) if prompts[index] != prompts[own]]
        hits.append(score[own, own] > score[own, rng.choice(others, 31, replace=False)].max())
    assert np.mean(hits) >= 0.85
