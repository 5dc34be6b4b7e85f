from neuropictor.workflow.job import run
from neuropictor.training.reconstruct import pretrain

run(pretrain, processes=True)
