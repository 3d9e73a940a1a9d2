"""Raw data: the IDX format, the sources of files, and the checks of what they give."""
