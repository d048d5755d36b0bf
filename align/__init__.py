"""Moves a generator toward a reward: one loop, algorithms as small plug-ins, exact resume."""

ALGORITHMS = {
    "awm": "align.advantage_matching:AdvantageMatching",
    "ddpo": "align.ddpo:DDPO",
    "dpo": "align.dpo:DPO",
    "grpo": "align.grpo:GRPO",
    "nft": "align.nft:NFT",
    "ppo": "align.ppo:PPO",
    "reward_gradient": "align.reward_gradient:RewardGradient",
    "weighted_regression": "align.weighted_regression:WeightedRegression",
}
