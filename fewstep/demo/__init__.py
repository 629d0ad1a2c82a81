"""The page on which an exported iCD model answers: generate, invert, edit."""
