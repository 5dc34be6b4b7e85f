"""Called by the workflow besides the stages: processes, checks before a run, the table of jobs."""
