"""Short prompts to detailed ones by a small language model that is taught which details make better videos.

First it copies how detailed captions are written (SFT on pairs of a short and a detailed caption), then it prefers the
expansions whose videos score higher: DPO on the best and worst of several, or GRPO with the score as reward. All
training is TRL's. The idea is the recaptioning of DALL-E 3 (Betker et al. 2023) and Sora. Videos are the dear part, so
a score is kept under its prompts and seed and never computed twice.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

from core import stats
from core.cli import option
from core.errors import UserError
from core.files import append_line, drop_partial_line, read_lines
from core.progress import track
from core.randomness import numpy_generator, seed_for
from reward.frame_reward import pretrained

if TYPE_CHECKING:
    from base_model.protocol import Generator
    from reward.protocol import Reward

ARROW = " =>"  # between a short prompt and its expansion
MAX_TOKENS = 48
BATCH = 16  # videos made and judged at once; what is killed loses no more of them
NUM_JUDGED = 4  # videos per held-out prompt, each of its own expansion and noise


class Expander:
    """A causal language model with its tokenizer, by hub id or folder."""

    def __init__(self, weights: str) -> None:
        from transformers import AutoModelForCausalLM, AutoTokenizer

        self.tokenizer = pretrained(AutoTokenizer, weights, padding_side="left")
        self.model = pretrained(AutoModelForCausalLM, weights).eval()
        if self.tokenizer.pad_token is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token

    @torch.no_grad()
    def expand(self, prompt: str, seed: int, temperature: float = 1.0) -> str:
        """An expansion drawn with this seed alone; the prompt itself where the model adds nothing."""
        given = self.tokenizer(prompt + ARROW, return_tensors="pt", add_special_tokens=False)
        ids = given.input_ids.to(self.model.device)
        rng = torch.Generator().manual_seed(seed_for(seed, f"expand {prompt}"))
        start, cache = ids.shape[1], None
        for _ in range(MAX_TOKENS):
            seen = ids if cache is None else ids[:, -1:]
            out = self.model(input_ids=seen, past_key_values=cache, use_cache=True)
            cache = out.past_key_values
            chances = (out.logits[0, -1].float().cpu() / temperature).softmax(-1)
            drawn = torch.multinomial(chances, 1, generator=rng)
            if int(drawn) == self.tokenizer.eos_token_id:
                break
            ids = torch.cat([ids, drawn.to(ids.device)[None]], 1)
        text = self.tokenizer.decode(ids[0, start:], skip_special_tokens=True).strip()
        return text.replace(" ,", ",") or prompt

    def save(self, folder: str | Path) -> None:
        self.model.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)


class VideoScore:
    """Score of the video that a prompt and a seed give; each is made once.

    The reward is told the short prompt: a video is judged by what the user wanted, whatever words were added.
    Args: generate: prompts and seeds -> frames. cache: file of JSON lines that keeps scores between runs. maker: what
        makes the videos; scores of other videos or by another reward are not taken from the file.
    """

    def __init__(
        self,
        generate: Callable[[Sequence[str], Sequence[int]], torch.Tensor],
        reward: Reward,
        cache: str | Path | None = None,
        maker: str = "",
    ) -> None:
        self.generate, self.reward = generate, reward
        self.source = {"maker": maker, "reward": f"{reward.name} {reward.version}"}
        self.cache = Path(cache) if cache is not None else None
        self.known: dict[tuple[str, str, int], float | None] = {}
        if self.cache is not None and self.cache.exists():
            drop_partial_line(self.cache)
            for row in read_lines(self.cache):
                if self.source.items() <= row.items():
                    self.known[row["short"], row["expanded"], row["seed"]] = row["score"]

    @torch.no_grad()
    def __call__(self, short: Sequence[str], expanded: Sequence[str], seeds: Sequence[int]) -> list[float | None]:
        """Scores of videos of `expanded`, judged by `short`; higher is better, None where it cannot be judged."""
        wanted = list(zip(short, expanded, seeds, strict=True))
        new = list(dict.fromkeys(key for key in wanted if key not in self.known))
        sign = 1.0 if self.reward.higher_is_better else -1.0
        for batch in track([new[start : start + BATCH] for start in range(0, len(new), BATCH)], "making videos"):
            frames = self.generate([text for _, text, _ in batch], [seed for _, _, seed in batch])
            totals = self.reward(frames, [text for text, _, _ in batch]).total.tolist()
            for key, total in zip(batch, totals, strict=True):
                self.known[key] = None if total != total else sign * total
                if self.cache is not None:
                    row = {"short": key[0], "expanded": key[1], "seed": key[2], "score": self.known[key]}
                    append_line(self.cache, self.source | row)
        return [self.known[key] for key in wanted]


def video_score(generator: Generator, reward: Reward, num_steps: int, cache: str | Path | None = None) -> VideoScore:
    """Scores of a generator's videos."""
    from base_model.sampler import generate_frames

    def generate(prompts: Sequence[str], seeds: Sequence[int]) -> torch.Tensor:
        return generate_frames(generator, prompts, seeds=seeds, num_steps=num_steps)

    return VideoScore(generate, reward, cache, f"{generator.name} {num_steps} steps")


