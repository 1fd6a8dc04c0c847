"""Images on request: one `Generator` under the batch job and the HTTP service."""
