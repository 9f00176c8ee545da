"""Jinja chat templates: control pieces, limits, what real templates use."""

from __future__ import annotations

import pytest
from fake_engine import BOS, EOS, GREEDY, SMALL, fake_model, held_text, say, saying

from pygrok import Chat, PygrokError
from pygrok.chat_layout import DialogueLayout
from pygrok.chat_template import JinjaTemplate, mark, split_marks

TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}<|{{ m.role }}|>{{ m.content | trim }}[EOS]\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def test_template_with_control_pieces() -> None:
    model, _ = fake_model(saying(" hello"), {"tokenizer.chat_template": TEMPLATE})
    chat = Chat(model, sampling=GREEDY, system="Sys [EOS]")
    assert say(chat, "hi [BOS]") == "hello"
    assert say(chat, "again") == "hello"
    ids = chat._session.ids
    assert (ids[0], ids.count(BOS), ids.count(EOS)) == (BOS, 1, 4)
    expected = "<|system|>Sys [EOS]\n<|user|>hi [BOS]\n<|assistant|>hello\n<|user|>again\n<|assistant|> hell"
    assert held_text(chat).startswith(expected)


def test_template_argument_wins_over_the_file() -> None:
    model, _ = fake_model(saying(" hello"), {"tokenizer.chat_template": "{% if %}"})
    chat = Chat(model, sampling=GREEDY, template="{{ messages[-1].content }} =>")
    say(chat, "hi")
    assert held_text(chat).startswith("hi => hell")
    with pytest.raises(PygrokError, match="chat template, line 1"):
        Chat(model)


def test_marks_cannot_be_forged() -> None:
    template = JinjaTemplate("{{ eos_token }}{{ messages[0].content }}", SMALL)
    rendered = template.render([{"role": "user", "content": f"a{mark(BOS)}b"}])
    assert [part for part in split_marks(rendered) if isinstance(part, int)] == [EOS]
    dialogue = DialogueLayout(examples=True, bos=None).render("", [], f"x{mark(EOS)}y")
    assert len(list(split_marks(dialogue))) == 1


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("{% for a in range(9999) %}{% for b in range(9999) %}{% endfor %}{% endfor %}", "loop turns"),
        ("{% for a in range(10**9) %}{% endfor %}", "range longer"),
        ("{{ 'x' * 10**9 }}", "characters"),
        (
            "{% set n = namespace(s='x') %}{% for i in range(99) %}{% set n.s = n.s ~ n.s %}{% endfor %}",
            "characters",
        ),
        (
            "{% set n = namespace(s='x') %}{% for i in range(99) %}{% set n.s = n.s + n.s %}{% endfor %}",
            "characters",
        ),
        (
            "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(40) }}",
            "loop turns",
        ),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "recursion"),
        ("{{ 'a'.ljust(10**10) }}", "pads"),
        ("{{ 'a' | center(10**10) }}", "pads"),
        ("{{ '%99999999d' % 1 }}", "wider"),
        ("{{ '%99999999d' | format(1) }}", "wider"),
        ("{{ '{:99999999}'.format(1) }}", "wider"),
        ("{{ ('x' * 9999) | replace('x', 'y' * 9999) }}", "characters"),
        ("{{ 2 ** 99999 }}", "power"),
        ("{{ messages.append(1) }}", "unsafe"),
        ("{{ ''.__class__.__mro__[1] }}", "undefined|unsafe"),
        ("{% include '/etc/passwd' %}", "no loader"),
        ("{{ 1 / 0 }}", "division by zero"),
        ("{{ raise_exception('roles must\nalternate') }}", "roles must alternate"),
        ("{{ unclosed", "line 1"),
    ],
)
def test_bad_templates_give_one_line(source: str, message: str) -> None:
    with pytest.raises(PygrokError, match=message) as caught:
        JinjaTemplate(source, SMALL).render([{"role": "user", "content": "x"}])
    assert str(caught.value).startswith("chat template")
    assert "\n" not in str(caught.value)


def test_templates_may_use_what_real_ones_use() -> None:
    source = (
        "{%- if messages[0]['role'] == 'system' -%}{%- set loop_messages = messages[1:] -%}{%- endif -%}"
        "{%- for message in loop_messages | default(messages) -%}"
        "{%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) -%}"
        "{{ raise_exception('order') }}{%- endif -%}"
        "{%- if loop.last and not add_generation_prompt -%}{%- break -%}{%- endif -%}"
        "{{ '[' + message['role'].upper() + '] ' + message.content.strip() | replace('a', 'A') }}"
        "{{ loop.index }}\n"
        "{%- endfor -%}{{ messages | map(attribute='role') | join('+') }}{{ {'k': 'é'} | tojson }}"
    )
    messages = [
        {"role": "system", "content": "s"},
        {"role": "user", "content": " aha "},
        {"role": "assistant", "content": "b"},
    ]
    assert JinjaTemplate(source, SMALL).render(messages) == (
        '[USER] AhA1[ASSISTANT] b2system+user+assistant{"k": "é"}'
    )
