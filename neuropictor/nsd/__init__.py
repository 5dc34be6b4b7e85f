"""All that knows NSD: numbers, file names, trials and splits, betas, annotations. Loads no torch."""
