"""What a model is worth: figures and pictures for people to judge by."""
