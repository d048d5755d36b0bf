"""Shows and collects; never imports torch."""

# The pages of the report app, in the order of its menu. A page is a function of the experiments that were found.
PAGES: dict[str, str] = {
    "overview": "dashboards.pages.overview:show",
    "leaderboard": "dashboards.pages.leaderboard:show",
    "training": "dashboards.pages.training:show",
    "optimisation": "dashboards.pages.optimisation:show",
    "gallery": "dashboards.pages.gallery:show",
    "physics": "dashboards.pages.physics:show",
    "checkpoints": "dashboards.pages.checkpoints:show",
    "preferences": "dashboards.pages.preferences:show",
    "reward": "dashboards.pages.reward:show",
}
