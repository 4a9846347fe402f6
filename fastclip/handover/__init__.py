"""Images handed over to other programs: for viewers as files, and as the answers of a search."""
