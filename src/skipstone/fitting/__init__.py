"""What is fitted to one model so that it samples in fewer evaluations."""
