from neuropictor.workflow.job import run
from neuropictor.simulation.writer.nsd import write_own_pictures

run(write_own_pictures)
