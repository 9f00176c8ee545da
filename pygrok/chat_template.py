"""A model file's own chat template (jinja2), run without trusting it.

The environment is jinja2's immutable sandbox. Beyond it, loops, calls and characters are counted, since a
template may nest loops or double a string until the machine stops.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar, cast

import jinja2
from jinja2 import nodes
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

from pygrok.errors import PygrokError
from pygrok.tokenizer import Tokenizer

_T = TypeVar("_T")

# Padding makes long texts of short ones in one step.
_PADDING = frozenset(
    {"center", "ljust", "rjust", "zfill", "expandtabs", "indent", "wordwrap", "batch", "slice"}
)

__all__ = ["JinjaTemplate", "mark", "plain", "split_marks"]

_STEPS = 100_000  # loop turns and calls of one rendering
_CHARACTERS = 1 << 20  # that one rendering may handle, all intermediate texts together,
_CHARACTERS_PER_INPUT = 16  # and for each character of the messages

# A control piece's id inside rendered text. Noncharacters never stand in text that is exchanged, and `plain`
# takes them out of what people write, so a message cannot pretend to be one.
_MARK = re.compile("\ufdd0([0-9]+)\ufdd1")


def mark(token: int) -> str:
    """The text that stands for a control piece."""
    return f"\ufdd0{token}\ufdd1"


def plain(text: str) -> str:
    """Text in which nothing can be taken for a control piece."""
    return text.replace("\ufdd0", "\ufffd").replace("\ufdd1", "\ufffd")


def split_marks(text: str) -> Iterator[str | int]:
    """The plain texts and control pieces' ids that a rendered text consists of."""
    for index, part in enumerate(_MARK.split(text)):
        if index % 2:
            yield int(part)
        elif part:
            yield part


class _LimitExceeded(jinja2.TemplateError):
    pass


