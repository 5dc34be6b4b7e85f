from neuropictor.workflow.job import run
from neuropictor.training.reconstruct import refine

run(refine, processes=True)
