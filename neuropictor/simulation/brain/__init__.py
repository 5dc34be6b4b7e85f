"""Responses of a simulated visual cortex."""
