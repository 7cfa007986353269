"""``completion``: a script by which bash, and zsh by bashcompinit, complete commands and options."""

from importlib import import_module

from lightning_cifar.options import FLAGS, OWN_COMMANDS, RECIPES, SIGNATURES, SUBCOMMANDS, Arguments, parameters

WITH_FIT = ("repeat", "sweep")  # commands that take fit's options after their own
SCRIPT = """\
# Completion of lightning-cifar; made by `lightning-cifar completion`.
# bash: save it as ~/.local/share/bash-completion/completions/lightning-cifar, or source it from ~/.bashrc.
# zsh: autoload -U bashcompinit && bashcompinit && source FILE
_lightning_cifar() {{
    local word=${{COMP_WORDS[COMP_CWORD]}} before=${{COMP_WORDS[COMP_CWORD-1]}} options
    case $before in
        --recipe) COMPREPLY=($(compgen -W "{recipes}" -- "$word")); return ;;
    esac
    case ${{COMP_WORDS[1]}} in
{cases}
        *) options= ;;
    esac
    if [[ $COMP_CWORD == 1 ]]; then
        COMPREPLY=($(compgen -W "{commands} --help --version" -- "$word"))
    elif [[ $word == -* ]]; then
        COMPREPLY=($(compgen -W "$options" -- "$word"))
    else
        COMPREPLY=($(compgen -f -- "$word"))
    fi
}}
complete -o filenames -F _lightning_cifar lightning-cifar
"""


def parser() -> Arguments:
    return Arguments("completion", description="Prints a script for bash and zsh that completes commands and options.")


def main(args: list[str]) -> int:
    parser().parse_args(args)
    print(script(), end="")
    return 0


def script() -> str:
    trained = [f"--{name}" for name in FLAGS]
    trained += [f"--{group}.{name}" for group in SIGNATURES for name in parameters(group)]
    cases = []
    for command in SUBCOMMANDS:
        options = [] if command in OWN_COMMANDS and command not in WITH_FIT else trained
        options = options if command in OWN_COMMANDS else [*options, "--help-all"]
        if command in (*OWN_COMMANDS, "predict"):
            own = import_module(f"lightning_cifar.commands.{command}").parser()
            options = [*(flag for action in own._actions for flag in action.option_strings), *options]
        cases.append(f'        {command}) options="{" ".join(dict.fromkeys(options))}" ;;')
    return SCRIPT.format(recipes=" ".join(RECIPES), commands=" ".join(SUBCOMMANDS), cases="\n".join(cases))