@dataclass(frozen=True)
class ExpanderConfig:
    """How an expander is taught by the scores of its videos."""

    method: Literal["dpo", "grpo"] = option("dpo", "what follows the copying of captions")
    num_expansions: int = option(4, "expansions tried per prompt; each costs a video")
    steps: int = option(50, "optimizer steps of DPO or GRPO")
    batch: int = option(8, "pairs (DPO) or expansions (GRPO) per step")
    learning_rate: float = option(1e-4, "of DPO or GRPO")
    beta: float = option(0.1, "how much straying from the copied captions costs")
    held_out_share: float = option(0.25, "share of prompts that only the report is made of")
    seed: int = option(0, "of drawing, order and videos")

    def __post_init__(self) -> None:
        if self.num_expansions < 2:
            raise UserError(f"num_expansions must be at least 2, seen {self.num_expansions}: one has none to beat")
        if not 0 < self.held_out_share < 1:
            raise UserError(f"held_out_share must lie between 0 and 1, seen {self.held_out_share}")
        if min(self.steps, self.batch) < 1 or not (self.learning_rate > 0 and self.beta >= 0):
            raise UserError(
                "steps and batch must be at least 1, learning_rate above 0 and beta at least 0, seen "
                f"{self.steps}, {self.batch}, {self.learning_rate} and {self.beta}"
            )
        if self.method == "grpo" and self.batch % self.num_expansions:
            raise UserError(
                f"grpo compares whole groups: batch must be a multiple of num_expansions {self.num_expansions}, "
                f"seen {self.batch}"
            )


def copy_captions(
    expander: Expander, pairs: Sequence[tuple[str, str]], epochs: int, learning_rate: float = 1e-3
) -> None:
    """SFT, in place, on pairs (short, detailed); the loss is of the detailed part."""
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    rows = Dataset.from_list([{"prompt": short + ARROW, "completion": f" {detailed}"} for short, detailed in pairs])
    with _common(learning_rate) as common:
        options = SFTConfig(**common, num_train_epochs=epochs, per_device_train_batch_size=32, max_length=None)
        _run(SFTTrainer(model=expander.model, args=options, train_dataset=rows, processing_class=expander.tokenizer))
    expander.model.eval()


