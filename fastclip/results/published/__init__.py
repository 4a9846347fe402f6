"""Published accuracies: the table that comes with fastclip, tables from files, and when a result is comparable."""
