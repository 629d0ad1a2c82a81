"""What a user types: options to calls, and their results to files, in one process or several."""
