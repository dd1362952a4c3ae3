"""Recipes and results; from a checkout: `python -m experiments.NAME`."""
