"""NSD's own conventions: numbers, file names, trials and splits, betas, annotations. Loads no torch."""
