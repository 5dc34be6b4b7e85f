"""How the shipped miniature is made: ``python -m neuropictor.miniature --help``."""
