"""The gateway's own storage: the Storage Server of the NRP 4 contract over a folder, where nothing else is needed."""
