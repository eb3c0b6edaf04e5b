"""What passes photographs on: Corgi's ingest and gate, and img2dataset's resizer."""
