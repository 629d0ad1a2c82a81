"""From the same outputs to pictures and tables to look at."""
