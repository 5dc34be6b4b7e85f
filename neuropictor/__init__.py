"""NeuroPictor: reconstruct seen pictures from fMRI."""

__version__ = "0.1.0"
