from neuropictor.workflow.job import run
from neuropictor.data.test_sets import preprocess_test_set

run(preprocess_test_set)
