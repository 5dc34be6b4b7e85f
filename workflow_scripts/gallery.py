from neuropictor.workflow.job import run
from neuropictor.report.gallery import gallery

run(gallery)
