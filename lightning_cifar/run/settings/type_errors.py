"""Messages of jsonargparse about values of the wrong type, made short."""

import re
from difflib import get_close_matches

from lightning.pytorch import callbacks, loggers, profilers, strategies

from lightning_cifar.errors import name_extra

PARTS = sorted({name for module in (callbacks, loggers, profilers, strategies) for name in module.__all__})
# Types that have another name for users, or a form that is easily mistyped.
WORDS = {"NoneType": "null", "datetime.timedelta": "hours:minutes:seconds", "dict": "a mapping, such as '{0: 2}'"}
EXTRAS = {"MLFlowLogger": "mlflow", "TensorBoardLogger": "tensorboard"}


def shorten_part_error(text: str) -> str:
    """Return why a callback or logger cannot be built; for a missing package, its extra."""
    text = " ".join(text.split())
    if not (named := re.match(r"Problem with given class_path '[\w.]*?(\w+)': (.*)", text)):
        return text
    if named[1] in EXTRAS and re.match("Requirement|Neither|No module", named[2]):
        return f"{named[1]} {name_extra(EXTRAS[named[1]])}"
    return f"{named[1]}: {named[2]}"


def shorten_type_error(key: str, text: str) -> str:
    """Return jsonargparse's message about a value of the wrong type as ``--trainer.precision fp16: one of ...``."""
    if "Unable to load config" in text:
        return f"--{key} names a file of settings; to set one option write --{key}.NAME VALUE"
    # The first of several errors is about the value; others may say that another class has no such argument.
    if argument := re.search(r'Errors:;.*? "?([\w.]+)(?:":|: [\w ]*subtypes); (.*?(?:Got|Given) value: [^;]*)', text):
        return shorten_type_error(f"{key}.{argument[1]}", argument[2])
    if why := explain_class(key, text):
        return why
    if typed := re.match(r"invalid literal for int\(\) with base 10: ('.*?');", text):
        return f"--{key}: the key {typed[1]} is no whole number: expected {WORDS['dict']}"
    if argument := re.search(r"Errors:; (.*?); .*NestedArg\(key='([\w.]+)'", text):
        return f"--{key}.{argument[2]}: {argument[1].removeprefix(argument[2]).strip()}"
    found = re.search(r".*(?:Given value|Got value): (.*)$", text)  # the last: a part of it may come before
    choices, types = re.search(r"Literal\[(.*?)\]", text), re.search(r"Subtypes: \[(.*?)\]; Errors", text)
    if found is None or ("." not in key and key != "seed_everything") or "init_args" in found[1] or "required" in text:
        return text if len(text) < 300 else f"--{key}: {text[-250:]}"
    if choices:
        numbers = " or a list of numbers" if "Sequence[float" in text else ""
        truths = "true, false, " if "<class 'bool'>" in text else ""
        every = dict.fromkeys(choices[1].replace("'", "").split(", "))  # numbers are choices twice, also as strings
        expected = f"one of {truths}{', '.join(every)}{numbers}"
    elif "collections.abc.Sequence" in text and not found[1].startswith("["):
        expected = f"write a list, [{found[1]}]"
    else:
        names = re.findall(r"<class '([\w.]+)'>", types[1] if types else text)
        lists = re.findall(r"Sequence\[(\w+)\]", types[1] if types else "")
        names = (
            [f"a mapping (write --{key}.NAME VALUE)"] * ("dict[" in text)
            + [f"a list of {kind}" for kind in lists]
            + [WORDS.get(name, name) for name in names]
        )
        expected = "expected " + " or ".join(dict.fromkeys(names))
    return f"--{key} {found[1][:60]}: {expected}"


def explain_class(key: str, text: str) -> str:
    """Return why a class named by ``--key`` cannot be used: unknown, or its arguments; else nothing."""
    if unknown := re.search(r"Expected a dot import path string: (\w+)", text):
        near = get_close_matches(unknown[1], PARTS, 1)
        return f"--{key} {unknown[1]}: no such class" + (f"; did you mean {near[0]}?" if near else "")
    if unknown := re.search(r"Option '(\w+)' is not accepted", text):
        return f"--{key}.{unknown[1]}: the class has no such argument"
    missing = re.search(r"arguments are required: ([\w, ]+)", text)
    named = re.search(r"class_path='[\w.]*?(\w+)'", text)
    if missing and named:
        return f"--{key} {named[1]}: add " + " and ".join(f"--{key}.{name}" for name in missing[1].split(", "))
    return ""
