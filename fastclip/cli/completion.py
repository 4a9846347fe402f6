"""`fastclip completion`: the script by which a shell completes commands, options and their values."""

from __future__ import annotations

import os
from pathlib import PurePath
from typing import Annotated

import typer

from fastclip.cli.console import say
from fastclip.errors import UserError

BASH = """\
# Completion of fastclip in bash. To keep it, add to ~/.bashrc: source <(fastclip completion bash)
_fastclip_completion() {
    local word
    COMPREPLY=()
    while IFS= read -r word; do
        COMPREPLY+=("$(printf %q "$word")")
    done < <(COMP_LINE="${COMP_LINE:0:COMP_POINT}" COMP_WORDBREAKS="$COMP_WORDBREAKS" _FASTCLIP_COMPLETE=bash \\
        "${1/#\\~\\//$HOME/}" 2>/dev/null)
    if [[ ${#COMPREPLY[@]} == 1 && $COMPREPLY == *[/:] ]]; then compopt -o nospace 2>/dev/null; fi
}
complete -o bashdefault -o default -F _fastclip_completion fastclip
"""

ZSH = """\
#compdef fastclip
# Completion of fastclip in zsh. To keep it, add to ~/.zshrc, after compinit: source <(fastclip completion zsh)
_fastclip() {
    local line
    local -a found shown
    for line in "${(@f)$(_FASTCLIP_COMPLETE=zsh ${~words[1]} "${(@Q)words[2,CURRENT]}" 2>/dev/null)}"; do
        [[ -n $line ]] || continue
        found+=("${line%%$'\\t'*}")
        shown+=("${line%$'\\t'}")
        shown[-1]="${shown[-1]/$'\\t'/  -- }"
    done
    if (( ${#found} )); then compadd -l -d shown -a found; else _files; fi
}
if [[ ${funcstack[1]} == _fastclip ]]; then _fastclip "$@"; else compdef _fastclip fastclip; fi
"""

FISH = """\
# Completion of fastclip in fish. To keep it: fastclip completion fish > ~/.config/fish/completions/fastclip.fish
function __fastclip_completion
    set -l words (commandline -opc)
    set -l current (commandline -ct)
    set -lx _FASTCLIP_COMPLETE fish
    set -l found ($words[1] $words[2..-1] "$current" 2>/dev/null)
    if set -q found[1]
        printf '%s\\n' $found
    else
        __fish_complete_path "$current"
    end
end
complete -c fastclip -f -a '(__fastclip_completion)'
"""

SCRIPTS = {"bash": BASH, "zsh": ZSH, "fish": FISH}


def command(
    shell: Annotated[
        str | None, typer.Argument(metavar="bash|zsh|fish", help="Default: the shell that $SHELL names.")
    ] = None,
) -> None:
    """Print the script that lets TAB complete fastclip in your shell.

    Nothing is installed. The script's first line says how to keep it.
    """
    asked = shell or PurePath(os.environ.get("SHELL", "")).name
    if asked not in SCRIPTS:
        raise UserError(
            f"There is no completion for {asked or 'a shell without a name'}.", fix="fastclip completion bash"
        )
    say(SCRIPTS[asked].rstrip())
