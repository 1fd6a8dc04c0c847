"""Images over HTTP in OpenAI's schema: a queue, encoders and denoisers, jobs, batches; on Ray Serve."""
