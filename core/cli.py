"""`soralign COMMAND ...`: one table of commands, one way to read options, one place where errors become a line.

A command is a function of its arguments that raises. Options of commands with a recipe are the fields of a dataclass,
read by TRL's TrlParser: `--config recipe.yaml`, then overrides. The parser is imported when a command asks for it, so
`--help` and the apps start without transformers and without torch.
"""

from __future__ import annotations

import argparse
import dataclasses
import errno
import importlib.metadata
import logging
import math
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar, cast, get_type_hints

import yaml

from core.errors import UserError
from core.registry import resolve, unknown

if TYPE_CHECKING:
    from trl import TrlParser

COMMANDS: dict[str, str] = {
    "demo": "align.demo:demo",
    "generate": "base_model.generate:generate",
    "world": "base_model.commands:world",
    "pretrain": "base_model.commands:pretrain",
    "data": "core.data_commands:data",
    "label": "dashboards.commands:label",
    "preferences": "core.preferences_commands:preferences",
    "reward": "reward.commands:reward",
    "align": "align.commands:align",
    "lora": "base_model.lora_commands:lora",
    "eval": "eval.commands:evaluate",
    "compare": "eval.commands:compare",
    "leaderboard": "eval.commands:leaderboard",
    "report": "eval.commands:report",
    "best-of-n": "eval.commands:best_of_n",
    "suite": "eval.commands:suite",
    "dashboard": "dashboards.commands:dashboard",
}
SUMMARIES: dict[str, str] = {
    "demo": "the whole loop on the shipped weights, CPU, minutes",
    "generate": "videos from prompts, as a video set",
    "world": "ground-truth sandbox videos with their state",
    "pretrain": "train a part of the native generator from a recipe",
    "data": "versions of video sets: hash, diff, check",
    "label": "the labeling app",
    "preferences": "add pairs, import, export and count labels",
    "reward": "train, score with, and audit reward models",
    "align": "move a generator toward a reward",
    "lora": "merge, extract, inspect and export LoRA adapters",
    "eval": "measure a video set",
    "compare": "two evaluated video sets, paired, with tests",
    "leaderboard": "several evaluated sets, or votes, ranked with intervals",
    "report": "one page of a demo or of several sets, videos inside",
    "best-of-n": "what picking by one metric does to another",
    "suite": "prompt suites: show one or write its prompts",
    "dashboard": "the report app",
}
# Where the extra `quantize` is installed, peft and diffusers import torchao and bitsandbytes whatever is asked of them,
# and these tell every command about each other's versions and about kernels for CPUs.
TALKERS = ("torch.utils._pytree", "bitsandbytes.backends.cpu.ops", "diffusers.quantizers.torchao")
YAML_WORDS = {True: ("yes", "on"), False: ("no", "off")}  # what YAML 1.1 reads as a truth value, quotes apart
Config = TypeVar("Config")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: the words after `soralign`; None for those of this process.
    Returns: 0 on success, 2 after bad input, 130 after Ctrl-C, 1 after a fault of ours.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in words
    words = [word for word in words if word != "--debug"]
    for talker in () if debug else TALKERS:
        logging.getLogger(talker).setLevel(logging.ERROR)
    try:
        code = _run(words)
        _part_from_the_others()
        return code
    except UserError as error:
        return _failed(str(error), 2, debug)
    except KeyboardInterrupt:
        return _failed("interrupted; run the same command again to resume", 130, debug)
    except BrokenPipeError:
        # The reader went away (`soralign ... | head`). Python would complain again when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        return _failed(_of_the_machine(error), 2, debug)
    except Exception as error:
        return _failed(f"unexpected {type(error).__name__}: {error} (--debug shows where)", 1, debug)


def option(default: Any, text: str) -> Any:
    """An option with its default and its help text: a field of the dataclass that `parse` fills."""
    if isinstance(default, list):
        return dataclasses.field(default_factory=lambda: list(default), metadata={"help": text})
    return dataclasses.field(default=default, metadata={"help": text})


