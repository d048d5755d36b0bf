"""Pages of the labeling app: the door, the screen, one's own labels, the project."""
