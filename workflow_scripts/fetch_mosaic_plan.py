from neuropictor.workflow.job import run
from neuropictor.fetching.mosaic import plan_people

run(plan_people)
