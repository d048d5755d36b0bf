"""`soralign align diagnose RUN`: why the reward of a run does not rise, in words, each with the figure that shows it.

Reads only `config.yaml` and `metrics.jsonl`, so it works on a run that is still going, or on somebody else's machine. A
finding is a rule over the logged numbers; the rules are the list that maintainers of alignment code hand to those who
ask (ratio first, then batch, noise, clipping, learning rate), with the limits beside the rules.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median, stdev
from typing import Any

import yaml

from align.config import RATIO_TOLERANCE
from core.cli import parse, required
from core.errors import UserError
from core.run import read_metrics

SMALL_BATCH = 16  # clips per optimizer step: 8 did not learn, 32 did (DanceGRPO issue 81)
NOISY = 0.05  # cosine of two halves' gradients below which a batch is mostly noise
DEAD = 0.5
CLIPPED = 0.5
FAR = 1.0  # KL of the sampling policy, a mean over latent elements, above which the ratio says nothing
CERTAIN = 2.0  # standard errors
GOALS = {"reward/total": "reward", "align/preference_accuracy": "agreement with the votes"}
"""What should rise, the first that is logged, and what to call it: offline DPO has no reward."""
Row = Mapping[str, Any]


@dataclass(frozen=True)
class Finding:
    """what: the cause; figure: the number that shows it; advice: what to do next."""

    what: str
    figure: str
    advice: str


@dataclass(frozen=True)
class History:
    """A run's settings and logged lines."""

    config: Mapping[str, Any]
    rows: Sequence[Row]

    def values(self, name: str) -> list[float]:
        """What was logged under `name`, step by step, gaps left out."""
        return [float(row[name]) for row in self.rows if row.get(name) is not None]

    def mean(self, name: str) -> float | None:
        values = self.values(name)
        return fmean(values) if values else None

    def ends(self, name: str) -> tuple[float, float] | None:
        """Means of the first and the last third; None for fewer than six values."""
        values = self.values(name)
        third = len(values) // 3
        return (fmean(values[:third]), fmean(values[-third:])) if third >= 2 else None

    def rise(self, name: str) -> float | None:
        """From the first to the last third, in standard errors of that difference."""
        values, ends = self.values(name), self.ends(name)
        if ends is None:
            return None
        third = len(values) // 3
        error = math.sqrt((stdev(values[:third]) ** 2 + stdev(values[-third:]) ** 2) / third)
        change = ends[1] - ends[0]
        return change / error if error > 0 else math.copysign(math.inf, change) if change else 0.0

    def lower_is_better(self, name: str) -> bool:
        return name in self.config.get("lower_is_better", ())

    def gain(self, name: str) -> float | None:
        """`rise`, turned so that above 0 is better."""
        rise = self.rise(name)
        return -rise if rise is not None and self.lower_is_better(name) else rise

    def number(self, key: str, default: float = 0.0) -> float:
        value = self.config.get(key, default)
        return float(value) if isinstance(value, int | float) else default

    @property
    def goal(self) -> str:
        """The name of GOALS that this run is about."""
        return next(name for name in GOALS if self.values(name))

    @property
    def clips(self) -> float:
        """Clips that are judged in a training step."""
        return self.number("prompts_per_step") * self.number("group_size", 1.0)

    @property
    def learned(self) -> float:
        """Clips that an optimizer step learns from, on average: of some groups the best and worst alone."""
        of_group = self.number("keep") or self.number("group_size", 1.0)
        if self.config["algorithm"] == "DPO":
            of_group = 2.0
        elif self.config.get("weighting") == "best":
            of_group = self.number("best", 1.0)
        groups = self.number("pairs_per_step" if self.config.get("store") else "prompts_per_step")
        return groups * of_group / max(1.0, self.number("updates", 1.0))

    @property
    def rounds(self) -> float:
        """Optimizer steps per training step."""
        return self.number("updates", 1.0) * self.number("passes", 1.0)


@dataclass(frozen=True)
class DiagnoseConfig:
    """Why does the reward of a run not rise? Reads its metrics and says what they show, and what to do next."""

    run: str = required("run folder of `soralign align`")


def command(argv: list[str]) -> None:
    """Print the findings of a run folder."""
    options = parse(DiagnoseConfig, argv, "soralign align diagnose", positional=("run",))
    print(report(read(options.run)))


def read(folder: Path | str) -> History:
    """The history of the run at `folder`. Raises: UserError if it is no alignment run, or has no metrics yet."""
    folder = Path(folder)
    try:
        config = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        raise UserError(
            f"'{folder}' holds no run (no readable config.yaml); give the --out of `soralign align`"
        ) from None
    if not isinstance(config, dict) or "algorithm" not in config:
        raise UserError(f"'{folder}' is a run of something else (its config.yaml names no algorithm)")
    rows = [row for row in read_metrics(folder) if any(row.get(name) is not None for name in GOALS)]
    if not rows:
        raise UserError(f"'{folder}' has no finished training step yet (metrics.jsonl)")
    return History(config, rows)


