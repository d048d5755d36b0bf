"""The losses, as pure functions of tensors: one value per sample, so that the caller can leave samples out.

Log-probabilities are means over latent elements here as everywhere in the suite; ratios and clip ranges follow.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from base_model.flow import denoised


def clipped_surrogate(log_ratio: Tensor, advantage: Tensor, clip_range: float) -> Tensor:
    """Loss [batch] that stops paying once the policy has moved `clip_range` away from the one that sampled.

    Args:
        log_ratio: log p_new - log p_old of one denoising step [batch], each a mean over latent elements.
        advantage: reward relative to its group [batch], dimensionless.
        clip_range: half-width of the free band around ratio 1. Around 1e-4 for mean log-probs; .2 is for sums.
    Source: PPO (Schulman et al. 2017, eq. 7), per denoising step as in DDPO (Black et al. 2023).
    """
    log_ratio = log_ratio.masked_fill(advantage == 0, 0.0)  # 0 times an infinite ratio would be NaN
    stopped = clipped_share(log_ratio.detach(), advantage, clip_range) > 0
    ratio = torch.where(stopped, log_ratio.detach(), log_ratio).exp()  # so would its gradient, where none passes
    return -(advantage * ratio).minimum(advantage * ratio.clamp(1.0 - clip_range, 1.0 + clip_range))


def score_function(log_ratio: Tensor, advantage: Tensor) -> Tensor:
    """Plain policy-gradient loss [batch]: its gradient is -advantage times that of log p_new.

    Only right while the policy is the one that sampled, where `log_ratio` is 0.
    Source: REINFORCE (Williams 1992), per denoising step as DDPO-SF (Black et al. 2023, eq. 3).
    """
    return -advantage * log_ratio


def clipped_share(log_ratio: Tensor, advantage: Tensor, clip_range: float) -> Tensor:
    """1 where `clipped_surrogate` no longer passes a gradient, else 0 [batch]."""
    move = log_ratio.expm1()
    outside = (move > clip_range) & (advantage > 0) | (move < -clip_range) & (advantage < 0)
    return outside.to(log_ratio.dtype)


def clipped_value_loss(value: Tensor, old_value: Tensor, returns: Tensor, clip_range: float) -> Tensor:
    """Half the squared error [batch] of a critic, with nothing to gain by moving more than `clip_range` in one round.

    Args: all [batch], in the unit of the returns; old_value: what the critic said while sampling.
    Source: the value loss of PPO's reference implementation (Schulman et al. 2017, OpenAI baselines).
    """
    near = old_value + (value - old_value).clamp(-clip_range, clip_range)
    return 0.5 * (value - returns).square().maximum((near - returns).square())


def guarded_log_ratio(log_ratio: Tensor, mean: Tensor, old_mean: Tensor, std: Tensor) -> Tensor:
    """Log-ratio [batch] without its bias, in a unit that is the same at all noise levels.

    The mean-form log-ratio is -|d mean|^2 / (2 std^2) + noise: its negative drift makes only the lower clip fire, and
    its scale differs between steps. Adding the drift back and multiplying by std cures both.
    Source: GRPO-Guard (Wang et al. 2025), ratio normalisation.
    """
    return (log_ratio + latent_kl(mean, old_mean, std)) * std.flatten()


def even_step_weight(sigma: Tensor, sigma_next: Tensor, num_steps: int) -> Tensor:
    """Weight [batch] of a step's loss that lets small and large steps move the velocity alike; 1 for even steps.

    The mean of a step moves with the velocity in proportion to the step's size, and so does the gradient.
    Source: GRPO-Guard (Wang et al. 2025), gradient reweighting.
    """
    return 1.0 / (num_steps * (sigma - sigma_next))


def trusted_surrogate(log_ratio: Tensor, advantage: Tensor, moved: Tensor, limit: float) -> Tensor:
    """Policy-gradient loss [batch] without clipping, silent where a step would leave the trust region further.

    Args: moved: KL [batch] between the sampling policy's step and the present one (`latent_kl`); limit: its bound.
    Source: Flow-DPPO, as documented in verl-omni.
    """
    outside = (moved.detach() > limit) & (log_ratio.detach() * advantage > 0)
    silent = outside | (advantage == 0)
    ratio = log_ratio.masked_fill(silent, 0.0).exp()  # never infinite where nothing passes: 0 times it would be NaN
    return -(advantage * ratio).masked_fill(silent, 0.0)


def approximate_kl(log_ratio: Tensor) -> Tensor:
    """Estimate [batch] of KL(old || new) from samples of old, never negative: (r - 1) - log r.

    Source: Schulman, "Approximating KL divergence" (2020), estimator k3.
    """
    return log_ratio.expm1() - log_ratio


def latent_kl(mean: Tensor, reference_mean: Tensor, std: Tensor) -> Tensor:
    """KL [batch] between two Gaussians of one denoising step, mean over latent elements: |mean - ref|^2 / (2 std^2).

    `std` includes the step size; leaving that out changes the weight by an order of magnitude (flow_grpo issue 22).
    """
    return ((mean - reference_mean).square() / (2.0 * std.square())).flatten(1).mean(1)


def velocity_distance(velocity: Tensor, reference_velocity: Tensor) -> Tensor:
    """Mean squared difference [batch] of two velocities: a KL that weighs all noise levels alike."""
    return (velocity - reference_velocity).square().flatten(1).mean(1)


def contrast(
    clean: Tensor, latents: Tensor, sigma: Tensor, velocity: Tensor, old: Tensor, goodness: Tensor, strength: float
) -> Tensor:
    """Loss [batch] that pulls the policy toward good clips and its mirror image around `old` toward bad ones.

    Args:
        clean: the judged clips' latents; latents: the same, noised to level `sigma` [batch].
        velocity, old: what the policy and the policy that sampled say at `latents`; only the first has a gradient.
        goodness: in [0, 1] [batch], 1/2 = as good as the group.
        strength: how far the two implicit policies stand from `old`, in steps of `velocity - old`.
    Source: DiffusionNFT (Zheng et al. 2025), eq. 5, with its self-normalised regression.
    """

    def error(mixed: Tensor) -> Tensor:
        miss = (denoised(latents, mixed, sigma) - clean).flatten(1)
        return miss.square().mean(1) / miss.detach().abs().mean(1).clamp(min=1e-5)

    better = error(old + strength * (velocity - old))
    worse = error(old - strength * (velocity - old))
    return (goodness * better + (1.0 - goodness) * worse) / strength


def preference_loss(chosen: Tensor, rejected: Tensor, share: Tensor, beta: float) -> Tensor:
    """Loss [pair] of predicting the chosen clip better, and the rejected worse, than the reference does.

    Args:
        chosen, rejected: velocity error minus the reference's velocity error on the same noisy latents [pair], means
            over latent elements.
        share: of the votes that chose so [pair], in [1/2, 1].
        beta: how strongly the reference holds; a margin of 2 / beta in error is a choice at odds of e.
    Source: Diffusion-DPO (Wallace et al. 2023, eq. 14) on velocities; share as label smoothing.
    """
    margin = 0.5 * beta * (rejected - chosen)
    return -(share * F.logsigmoid(margin) + (1.0 - share) * F.logsigmoid(-margin))
