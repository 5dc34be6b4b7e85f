"""Prepared data: responses, images and captions, cached latents, reconstructions.

The stores (`responses`, `stimuli`, `reconstructions`) are plain HDF5 readers and do not load torch.
"""
