"""What a run leaves on disk: its layout, tables, files, the writer and the readers."""
