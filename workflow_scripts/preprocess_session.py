from neuropictor.workflow.job import run
from neuropictor.data.sessions import preprocess_session

run(preprocess_session)
