"""Shows and collects; never imports torch."""

# The pages of the report app, in the order of its menu. A page is a function of the experiments that were found. Their
# folder is not called "pages": Streamlit takes such a folder for its own and runs a file of it, which shows nothing,
# when a link to a page is the first that a server hears of.
PAGES: dict[str, str] = {
    "overview": "dashboards.views.overview:show",
    "leaderboard": "dashboards.views.leaderboard:show",
    "training": "dashboards.views.training:show",
    "optimisation": "dashboards.views.optimisation:show",
    "gallery": "dashboards.views.gallery:show",
    "physics": "dashboards.views.physics:show",
    "checkpoints": "dashboards.views.checkpoints:show",
    "preferences": "dashboards.views.preferences:show",
    "reward": "dashboards.views.reward:show",
}
