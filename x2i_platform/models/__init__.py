"""The networks: teacher, text encoders, multimodal LLMs, AlignNet, and the tables that describe them."""
