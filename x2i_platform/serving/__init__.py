"""Images over HTTP: a `Generator` behind OpenAI's images schema, on Ray Serve."""
