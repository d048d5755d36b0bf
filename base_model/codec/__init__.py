"""The video autoencoders: pixels to a small latent grid and back."""