class _Environment(ImmutableSandboxedEnvironment):
    """Counts what a template does. One for each rendering: the counters are its state."""

    intercepted_binops = frozenset({"*", "**", "+", "%"})

    def __init__(self, characters: int) -> None:
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            autoescape=False,
            extensions=[loopcontrols],
        )
        self.steps = self.characters = 0
        self.limit = characters
        self.filters["pygrok_count"] = self.count
        self.filters["pygrok_measure"] = self.measure
        self.filters["tojson"] = _to_json
        for name, function in list(self.filters.items()):
            if not name.startswith("pygrok_"):
                self.filters[name] = self._measured(name, function)
        self.globals["range"] = self._range
        self.globals["raise_exception"] = _raise_exception
        for name in ("lipsum", "cycler", "joiner"):
            self.globals.pop(name)

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        tree = super()._parse(source, name, filename)
        for loop in list(tree.find_all(nodes.For)):
            loop.iter = _filter(loop.iter, "pygrok_count")
        for output in list(tree.find_all(nodes.Output)):
            output.nodes = [_filter(node, "pygrok_measure") for node in output.nodes]
        for joined in list(tree.find_all(nodes.Concat)):
            joined.nodes = [_filter(node, "pygrok_measure") for node in joined.nodes]
        return tree

    def step(self) -> None:
        self.steps += 1
        if self.steps > _STEPS:
            raise _LimitExceeded(f"it takes more than {_STEPS} loop turns and calls")

    def count(self, items: Iterable[Any]) -> Iterator[Any]:
        for item in items:
            self.step()
            yield item

    def measure(self, value: Any) -> Any:
        if isinstance(value, str | bytes | list | tuple):
            self._charge(len(value))
        elif not isinstance(value, jinja2.Undefined):
            value = str(value)
            self._charge(len(value))
        return value

    def _charge(self, size: int) -> None:
        self.characters += size
        if self.characters > self.limit:
            raise _LimitExceeded(f"it handles more than {self.limit} characters")

    def _range(self, *bounds: int) -> range:
        numbers = range(*bounds)
        if len(numbers) > _STEPS:
            raise _LimitExceeded(f"it counts over a range longer than {_STEPS}")
        self._charge(len(numbers))
        return numbers

    def getitem(self, obj: Any, argument: Any) -> Any:
        if isinstance(argument, slice) and isinstance(obj, str | list | tuple):
            self._charge(len(obj))
        return super().getitem(obj, argument)

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        self.step()
        if operator == "**" and not (isinstance(right, int | float) and abs(right) <= 64):
            raise _LimitExceeded("it raises a number to a power above 64")
        if operator == "*":
            for sized, times in ((left, right), (right, left)):
                if hasattr(sized, "__len__") and isinstance(times, int):
                    self._charge(len(sized) * max(times, 0))
        if operator == "%" and isinstance(left, str):
            self._check_widths(left)
        return self._bounded_number(super().call_binop(context, operator, left, right))

    def call(self, context: Any, function: Any, /, *args: Any, **kwargs: Any) -> Any:
        self.step()
        method = getattr(function, "__wrapped__", function)  # the sandbox wraps str.format
        owner, name = getattr(method, "__self__", None), getattr(method, "__name__", "")
        if isinstance(owner, str | bytes | list | tuple | dict):
            self._check_growth(owner, name, args, kwargs)
        result = super().call(context, function, *args, **kwargs)
        if isinstance(result, str):
            self._charge(len(result))
        return result

    def _measured(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        # The same checks as for methods; jinja's own marker (pass_environment and the like) must survive.
        def checked(*args: Any, **kwargs: Any) -> Any:
            rest = args[1:] if hasattr(function, "jinja_pass_arg") else args
            self.step()
            self._check_growth(rest[0] if rest else "", name, rest[1:], kwargs)
            result = function(*args, **kwargs)
            return list(self.count(result)) if isinstance(result, Iterator) else result

        if hasattr(function, "jinja_pass_arg"):
            checked.jinja_pass_arg = function.jinja_pass_arg  # type: ignore[attr-defined]
        return checked

    def _check_growth(self, subject: Any, name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        values = [*args, *kwargs.values()]
        if isinstance(subject, str | bytes | list | tuple | dict):
            self._charge(len(subject))
        if name in _PADDING and any(isinstance(value, int) and value > 1000 for value in values):
            raise _LimitExceeded(f"it pads text with {name} by more than 1000")
        if isinstance(subject, str):
            if "format" in name:
                self._check_widths(subject)
            if name == "replace" and len(values) > 1:
                old, new = str(values[0]), str(values[1])
                self._charge(len(subject) + (subject.count(old) if old else len(subject) + 1) * len(new))
            elif name in ("indent", "wordwrap"):
                self._charge(1001 * (1 + subject.count("\n")))
        if name == "join":
            items = values[0] if isinstance(subject, str) and values else subject
            glue = subject if items is not subject else (values[0] if values else "")
            if isinstance(items, list | tuple):
                self._charge(sum(len(str(item)) + len(str(glue)) for item in items))

    def _check_widths(self, pattern: str) -> None:
        if (
            any(int(width) > 1000 for width in re.findall(r"\d+", pattern) if len(width) > 3)
            or "*" in pattern
        ):
            raise _LimitExceeded("it formats a field wider than 1000")

    def _bounded_number(self, value: Any) -> Any:
        if isinstance(value, int) and value.bit_length() > 4096:
            raise _LimitExceeded("it computes with numbers above 4096 bits")
        if isinstance(value, str | list | tuple):
            self._charge(len(value))
        return value


def _filter(node: nodes.Node, name: str) -> nodes.Filter:
    return nodes.Filter(cast(nodes.Expr, node), name, [], [], None, None, lineno=node.lineno)


def _to_json(value: Any, indent: int | None = None) -> str:
    # jinja's own escapes for HTML; prompts want plain JSON.
    return json.dumps(value, ensure_ascii=False, indent=indent if indent is None or indent <= 16 else 16)


def _raise_exception(message: str) -> None:
    raise jinja2.TemplateError(str(message))


class JinjaTemplate:
    """A chat template's source, bound to a tokenizer."""

    def __init__(self, source: str, tokenizer: Tokenizer) -> None:
        """Raises PygrokError (one line) if the source is no valid template."""
        self.source = source
        marked = plain(source)
        for token in tokenizer.control_ids:
            # A control piece written out in the template means that piece; in a message it is mere text.
            marked = marked.replace(tokenizer.piece(token), mark(token))
        self._marked = marked
        self._special = {
            name: "" if token is None else mark(token)
            for name, token in (("bos_token", tokenizer.bos_id), ("eos_token", tokenizer.eos_id))
        }
        self._run(lambda: _Environment(_CHARACTERS).from_string(marked))

    def render(self, messages: Sequence[Mapping[str, str]], *, add_generation_prompt: bool = True) -> str:
        """Return the prompt of messages ({"role", "content"}), with marks for control pieces.

        Raises PygrokError, one line, for whatever the template does wrong, its limits included.
        """
        clean = [{name: plain(value) for name, value in message.items()} for message in messages]

        def render() -> str:
            given = sum(len(value) for message in clean for value in message.values())
            environment = _Environment(_CHARACTERS + _CHARACTERS_PER_INPUT * given)
            template = environment.from_string(self._marked)
            return template.render(
                messages=clean, add_generation_prompt=add_generation_prompt, **self._special
            )

        return self._run(render)

    @staticmethod
    def _run(action: Callable[[], _T]) -> _T:
        try:
            return action()
        except jinja2.TemplateSyntaxError as error:
            raise PygrokError(f"chat template, line {error.lineno}: {_one_line(error)}") from None
        except (jinja2.TemplateError, RecursionError, MemoryError) as error:
            raise PygrokError(f"chat template: {_one_line(error)}") from None
        # A template can make any operation fail; the user needs the reason, not our traceback.
        except Exception as error:
            raise PygrokError(f"chat template: {type(error).__name__}: {_one_line(error)}") from None


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
