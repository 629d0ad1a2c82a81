"""From numbers to metrics.json, report.md and a page with plots."""
