"""The functions and classes of `import fastclip`: a skin over the same functions as the command line."""
