"""The HTTP interface: FastAPI, free of Ray."""
