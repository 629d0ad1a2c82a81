"""Where a student beats its teacher, by judges that are not the oracle, and whether that can be claimed at all."""
