"""Every speed claim of the project, as a ratio against a baseline measured in the same run (`make bench`)."""
