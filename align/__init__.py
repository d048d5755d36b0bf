"""Moves a generator toward a reward: one loop, algorithms as small plug-ins, exact resume."""

ALGORITHMS = {
    "ddpo": "align.ddpo:DDPO",
    "nft": "align.nft:NFT",
}
