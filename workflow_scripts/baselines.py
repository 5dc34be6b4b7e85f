from neuropictor.workflow.job import run
from neuropictor.evaluation.baselines import fit_baselines

run(fit_baselines)
