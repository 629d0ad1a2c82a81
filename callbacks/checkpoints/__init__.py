"""What a run keeps and goes on from, whole and exactly: writing, reading, what a checkpoint may hold."""
