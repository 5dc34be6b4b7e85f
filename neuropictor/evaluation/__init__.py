"""Scores of reconstructions, controls, linear baselines, tables and figures.

Only `diffusion`, `controls`, `baselines` and `metrics` need torch; the others do not load it.
"""
