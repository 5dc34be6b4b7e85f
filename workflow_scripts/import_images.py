from neuropictor.workflow.job import run
from neuropictor.data.own_data import import_images

run(import_images)
