from neuropictor.workflow.job import run
from neuropictor.data.subsets import leave_out_clusters

run(leave_out_clusters)
