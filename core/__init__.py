"""The nouns that rooms which may not know each other share: a video, a set of them, preferences, a run, an interval.

Importable without torch. Left out on purpose: anything that knows what a model is.
"""
