"""Quality against passes: calibrated policies for new prompts, beside all that they have to beat."""