def teach(
    expander: Expander, prompts: Sequence[str], held_out: Sequence[str], score: VideoScore, config: ExpanderConfig
) -> dict[str, Any]:
    """DPO or GRPO, in place, toward expansions of `prompts` whose videos score higher.

    Returns: what it did for videos of `held_out`, `NUM_JUDGED` each: mean scores of the prompts as they are ("short"),
        of expansions before ("copied") and after ("taught"), from the same noise; and the paired differences of the
        last to the others with intervals over prompts ("over_short", "over_copied"). "words_kept" is the share of the
        prompts' words that stand in the last expansions: below .9 or so the captions were copied too few times.
    Raises: UserError when every prompt's expansions score alike, since nothing can be learned then.
    """
    asked = [prompt for prompt in held_out for _ in range(NUM_JUDGED)]
    noise = [seed_for(config.seed, "judged video", number) for number in range(len(asked))]

    def drawn() -> list[str]:
        return [expander.expand(text, seed_for(config.seed, "judge", number)) for number, text in enumerate(asked)]

    scores = {"short": score(asked, asked, noise), "copied": score(asked, drawn(), noise)}
    if config.method == "dpo":
        _dpo(expander, prompts, score, config)
    else:
        _grpo(expander, prompts, score, config)
    expander.model.eval()
    expanded = drawn()
    scores["taught"] = score(asked, expanded, noise)
    values = {name: np.array(found, dtype=float) for name, found in scores.items()}  # None becomes NaN
    told: dict[str, Any] = {name: stats.mean_interval(found, asked).value for name, found in values.items()}
    for name in ("short", "copied"):
        told[f"over_{name}"] = asdict(stats.paired_difference(values[name], values["taught"], asked, config.seed))
    told["words_kept"] = float(np.mean([words_kept(*both) for both in zip(asked, expanded, strict=True)]))
    return told


def words_kept(short: str, expanded: str) -> float:
    """The share of a prompt's words that stand in its expansion."""
    words = set(short.split())
    return len(words & set(expanded.replace(",", " ").split())) / max(1, len(words))


def split(prompts: Sequence[str], config: ExpanderConfig) -> tuple[list[str], list[str]]:
    """Prompts to learn on, and those that are held out. Raises: UserError with fewer than two."""
    if len(prompts) < 2:
        raise UserError(f"{len(prompts)} prompts cannot be split into some to learn on and some held out; give more")
    order = numpy_generator(config.seed, "expander split").permutation(len(prompts))
    num_held_out = min(len(prompts) - 1, max(1, round(config.held_out_share * len(prompts))))
    drawn = [prompts[number] for number in order]
    return drawn[num_held_out:], drawn[:num_held_out]


def ranked(
    expander: Expander, prompts: Sequence[str], score: VideoScore, config: ExpanderConfig
) -> list[dict[str, str]]:
    """Per prompt the best and the worst of several expansions, in TRL's preference form; prompts without a difference
    are left out. All expansions of a prompt start from the same noise, so the words alone make the difference."""
    rows = []
    for number, prompt in enumerate(prompts):
        tried = sorted({expander.expand(prompt, seed_for(config.seed, "try", k)) for k in range(config.num_expansions)})
        scores = score([prompt] * len(tried), tried, [seed_for(config.seed, "video", number)] * len(tried))
        judged = sorted((one, text) for one, text in zip(scores, tried, strict=True) if one is not None)
        if len(judged) > 1 and judged[0][0] < judged[-1][0]:
            rows.append({"prompt": prompt + ARROW, "chosen": f" {judged[-1][1]}", "rejected": f" {judged[0][1]}"})
    return rows


def _dpo(expander: Expander, prompts: Sequence[str], score: VideoScore, config: ExpanderConfig) -> None:
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer

    rows = ranked(expander, prompts, score, config)
    if not rows:
        raise UserError(f"all expansions of {len(prompts)} prompts score alike; try more prompts or expansions")
    pairs = Dataset.from_list(rows)
    with _common(config.learning_rate, config.seed) as common:
        options = DPOConfig(
            **common,
            max_steps=config.steps,
            per_device_train_batch_size=config.batch,
            beta=config.beta,
            max_length=None,
            # DPO alone makes the chosen words rarer too, if less so than the rejected, and a tiny model forgets to
            # speak: taught on brightness it then wrote both sizes, and its videos grew darker. Source: Pang et al.
            # 2024, eq. 1.
            loss_type=["sigmoid", "sft"],
        )
        _run(DPOTrainer(model=expander.model, args=options, train_dataset=pairs, processing_class=expander.tokenizer))


