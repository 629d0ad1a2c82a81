"""The command `fewstep` of an installation: one word for each of the others."""
