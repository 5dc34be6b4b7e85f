"""Images under altered inputs, and their scores."""
