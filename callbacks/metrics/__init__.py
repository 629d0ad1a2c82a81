"""From the outputs of a validation or test to logged numbers, with protocol, rows and intervals."""
