"""The diffusion transformer: patches, positions, blocks."""
