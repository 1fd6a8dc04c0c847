"""Pictures, videos and sound from files of strangers: checked by their headers before anything is decoded."""
