"""Scenes with objects and backgrounds."""
