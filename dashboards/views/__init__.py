"""Pages of the report app, one file each; listed in `dashboards.PAGES`."""
