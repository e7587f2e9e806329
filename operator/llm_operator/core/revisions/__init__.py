"""What was declared, what is recorded and proved of it, and which revision is to run."""
