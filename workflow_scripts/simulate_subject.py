from neuropictor.workflow.job import run
from neuropictor.simulation.writer.nsd import write_subject

run(write_subject)
