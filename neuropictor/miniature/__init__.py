"""How the shipped miniature is trained."""
