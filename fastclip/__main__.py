"""`python -m fastclip`, which is also what `accelerate launch -m fastclip` starts."""

from fastclip.cli.main import run

if __name__ == "__main__":
    run()
