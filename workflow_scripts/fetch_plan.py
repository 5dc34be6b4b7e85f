from neuropictor.workflow.job import run
from neuropictor.fetching.nsd import plan_fetch

run(plan_fetch)
