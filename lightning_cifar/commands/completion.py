"""``completion``: print a script that completes commands and options in bash and, by bashcompinit, zsh."""

from importlib import import_module

from lightning_cifar.run.settings.options import (
    FLAGS,
    PACKAGE_COMMANDS,
    RECIPES,
    SIGNATURES,
    SUBCOMMANDS,
    Arguments,
    list_group_options,
)

WITH_FIT_OPTIONS = ("repeat", "sweep")  # commands that pass options on to fit
SCRIPT = """\
# Completion of lightning-cifar; written by `lightning-cifar completion`.
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
        local IFS=$'\n'  # names of files may hold spaces
        COMPREPLY=($(compgen -f -- "$word"))
    fi
}}
complete -o filenames -F _lightning_cifar lightning-cifar
"""


def parser() -> Arguments:
    return Arguments("completion", description="Print a script that completes commands and options in bash and zsh.")


def main(args: list[str]) -> int:
    parser().parse_args(args)
    print(format_script(), end="")
    return 0


def format_script() -> str:
    fit_options = [f"--{name}" for name in FLAGS]
    fit_options += [f"--{name}" for group in SIGNATURES for name in list_group_options(group)]
    cases = []
    for command in SUBCOMMANDS:
        options: list[str] = []
        if command in (*PACKAGE_COMMANDS, "predict"):
            own = import_module(f"lightning_cifar.commands.{command}").parser()
            options += [f"--{name}" for name in own.list_options()]
        if command not in PACKAGE_COMMANDS or command in WITH_FIT_OPTIONS:
            options += fit_options
        if command not in PACKAGE_COMMANDS:
            options.append("--help-all")
        cases.append(f'        {command}) options="{" ".join(dict.fromkeys(options))}" ;;')
    return SCRIPT.format(recipes=" ".join(RECIPES), commands=" ".join(SUBCOMMANDS), cases="\n".join(cases))
