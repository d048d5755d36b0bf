"""Measures, with error bars."""
