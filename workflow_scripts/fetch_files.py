from neuropictor.workflow.job import run
from neuropictor.fetching.nsd import fetch

run(fetch)
