"""Shows and collects; never imports torch."""
