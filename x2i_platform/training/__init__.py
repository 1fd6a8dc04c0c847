"""Distillation of AlignNet: the job, the loss, the training step, the loop and how it is spread over workers."""
