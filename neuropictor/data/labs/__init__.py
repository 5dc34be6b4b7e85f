"""Readers of responses as labs have them: a file a kind, and their table in `neuropictor.data.labs.kinds`."""
