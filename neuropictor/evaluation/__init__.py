"""Scores of reconstructions: metrics, judges, statistics, ceilings, linear baselines and tables.

Only `baselines`, `evaluate`, `folders` and `networks` load torch.
"""
