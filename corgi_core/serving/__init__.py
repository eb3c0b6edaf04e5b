"""`corgi serve`: an HTTP API and a page that sample from a pipeline, by one queue for both."""
