"""What lies on disk and outlives a process: whole files, locks, trained models."""
