from neuropictor.workflow.job import run
from neuropictor.fetching.weights import fetch_weights

run(fetch_weights)
