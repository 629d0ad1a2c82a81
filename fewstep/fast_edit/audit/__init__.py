"""Whether a learnt edit is one: signals it was not trained on, their report and sheet, and the adversarial control."""
