from neuropictor.workflow.job import run
from neuropictor.data.subsets import cluster_images

run(cluster_images)
