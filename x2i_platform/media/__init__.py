"""Pictures, videos and sound from files and hosts of strangers: checked by their headers before anything is decoded."""