def _grpo(expander: Expander, prompts: Sequence[str], score: VideoScore, config: ExpanderConfig) -> None:
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer

    def reward(prompts: list[str], completions: list[str], number: list[int], **rest: Any) -> list[float | None]:
        short = [text.removesuffix(ARROW) for text in prompts]
        expanded = [text.strip() or one for text, one in zip(completions, short, strict=True)]
        return score(short, expanded, [seed_for(config.seed, "video", n) for n in number])

    rows = Dataset.from_list([{"prompt": text + ARROW, "number": number} for number, text in enumerate(prompts)])
    with _common(config.learning_rate, config.seed) as common:
        options = GRPOConfig(
            **common,
            max_steps=config.steps,
            per_device_train_batch_size=config.batch,
            num_generations=config.num_expansions,
            max_completion_length=MAX_TOKENS,
            beta=config.beta,
        )
        trainer = GRPOTrainer(
            model=expander.model,
            reward_funcs=reward,
            args=options,
            train_dataset=rows,
            processing_class=expander.tokenizer,
        )
        _run(trainer)


@contextlib.contextmanager
def _common(learning_rate: float, seed: int = 0) -> Iterator[dict[str, Any]]:
    """Options that all of TRL's trainers share here: no reports, no checkpoints of weights or activations. The folder
    that they make all the same is gone afterwards."""
    with tempfile.TemporaryDirectory() as folder:
        yield {
            "output_dir": folder,
            "learning_rate": learning_rate,
            "seed": seed % 2**31,
            "activation_checkpointing": False,
            "bf16": torch.cuda.is_available(),
            "use_cpu": not torch.cuda.is_available(),
            "save_strategy": "no",
            "logging_strategy": "no",
            "report_to": "none",
            "disable_tqdm": True,
        }


def _run(trainer: Any) -> None:
    from transformers.trainer_callback import PrinterCallback

    trainer.remove_callback(PrinterCallback)
    trainer.train()


def read_captions(path: Path) -> list[tuple[str, str]]:
    """(short, detailed) captions of a file of JSON lines. Raises: UserError for a row without them."""
    pairs = []
    for number, row in enumerate(read_lines(path, whole=True), start=1):
        short, detailed = row.get("short"), row.get("detailed")
        if not (isinstance(short, str) and isinstance(detailed, str) and short.strip() and detailed.strip()):
            raise UserError(f"{path}: entry {number}: texts under 'short' and 'detailed' are expected, seen {row}")
        pairs.append((short, detailed))
    if not pairs:
        raise UserError(f"{path} holds no captions; write one {{short, detailed}} a line")
    return pairs


def sandbox_captions(count: int, seed: int) -> list[tuple[str, str]]:
    """(short, detailed) captions of random scenes of the sandbox; sizes are drawn, since short captions name none."""
    from base_model.world import caption, dataset

    rng = numpy_generator(seed, "expander captions")
    scenes = [dataset.draw_spec(rng, "train", most_objects=1) for _ in range(count)]
    return [(caption.caption(scene, "short"), caption.caption(scene, "descriptive")) for scene in scenes]


def tiny_expander(
    texts: Sequence[str], folder: str | Path, width: int = 64, layers: int = 2, seed: int = 0
) -> Expander:
    """A Llama with random weights that knows the words of `texts`, saved in `folder`: enough for the sandbox."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    split = pre_tokenizers.Whitespace()
    words = sorted({word for text in [*texts, ARROW] for word, _ in split.pre_tokenize_str(text)})
    index = {word: number for number, word in enumerate(["<pad>", "<eos>", "<unk>", *words])}
    inner = Tokenizer(models.WordLevel(index, unk_token="<unk>"))
    inner.pre_tokenizer = split
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>", padding_side="left"
    )
    config = LlamaConfig(
        vocab_size=len(index),
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=128,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=1,
        tie_word_embeddings=True,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return Expander(str(folder))
