from neuropictor.workflow.job import run
from neuropictor.simulation.writer.nsd import write_images

run(write_images)