def findings(history: History) -> list[Finding]:
    """What is wrong, worst first."""
    return [finding for rule in RULES if (finding := rule(history)) is not None]


def report(history: History) -> str:
    """All of it as text."""
    first, last = history.rows[0], history.rows[-1]
    goal, called = history.goal, GOALS[history.goal]
    rise, gain, ends = history.rise(goal), history.gain(goal), history.ends(goal)
    lines = [f"{history.config['algorithm']}, {len(history.rows)} steps, {last.get('samples', 0)} clips"]
    if rise is None or ends is None:
        lines.append(f"{called} {first[goal]:.4g} -> {last[goal]:.4g}: too few steps for a trend (6 needed)")
    else:
        lower = history.lower_is_better(goal)
        word = "rises" if rise > CERTAIN else "falls" if rise < -CERTAIN else f"does not {'fall' if lower else 'rise'}"
        word += " (lower is better)" if lower else ""
        lines.append(
            f"{called} {word}: {ends[0]:.4g} in the first third of the steps, {ends[1]:.4g} in the last "
            f"({rise:+.1f} standard errors)"
        )
    found = findings(history)
    for number, one in enumerate(found, start=1):
        lines += ["", f"{number}. {one.what}", f"   seen: {one.figure}", f"   next: {one.advice}"]
    if not found and gain is not None and gain > CERTAIN:
        lines += ["", "nothing to complain of"]
    elif not found:
        lines += ["", "none of the known causes shows; next: run longer, or score the same clips twice to see the "
                  "reward's own noise (`soralign reward score`)"]  # fmt: skip
    return "\n".join(lines)


def ratio(history: History) -> Finding | None:
    worst = max(history.values("align/first_pass_ratio_error"), default=0.0)
    if worst <= RATIO_TOLERANCE:
        return None
    return Finding(
        "The policy does not reproduce its own samples, so every ratio is noise.",
        f"|ratio - 1| was up to {worst:.2g} before the first update, accepted is {RATIO_TOLERANCE:g}",
        "look for dropout, train mode, another batch shape or precision in training than in sampling",
    )


def broken_rewards(history: History) -> Finding | None:
    masked = history.mean("reward/masked") or 0.0
    if not masked or masked / history.clips < 0.1:
        return None
    return Finding(
        "Many clips have no reward and are left out.",
        f"{masked:.1f} of {history.clips:.0f} clips per step",
        "see the warnings of the run for the prompts, and score some clips with `soralign reward score`",
    )


def over_optimised(history: History) -> Finding | None:
    judges = sorted(
        {name for row in history.rows for name in row if name.startswith("judge/")} - {"judge/trained_reward"}
    )
    if not any(history.values("align/over_optimised")):
        return None
    best = {name: (min if history.lower_is_better(name) else max)(history.values(name)) for name in judges}
    name = max(judges, key=lambda one: abs(history.values(one)[-1] - best[one]))
    values = history.values(name)
    steps = [row["step"] for row in history.rows if row.get(name) is not None]
    return Finding(
        "Over-optimisation: the reward gets better while a judge that is not trained on gets worse.",
        f"{name} was {best[name]:.4g} at step {steps[values.index(best[name])]} and is {values[-1]:.4g} now",
        "take the checkpoint of that step; or raise kl_weight, lower learning_rate, or complete the reward",
    )


def dead_groups(history: History) -> Finding | None:
    dead = history.mean("align/dead_groups") or 0.0
    if dead < DEAD:
        return None
    return Finding(
        "Most groups are dead: their clips have equal rewards and teach nothing.",
        f"{dead:.0%} of the groups had no spread",
        "use a finer reward, more clips per group (group_size), more noise (eta), harder prompts, or --curriculum 0.5",
    )


def collapsed(history: History) -> Finding | None:
    for name, what in (("align/diversity", "the clips of a prompt"), ("align/motion_energy", "motion")):
        ends = history.ends(name)
        if ends is not None and ends[0] > 0 and ends[1] < 0.5 * ends[0]:
            word = "have become alike" if name.endswith("diversity") else "has gone"
            return Finding(
                f"The policy collapses: {what} {word}, whatever the reward says.",
                f"{name} {ends[0]:.3g} -> {ends[1]:.3g}",
                "go back to an earlier checkpoint; raise kl_weight, lower learning_rate, or reward what was lost",
            )
    ends = history.ends("align/saturation")
    if ends is not None and ends[1] > ends[0] + 0.2:
        return Finding(
            "Pixels run into black or full, a usual trick to please a reward.",
            f"align/saturation {ends[0]:.2f} -> {ends[1]:.2f}",
            "look at the sample clips; raise kl_weight or add a reward that minds",
        )
    return None


