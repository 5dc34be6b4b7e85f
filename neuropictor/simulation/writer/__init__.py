"""A simulated NSD in NSD's own files."""
