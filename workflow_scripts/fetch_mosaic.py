from neuropictor.workflow.job import run
from neuropictor.fetching.mosaic import fetch_people

run(fetch_people)
