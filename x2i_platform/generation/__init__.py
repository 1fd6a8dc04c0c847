"""Prompts become images: one `Generator` under the batch job, the evaluation and the HTTP service."""
