"""Checkpoints and maps of the official code."""