def required(text: str) -> Any:
    """An option that must be given."""
    return dataclasses.field(metadata={"help": text})


def settings_of(kind: type[Config], options: Any) -> Config:
    """The settings of one dataclass, out of the options of a command that has those of several."""
    return kind(**{one.name: getattr(options, one.name) for one in dataclasses.fields(cast(Any, kind))})


def parse(config: type[Config], argv: Sequence[str], prog: str, positional: Sequence[str] = ()) -> Config:
    """Fill the dataclass `config` from a YAML recipe (`--config FILE`) and from options, which win.

    Args:
        config: fields of bool, int, float, str, list of these, Optional of these, or Literal, best made by `option` and
            `required`: --help shows their text beside the default.
        argv: the words after the command.
        prog: how the command reads in messages, as "soralign eval".
        positional: fields that may be given without their name, in this order; a list field takes all that is left.
    Raises: UserError for an unknown option or recipe key (near names given), a value of the wrong type, or a missing
        one. SystemExit(0) after --help.
    """
    parser = _parser(config, prog, positional)
    kinds = get_type_hints(config)
    words, recipe = _split_config(list(argv), prog)
    if recipe is not None:
        parser.set_defaults_with_config(**_recipe(recipe, parser, kinds))
    options = _options(parser)
    words = [_spelled(word, options, prog) for word in words]
    words, loose = _take_positional(words, options)
    for field, value in _assigned(loose, positional, kinds, options, prog).items():
        parser.set_defaults_with_config(**{field: value})
    parsed = cast(Config, parser.parse_args_into_dataclasses(words, look_for_args_file=False)[0])
    for field in positional:
        if getattr(parsed, field) is None and not _may_be_none(kinds[field]):
            raise UserError(f"{prog}: {field.upper()} is missing; see `{prog} --help`")
    return parsed


def verb(argv: Sequence[str], verbs: dict[str, Callable[[list[str]], None]], prog: str) -> None:
    """Run the verb that the first word names, as `soralign reward train ...`; the first docstring line of each verb
    is its help.

    Raises: UserError for a missing or unknown verb.
    """
    if argv and argv[0] in ("-h", "--help"):
        print(f"usage: {prog} VERB [options]\n")
        for name, function in verbs.items():
            print(f"  {name:<12}{(function.__doc__ or '').strip().splitlines()[0]}")
        print(f"\n`{prog} VERB --help` explains the options of one verb.")
        return
    if not argv:
        raise UserError(f"{prog}: a verb is missing; known: {', '.join(verbs)}")
    if argv[0] not in verbs:
        raise unknown(argv[0], verbs, f"{prog} verb")
    verbs[argv[0]](list(argv[1:]))


