"""Prepared data: responses, pictures and captions, cached latents, reconstructions.

The stores (`responses`, `stimuli`, `reconstructions`) are plain HDF5 readers and do not load torch.
"""
