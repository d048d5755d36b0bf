"""A vision-language model (Qwen2-VL, Qwen2.5-VL, Qwen3-VL) as a judge: it reads the video, then the prompt, then one
reward token per aspect, and a linear head turns the hidden state of each token into that aspect's utility.

One token per aspect keeps the aspects apart, where one shared token mixes them. The model is frozen but for LoRA, the
reward tokens' embeddings and the head; only these are saved. Source: VideoAlign (Liu et al. 2025, arXiv 2501.13918).
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from core import video
from core.cli import option
from core.errors import UserError, first_line
from core.files import atomic_write, replacing
from core.preferences import Vote
from core.progress import track
from core.randomness import numpy_generator
from core.video import CLIP_MEAN, CLIP_STD
from reward import accuracy
from reward.bradley_terry import LOSSES, vote_chances
from reward.examples import examples, split
from reward.frame_reward import pretrained
from reward.protocol import Scores, check, evenly_spaced, only_finite, weights_sha256
from reward.report import by_aspect, counts
from reward.train_config import TrainConfig

KIND = "soralign vlm reward"
START, PAD, END = "<|vision_start|>", "<|video_pad|>", "<|vision_end|>"
FPS = 2.0  # at which frames are said to be taken, as VideoAlign takes them: a reward is told no rate
CHAT = (
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
    "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"
)
QUESTION = "The video was made for this text: {prompt}\nHow good is it? "


@dataclass(frozen=True)
class Generation:
    """What differs between generations of models: mean and deviation of the colours that their vision towers were
    taught with, and whether every tube of frames stands by itself behind its time in words."""

    mean: tuple[float, ...]
    std: tuple[float, ...]
    timed: bool


QWEN2 = Generation(CLIP_MEAN, CLIP_STD, timed=False)
QWEN3 = Generation((0.5, 0.5, 0.5), (0.5, 0.5, 0.5), timed=True)
GENERATIONS = {"qwen2_vl": QWEN2, "qwen2_5_vl": QWEN2, "qwen3_vl": QWEN3}


@dataclass(frozen=True)
class Reading:
    """How a video is shown and asked about.

    tokens: one reward token per aspect, each exactly once in `template`, which also holds {prompt}.
    num_frames: evenly spaced frames. max_pixels: of a frame; larger ones are scaled down.
    """

    tokens: tuple[str, ...]
    template: str
    num_frames: int = 12
    max_pixels: int = 448 * 448

    @classmethod
    def of(cls, aspects: Sequence[str], **options: Any) -> Reading:
        """A plain question with a token for each aspect."""
        tokens = tuple(f"<|{aspect}_reward|>" for aspect in aspects)
        named = [f"{aspect.replace('_', ' ')}: {token}" for aspect, token in zip(aspects, tokens, strict=True)]
        return cls(tokens, QUESTION + " ".join(named), **options)


class Scorer(nn.Module):
    """Videos and prompts to one utility per reward token.

    Args: weights: hub id or folder of the model, with its tokenizer. Raises: UserError when it is no such model.
    """

    def __init__(self, weights: str, reading: Reading) -> None:
        super().__init__()
        from transformers import AutoModel, AutoTokenizer

        self.weights, self.reading = weights, reading
        if any(reading.template.count(token) != 1 for token in reading.tokens) or "{prompt}" not in reading.template:
            raise UserError(f"the template must hold {{prompt}} and once each of {', '.join(reading.tokens)}")
        self.tokenizer = pretrained(AutoTokenizer, weights)
        self.model = pretrained(AutoModel, weights)
        kind = self.model.config.model_type
        if kind not in GENERATIONS:
            raise UserError(f"{weights!r} is a {type(self.model).__name__}; known are {', '.join(GENERATIONS)}")
        self.generation = GENERATIONS[kind]
        self.tokenizer.add_special_tokens({"additional_special_tokens": list(reading.tokens)})
        self.tokenizer.padding_side = "right"
        rows = self.model.get_input_embeddings().num_embeddings
        if len(self.tokenizer) > rows:
            self.model.resize_token_embeddings(len(self.tokenizer), mean_resizing=False)
        self.ids = self.tokenizer.convert_tokens_to_ids(list(reading.tokens))
        width = self.model.get_input_embeddings().embedding_dim
        self.head = nn.Linear(width, len(reading.tokens), bias=False)
        nn.init.normal_(self.head.weight, std=1 / math.sqrt(width))
        self.model.eval().requires_grad_(False)

    def forward(self, frames: Tensor, prompts: Sequence[str]) -> Tensor:
        """Utilities [batch, token] of frames [batch, time, 3, height, width] in [0, 1]; differentiable."""
        vision = self.model.config.vision_config
        merge, tube = vision.spatial_merge_size, vision.temporal_patch_size
        shown = frames[:, evenly_spaced(frames.shape[1], self.reading.num_frames)]
        pixels, grid = patches(shown, self.generation, vision.patch_size, merge, tube, self.reading.max_pixels)
        words = placeholder(grid, merge, tube, self.generation.timed)
        asked = [CHAT.format(words + self.reading.template.replace("{prompt}", text)) for text in prompts]
        given = self.tokenizer(asked, padding=True, return_tensors="pt").to(frames.device)
        ids = given.input_ids
        hidden = self.model(
            input_ids=ids,
            attention_mask=given.attention_mask,
            pixel_values_videos=pixels.to(self.model.dtype),
            video_grid_thw=torch.tensor([grid] * len(prompts), device=ids.device),
            mm_token_type_ids=2 * (ids == self.model.config.video_token_id).int(),
            use_cache=False,
        ).last_hidden_state
        rows = torch.arange(len(ids), device=ids.device)
        places = [(ids == token).int().argmax(1) for token in self.ids]
        each = torch.stack([hidden[rows, place] for place in places], 1).to(self.head.weight.dtype)
        return torch.einsum("btw,tw->bt", each, self.head.weight)


def placeholder(grid: tuple[int, int, int], merge: int, tube: int, timed: bool) -> str:
    """Tokens that stand for a video of that grid of patches; `timed`: every tube of frames behind its middle time."""
    time, rows, columns = grid
    each = PAD * (rows * columns // merge**2)
    if not timed:
        return START + each * time + END
    middles = [(tube * (number + 0.5) - 0.5) / FPS for number in range(time)]
    return "".join(f"<{middle:.1f} seconds>{START}{each}{END}" for middle in middles)


def patches(
    frames: Tensor, generation: Generation, patch: int, merge: int, tube: int, max_pixels: int
) -> tuple[Tensor, tuple[int, int, int]]:
    """Frames [batch, time, 3, height, width] as the vision tower takes them: [batch x time x rows x columns, 3 x tube x
    patch^2], and the grid (time, rows, columns) of patches of one video. Rows and columns are cut into squares of
    `merge` patches, and time into tubes of frames, the last frame repeated to fill one."""
    frames = torch.cat([frames, frames[:, -1:].expand(-1, -frames.shape[1] % tube, -1, -1, -1)], 1)
    batch, time, _, height, width = frames.shape
    new = fitting(height, width, patch * merge, max_pixels)
    flat = frames.flatten(0, 1)
    if new != (height, width):
        flat = F.interpolate(flat, new, mode="bicubic", antialias=True, align_corners=False).clamp(0, 1)
    flat = (flat - flat.new_tensor(generation.mean)[:, None, None]) / flat.new_tensor(generation.std)[:, None, None]
    grid = (time // tube, new[0] // patch, new[1] // patch)
    cut = flat.reshape(batch, grid[0], tube, 3, grid[1] // merge, merge, patch, grid[2] // merge, merge, patch)
    return cut.permute(0, 1, 4, 7, 5, 8, 3, 2, 6, 9).reshape(batch * math.prod(grid), -1), grid


def fitting(height: int, width: int, side: int, max_pixels: int) -> tuple[int, int]:
    """Multiples of `side` nearest to (height, width), scaled down where they have more than `max_pixels`."""
    new = max(side, round(height / side) * side), max(side, round(width / side) * side)
    if new[0] * new[1] <= max_pixels:
        return new
    shrink = math.sqrt(height * width / max_pixels)
    return (
        max(side, math.floor(height / shrink / side) * side),
        max(side, math.floor(width / shrink / side) * side),
    )


class VlmReward:
    """A scorer as a `Reward`.

    Args:
        mean, deviation, shares: [aspect]; parts are (utility - mean) / deviation, `total` is their sum by shares.
    """

    unit = "standard deviations over the training videos"
    range = (-math.inf, math.inf)
    higher_is_better = True
    differentiable = True

    def __init__(
        self, name: str, scorer: Scorer, aspects: Sequence[str], mean: Tensor, deviation: Tensor, shares: Tensor
    ) -> None:
        self.name, self.scorer, self.aspects = name, scorer.eval().requires_grad_(False), tuple(aspects)
        self.mean, self.deviation, self.shares = mean, deviation, shares
        self.version = f"1 {scorer.weights} {weights_sha256(scorer)[:12]}"

    def __call__(self, frames: Tensor, prompts: Sequence[str]) -> Scores:
        check(frames, prompts)
        self.scorer.to(frames.device)
        mean, deviation, shares = (one.to(frames.device) for one in (self.mean, self.deviation, self.shares))
        scores = (self.scorer(frames, prompts).float() - mean) / deviation
        parts = {aspect: only_finite(scores[:, column], frames) for column, aspect in enumerate(self.aspects)}
        return Scores(only_finite(scores @ shares, frames), parts)


@dataclass(frozen=True)
class VlmConfig:
    """How LoRA and head are trained."""

    lora_rank: int = option(16, "of the adapter")
    lora_alpha: float = option(32.0, "lora_alpha / lora_rank scales the adapter")
    lora_targets: list[str] = option(
        ["q_proj", "k_proj", "v_proj", "o_proj"], "endings of the names of the language layers that are adapted"
    )
    epochs: int = option(2, "passes over the training pairs")
    batch_pairs: int = option(4, "pairs per optimizer step")
    learning_rate: float = option(1e-4, "of adapter and head, constant")
    loss: Literal["rao_kupper", "davidson", "bradley_terry", "margin"] = option(
        "rao_kupper", "model of votes; the last two count a tie as half a vote for each side"
    )
    margin: float = option(0.57, "of the margin loss, in logits of a vote")
    seed: int = option(0, "decides the split, initial weights and order")

    def __post_init__(self) -> None:
        if min(self.lora_rank, self.epochs, self.batch_pairs) < 1 or not self.learning_rate > 0:
            raise UserError(
                "lora_rank, epochs and batch_pairs must be at least 1 and learning_rate above 0, seen "
                f"{self.lora_rank}, {self.epochs}, {self.batch_pairs} and {self.learning_rate}"
            )


def adapt(scorer: Scorer, config: VlmConfig) -> None:
    """Put LoRA into the language layers, in place; embeddings of the reward tokens become trainable too."""
    from peft import LoraConfig, inject_adapter_in_model

    lora = LoraConfig(
        r=config.lora_rank,
        lora_alpha=config.lora_alpha,
        target_modules=rf".*language_model.*\.({'|'.join(config.lora_targets)})",
        trainable_token_indices={"embed_tokens": scorer.ids},
    )
    inject_adapter_in_model(lora, scorer.model)


def fit(
    scorer: Scorer,
    look: Callable[[list[int]], tuple[Tensor, list[str]]],
    pair: Tensor,
    votes: Tensor,
    aspects: Sequence[str],
    config: VlmConfig,
) -> VlmReward:
    """Train on votes.

    Args:
        look: frames and prompts of the videos with these numbers; called once per batch, so that memory does not grow.
        pair: [pair, 2] numbers of videos. votes: [pair, aspect, 3], in the order of the reading's tokens.
    """
    if len(aspects) != len(scorer.ids):
        raise UserError(f"{len(aspects)} aspects but {len(scorer.ids)} reward tokens")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        adapt(scorer, config)
        width = nn.Parameter(torch.full((len(aspects),), -2.0))
        trained = [one for one in scorer.parameters() if one.requires_grad]
        optimizer = torch.optim.AdamW([*trained, width], lr=config.learning_rate)
        rng = numpy_generator(config.seed, "vlm order")
        scorer.train()
        passes = [torch.from_numpy(rng.permutation(len(pair))) for _ in range(config.epochs)]
        for rows in track([rows for one in passes for rows in one.split(config.batch_pairs)], "training LoRA"):
            utility = scorer(*look(pair[rows].flatten().tolist())).unflatten(0, (len(rows), 2))
            difference = (utility[:, 0] - utility[:, 1]).float()
            loss = LOSSES[config.loss](difference, votes[rows].to(difference), width.to(difference), config.margin)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(trained, 1.0)
            optimizer.step()
    scorer.eval()
    utility = _utilities(scorer, look, pair.unique(), config.batch_pairs)
    shares = torch.tensor([float(aspect == "overall") for aspect in aspects])
    if not shares.any():
        shares = torch.full((len(aspects),), 1 / len(aspects))
    spread = utility.std(0, correction=0).clamp(min=1e-6)
    return VlmReward("vlm", scorer, aspects, utility.mean(0), spread, shares)


def _utilities(
    scorer: Scorer, look: Callable[[list[int]], tuple[Tensor, list[str]]], videos: Tensor, batch_pairs: int
) -> Tensor:
    """[video, aspect] on the CPU."""
    with torch.no_grad():
        batches = track(videos.split(2 * batch_pairs), "judging videos")
        return torch.cat([scorer(*look(rows.tolist())).float().cpu() for rows in batches])


def train(
    votes: Sequence[Vote], weights: str, config: VlmConfig, folder: str | Path, *, num_frames: int, max_pixels: int
) -> dict[str, Any]:
    """Teach a model the votes and write reward and report.json to `folder`; prompts are split as for a preference
    model, and the report says the same things.

    Raises: UserError for votes that cannot teach, videos that cannot be read or differ in shape, and weights that are
        no such model.
    """
    data = examples(votes)
    parts = split(data.pair_prompts, TrainConfig(seed=config.seed))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)  # of the head
        scorer = Scorer(weights, Reading.of(data.aspects, num_frames=num_frames, max_pixels=max_pixels))
    scorer.to("cuda" if torch.cuda.is_available() else "cpu")

    def look(videos: list[int]) -> tuple[Tensor, list[str]]:
        clips = [torch.from_numpy(video.read(data.videos[number]).frames) for number in videos]
        for clip, number in zip(clips, videos, strict=True):
            if clip.shape != clips[0].shape:
                raise UserError(
                    f"{data.videos[number]} has the shape {tuple(clip.shape)}, {data.videos[videos[0]]} "
                    f"{tuple(clips[0].shape)}; a vision-language model learns from videos of one shape"
                )
        return torch.stack(clips).to(scorer.head.weight.device), [data.prompts[number] for number in videos]

    judge = fit(scorer, look, data.pair[parts[0]], data.votes[parts[0]], data.aspects, config)
    utility = _utilities(scorer, look, torch.arange(len(data.videos)), config.batch_pairs)
    difference = utility[data.pair[:, 0]] - utility[data.pair[:, 1]]
    fitted = [
        accuracy.calibration(
            difference[parts[1], column].double().numpy(), data.votes[parts[1], column].double().numpy()
        )
        for column in range(len(data.aspects))
    ]
    temperature, log_theta, lapse = torch.tensor(fitted).T
    chances = vote_chances(difference / temperature, log_theta, lapse)
    report = {"aspects": by_aspect(difference, chances, data, parts), **counts(data, parts)}
    save(judge, folder, config)
    atomic_write(Path(folder) / "report.json", json.dumps(report | {"weights": weights}, indent=2) + "\n")
    return report


def save(reward: VlmReward, folder: str | Path, config: VlmConfig) -> None:
    """Write adapter.safetensors (LoRA, token embeddings, head, statistics), then config.json."""
    from peft import get_peft_model_state_dict

    folder = Path(folder)
    state = {f"model.{name}": value for name, value in get_peft_model_state_dict(reward.scorer.model).items()}
    state |= {"head": reward.scorer.head.weight, "mean": reward.mean, "deviation": reward.deviation}
    state["shares"] = reward.shares
    with replacing(folder / "adapter.safetensors") as temporary:
        save_file({name: value.detach().cpu().contiguous() for name, value in state.items()}, temporary)
    told: dict[str, Any] = {"kind": KIND, "weights": reward.scorer.weights, "aspects": reward.aspects}
    told |= {"reading": asdict(reward.scorer.reading), "lora": asdict(config)}
    atomic_write(folder / "config.json", json.dumps(told, indent=2) + "\n")


def load(folder: str | Path) -> VlmReward:
    """A saved reward. Raises: UserError when the folder is damaged or its base model cannot be had."""
    from peft import set_peft_model_state_dict

    folder = Path(folder)
    try:
        told = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        reading = Reading(**told["reading"] | {"tokens": tuple(told["reading"]["tokens"])})
        config = VlmConfig(**told["lora"])
        state = load_file(folder / "adapter.safetensors")
        head, mean, deviation, shares = (state.pop(name) for name in ("head", "mean", "deviation", "shares"))
    except UserError:
        raise
    except Exception as error:  # JSON, safetensors and missing keys have each their own
        raise UserError(f"{folder} is a damaged reward ({first_line(error)}); train it again") from None
    scorer = Scorer(told["weights"], reading)
    adapt(scorer, config)
    set_peft_model_state_dict(scorer.model, {name.removeprefix("model."): value for name, value in state.items()})
    scorer.head.weight.data.copy_(head)
    return VlmReward("vlm", scorer, told["aspects"], mean, deviation, shares)
