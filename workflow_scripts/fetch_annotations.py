from neuropictor.workflow.job import run
from neuropictor.fetching.nsd import fetch_annotations

run(fetch_annotations)
