"""What the workflow calls beside the stages: processes, checks before a run, the table of jobs."""
