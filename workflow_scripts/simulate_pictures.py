from neuropictor.workflow.job import run
from neuropictor.simulation.writer.nsd import write_pictures

run(write_pictures)
