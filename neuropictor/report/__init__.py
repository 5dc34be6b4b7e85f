"""Tables, figures and pages; nothing here loads torch."""