def small_batch(history: History) -> Finding | None:
    if history.learned >= SMALL_BATCH:
        return None
    return Finding(
        "The batch is too small for a policy gradient.",
        f"{history.learned:.0f} clips per optimizer step; at least {SMALL_BATCH}, better 32 and more, are in use",
        "raise prompts_per_step, or group_size where all of a group is learned from, or lower updates",
    )


def noisy_gradient(history: History) -> Finding | None:
    cosine = history.mean("align/gradient_agreement")
    if cosine is None or cosine >= NOISY:
        return None
    half = history.learned / 2
    need = f"about {half * (1 - cosine) / cosine:,.0f} clips would make it half signal" if cosine > 0 else ""
    return Finding(
        "The gradient is mostly noise.",
        f"the gradients of two halves of a batch have a cosine of {cosine:.3f} on average"
        + (f"; {need}" if need else ""),
        "raise prompts_per_step, use nft (its gradient is less noisy), adapt fewer layers (lora_targets), or run "
        "longer with a lower learning_rate",
    )


def far_steps(history: History) -> Finding | None:
    """Clipping bounds the loss of a good clip only: of a bad one that became likelier it grows with the ratio."""
    name = "align/approx_kl"
    far = [row["step"] for row in history.rows if name in row and (row[name] is None or row[name] > FAR)]
    if not far:
        return None
    return Finding(
        "Within a training step the policy moves too far for the ratio.",
        f"{name} is above {FAR:g} or beyond all numbers (null) in {len(far)} of {len(history.rows)} steps, first in "
        f"step {far[0]}; clip_range squared is usual",
        "lower learning_rate by 3 to 10, or passes and updates",
    )


def clipping(history: History) -> Finding | None:
    share, width = history.mean("align/clip_fraction"), history.number("clip_range")
    if share is None or width <= 0:
        return None
    if share > CLIPPED:
        return Finding(
            "Clipping stops most of the gradient: the clip range is too narrow for these steps.",
            f"{share:.0%} of the samples were outside 1 +- {width:g}",
            "lower learning_rate or updates, or raise clip_range; log-probabilities are means over latent elements, so "
            "1e-4 to 1e-3 is usual",
        )
    moved = math.sqrt(2 * max(0.0, history.mean("align/approx_kl") or 0.0))
    if history.rounds > 1 and share == 0 and moved < width / 10:
        return Finding(
            "The clip range never acts and the policy hardly moves between updates: the learning rate is too low.",
            f"no sample was clipped at {width:g}; the typical |ratio - 1| is {moved:.2g}",
            "raise learning_rate by 3 to 10, or narrow clip_range",
        )
    return None


def strong_kl(history: History) -> Finding | None:
    weight, distance = history.number("kl_weight"), history.values("align/kl_reference")
    if weight <= 0 or not distance:
        return None
    width, term = history.number("clip_range"), weight * distance[-1]
    losses = history.values("align/loss")
    most = width if width > 0 else abs(losses[-1]) / 2 if losses else math.inf
    better = history.gain(history.goal)
    if term <= most or (better is not None and better > CERTAIN):
        return None
    return Finding(
        "The KL to the reference is stronger than what a clip can gain.",
        f"kl_weight x KL is {term:.2g}; a sample gains at most about {most:.2g} per step",
        "lower kl_weight by 3 to 10, or set it to 0 and watch a held-out judge instead",
    )


def learning_rate(history: History) -> Finding | None:
    rate, norms = history.number("learning_rate"), history.values("align/grad_norm")
    third = len(norms) // 3
    if third >= 2 and median(norms[-third:]) > 10 * median(norms[:third]) > 0:
        return Finding(
            "The gradient explodes: the learning rate is too high.",
            f"median norm {median(norms[:third]):.2g} in the first third, {median(norms[-third:]):.2g} in the last",
            "go back to an earlier checkpoint in a new run with learning_rate a third of this, or lower max_grad_norm",
        )
    reach = rate * len(history.rows) * history.rounds
    gain = history.gain(history.goal)
    if norms and 0 < reach < 1e-3 and not (gain is not None and gain > CERTAIN):
        return Finding(
            "The weights have hardly moved yet: the learning rate is low for so few steps.",
            f"AdamW moves a weight by at most learning_rate x steps = {reach:.1g}",
            "raise learning_rate (1e-4 to 1e-3 for LoRA here), updates or steps",
        )
    if gain is not None and gain < -CERTAIN:
        return Finding(
            f"The {GOALS[history.goal]} gets worse: the steps are too large or go the wrong way.",
            f"{gain:+.1f} standard errors from the first to the last third, learning_rate {rate:g}",
            "lower learning_rate by 3; if it still does, check which way is better in what it is trained on",
        )
    return None


RULES: tuple[Callable[[History], Finding | None], ...] = (
    ratio,
    broken_rewards,
    over_optimised,
    collapsed,
    dead_groups,
    small_batch,
    noisy_gradient,
    far_steps,
    clipping,
    strong_kl,
    learning_rate,
)
