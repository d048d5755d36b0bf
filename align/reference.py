"""What holds a policy to the model it started as: the KL term, the same for every algorithm.

Left out: a pull on the weights themselves, which says nothing of what they do.
"""

from collections.abc import Callable

from torch import Tensor

from align import objectives
from align.experience import Part
from align.policy import Policy
from core.errors import UserError


def check_held(kl_weight: float) -> None:
    """Raises: UserError for a weight that would push the policy away from the reference."""
    if not kl_weight >= 0:
        raise UserError(f"kl_weight {kl_weight} must be 0 (no pull) or above; .001 to .04 are usual")


def held_velocity(
    policy: Policy,
    part: Part,
    kl_weight: float,
    distance: Callable[[Tensor, Tensor], Tensor] = objectives.velocity_distance,
) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """The policy's velocity at a part's latents, what its distance from the reference's costs, and what to log of that.

    Args:
        kl_weight: of the distance; at 0 the reference is not asked, which saves a forward.
        distance: of (velocity, the reference's velocity), one number per clip.
    Returns: velocity [batch, ...] and cost [batch], both with gradients; the cost is 0 at weight 0.
    """
    if kl_weight == 0:
        velocity = policy.velocity(part.before, part.step, part.condition)
        return velocity, velocity.new_zeros(len(velocity)), {}
    # The reference first: DDP writes its buffers anew at every forward, and a graph that waits would not stand it.
    reference = policy.reference_velocity(part.before, part.step, part.condition)
    velocity = policy.velocity(part.before, part.step, part.condition)
    kl = distance(velocity, reference)
    return velocity, kl_weight * kl, {"kl_reference": kl.detach().mean()}
