"""`python -m fastclip`, which is also what `accelerate launch -m fastclip` starts."""

from fastclip.cli.start import start

if __name__ == "__main__":
    start()