def _run(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help", "help"):
        print(_overview())
        return 0 if words else 2
    if words[0] == "--version":
        print(f"soralign {importlib.metadata.version('soralign')}")
        return 0
    command: Callable[[list[str]], None] = resolve(COMMANDS, words[0], "command")
    try:
        command(words[1:])
    except SystemExit as stop:  # argparse leaves this way after --help
        return stop.code if isinstance(stop.code, int) else 0 if stop.code is None else 2
    return 0


def _part_from_the_others() -> None:
    """Several processes that a launcher started leave their group before Python ends.

    A worker of gloo that is then still letting go of the last tensors aborts its process, which the launcher reports as
    a failure of the whole run; NCCL complains of what was left open.
    """
    distributed = sys.modules.get("torch.distributed")
    if distributed is not None and distributed.is_available() and distributed.is_initialized():
        distributed.destroy_process_group()


def _overview() -> str:
    lines = ["usage: soralign COMMAND [options]", "", "Align text-to-video diffusion models with human preference.", ""]
    lines += [f"  {name:<13}{SUMMARIES[name]}" for name in COMMANDS]
    lines += ["", "`soralign COMMAND --help` explains options, units and defaults. --debug shows tracebacks."]
    return "\n".join(lines)


def _failed(line: str, code: int, debug: bool) -> int:
    if debug:
        traceback.print_exc()
    print(f"soralign: {' '.join(line.split())}", file=sys.stderr)
    return code


def _of_the_machine(error: OSError) -> str:
    """A line about the disk or a path; what the user can do depends on which."""
    where = f"{error.filename}: " if error.filename else ""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"{where}the disk is full; free some space and run the same command again, it resumes"
    return f"{where}{error.strerror or error}"


class _Help(argparse.ArgumentDefaultsHelpFormatter):
    """The default beside the text, where there is one, and which options must be given."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        if action.default in (None, "", []):
            return f"{action.help}{' (required)' if action.required else ''}"
        return super()._get_help_string(action)


def _parser(config: type[Any], prog: str, positional: Sequence[str]) -> TrlParser:
    from trl import TrlParser

    kinds = get_type_hints(config)
    for name, kind in kinds.items():
        if getattr(kind, "__origin__", kind) in (dict, tuple, set):
            raise TypeError(f"{config.__name__}.{name}: {kind} cannot be given on a command line")
    described = (config.__doc__ or "").strip()
    is_generated = described.startswith(f"{config.__name__}(")  # dataclass writes its signature when there is none
    usage = " ".join([prog, *(name.upper() for name in positional), "[--config RECIPE] [options]"])
    parser = TrlParser(cast(Any, [config]), prog=prog, usage=usage, description=None if is_generated else described)
    parser.allow_abbrev, parser.formatter_class = False, _Help

    def refuse(message: str) -> NoReturn:
        raise UserError(f"{prog}: {message}; see `{prog} --help`")

    parser.error = refuse  # type: ignore[method-assign,assignment]
    for action in parser._actions:
        # argparse formats help with %, and shows a default only beside a text.
        action.help = (
            (action.help or action.dest.replace("_", " ")).replace("%", "%%").replace("%%(default)", "%(default)")
        )
        if action.dest in positional:
            action.required = False
            action.help = f"also given as {action.dest.upper()} without its name. {action.help}".strip()
    return parser


def _options(parser: TrlParser) -> dict[str, Any]:
    return {option: action for action in parser._actions for option in action.option_strings}


def _split_config(words: list[str], prog: str) -> tuple[list[str], str | None]:
    """Take `--config FILE` or `--config=FILE` out of the words."""
    rest: list[str] = []
    recipe = None
    while words:
        word = words.pop(0)
        if word == "--config":
            if not words:
                raise UserError(f"{prog}: --config needs the path of a YAML recipe")
            recipe = words.pop(0)
        elif word.startswith("--config="):
            recipe = word.partition("=")[2]
        else:
            rest.append(word)
    return rest, recipe


def _recipe(path: str, parser: TrlParser, kinds: dict[str, Any]) -> dict[str, Any]:
    """The values of a YAML recipe, each converted as its option would be (PyYAML reads 1e-4 as text)."""
    try:
        with open(path, encoding="utf-8") as file:
            values = yaml.safe_load(file)
    except FileNotFoundError:
        raise UserError(f"recipe {path!r} does not exist; --config takes the path of a YAML file") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"recipe {path!r} is not readable as YAML: {error}") from None
    if not isinstance(values, dict):
        raise UserError(f"recipe {path!r} must hold 'key: value' lines, seen {type(values).__name__}")
    actions = {action.dest: action for action in parser._actions if action.dest in kinds and action.const is not False}
    converted = {}
    for key, value in values.items():
        name = str(key).replace("-", "_")
        if name not in actions:
            raise unknown(str(key), actions, f"recipe {path!r}: key")
        converted[name] = _converted(value, actions[name], kinds[name], f"recipe {path!r}: {key}")
    return converted


def _converted(value: Any, action: Any, kind: Any, where: str) -> Any:
    """One recipe value as the type of its field."""
    if value is None:
        if _may_be_none(kind):
            return None
        raise UserError(f"{where}: empty; a value is expected")
    is_list = action.nargs == "+"
    if is_list != isinstance(value, list) or isinstance(value, dict):
        raise UserError(f"{where}: {'a list' if is_list else 'one value'} is expected, seen {value!r}")
    return [_scalar(item, action, where) for item in value] if is_list else _scalar(value, action, where)


def _scalar(value: Any, action: Any, where: str) -> Any:
    if isinstance(value, bool) and action.choices is not None:
        value = next((word for word in YAML_WORDS[value] if word in action.choices), value)
    try:
        converted = action.type(str(value))
    except Exception:
        name = getattr(action.type, "__name__", "value").removeprefix("string_to_")
        raise UserError(f"{where}: {name} is expected, seen {value!r}") from None
    if isinstance(converted, float) and math.isnan(converted):
        raise UserError(f"{where}: a number is expected, seen {value!r}")
    if action.choices is not None and converted not in action.choices:
        raise UserError(f"{where}: one of {', '.join(map(str, action.choices))} is expected, seen {value!r}")
    return converted


def _may_be_none(kind: Any) -> bool:
    return type(None) in getattr(kind, "__args__", ())


def _spelled(word: str, options: dict[str, Any], prog: str) -> str:
    """An option word as the parser knows it, whichever of - and _ it was written with."""
    if not word.startswith("--") or word == "--":
        return word
    name, equals, value = word.partition("=")
    if name in options:
        return word
    same = "--" + name[2:].replace("-", "_")
    if same not in options:
        shown = {option.replace("_", "-") for option in options if option.startswith("--")}
        raise unknown(name, {*("--" + option[2:] for option in shown), "--config", "--debug"}, f"{prog}: option")
    return same + equals + value


def _take_positional(words: list[str], options: dict[str, Any]) -> tuple[list[str], list[str]]:
    """Split off the words that belong to no option. argparse's own positionals may not stand after an option that
    takes several values or an optional one, which surprises; here only a list option swallows what follows."""
    kept: list[str] = []
    loose: list[str] = []
    index = 0
    while index < len(words):
        word = words[index]
        index += 1
        if word == "--":
            loose += words[index:]
            break
        action = options.get(word)
        if action is None:  # `--name=value` stays, anything without dashes is loose
            (kept if word.startswith("-") and len(word) > 1 else loose).append(word)
            continue
        kept.append(word)
        if action.nargs == "?" and not (index < len(words) and words[index].lower() in _BOOLEANS):
            kept.append("true")
        elif action.nargs == "+":
            while index < len(words) and words[index] not in options and not words[index].startswith("--"):
                kept.append(words[index])
                index += 1
        elif action.nargs in (None, "?") and index < len(words):
            kept.append(words[index])
            index += 1
    return kept, loose


_BOOLEANS = ("true", "false", "yes", "no", "1", "0", "t", "f", "y", "n")


def _assigned(
    loose: list[str], positional: Sequence[str], kinds: dict[str, Any], options: dict[str, Any], prog: str
) -> dict[str, Any]:
    """The loose words as values of the positional fields, in order."""
    values: dict[str, Any] = {}
    for field in positional:
        if not loose:
            break
        action = options[f"--{field}"]
        taken, loose = (loose, []) if action.nargs == "+" else (loose[:1], loose[1:])
        value = taken if action.nargs == "+" else taken[0]
        values[field] = _converted(value, action, kinds[field], f"{prog}: {field.upper()}")
    if loose:
        expected = " ".join(name.upper() for name in positional) or "only options"
        raise UserError(f"{prog}: {loose[0]!r} is one word too many; expected {expected}. See `{prog} --help`")
    return values
