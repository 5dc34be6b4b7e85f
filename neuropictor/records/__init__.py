"""Traces of a run: log lines, progress, complete files, and a record of how each was made."""
