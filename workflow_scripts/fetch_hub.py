from neuropictor.workflow.job import run
from neuropictor.fetching.hub import fetch_repository

run(fetch_repository)
