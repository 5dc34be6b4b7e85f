from neuropictor.workflow.job import run
from neuropictor.simulation.writer.imagery import write_imagery_images

run(write_imagery_images)
