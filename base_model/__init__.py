"""Makes videos: the sandbox world, the native generator, and adapters to others."""
