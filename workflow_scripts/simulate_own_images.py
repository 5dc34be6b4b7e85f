from neuropictor.workflow.job import run
from neuropictor.simulation.writer.nsd import write_own_images

run(write_own_images)
