"""Judges videos, and learns to."""
