"""What a run leaves behind: log lines, progress, whole files, and a record of how each was made."""
