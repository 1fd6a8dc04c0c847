"""The Ray cluster that a pipeline runs on: starting it or joining it, its keys, its training workers."""
