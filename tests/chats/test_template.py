"""Chats as their template renders them, and whatever it would lose."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import fastedit

USER = {"role": "user", "content": "hi"}
HUMAN = "<role>HUMAN</role>{}<|role_end|>"
TOOL = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}
PRINTS = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
    "{% if add_generation_prompt %}<bot>{% endif %}"
)
FUNCTION = {"name": "weather", "arguments": {"city": "Rome"}}
CALL = {"id": "c1", "type": "function", "function": FUNCTION}


def said(**message):
    return {"role": "assistant", **message}


def test_a_chat_ends_where_the_answer_begins(templates):
    assert templates.render([USER]) == templates.OFF + HUMAN.format("hi") + templates.ASK
    assert templates.render([{"role": "system", "content": "Be brief."}, USER]).startswith(
        "<role>SYSTEM</role>Be brief.\ndetailed thinking off"
    )


def test_tools_and_variables_reach_the_template(templates):
    expected = templates.render([USER], tools=[TOOL], chat_template_kwargs={"enable_thinking": 1})
    assert json.dumps(TOOL) in expected and "thinking on" in expected
    beside = {"tools": [TOOL], "chat_template_kwargs": {"enable_thinking": True}}
    assert templates.render({"messages": [USER], **beside}) == expected
    assert templates.render({"messages": [USER], "tools": json.dumps([TOOL])}) == templates.render(
        [USER], tools=[TOOL]
    )


@pytest.mark.parametrize("arguments", [FUNCTION["arguments"], '{"city": "Rome"}'])
def test_null_content_beside_tool_calls(templates, arguments):
    call = {**CALL, "function": {"name": "weather", "arguments": arguments}}
    answer = {"role": "tool", "tool_call_id": "c1", "name": "weather", "content": "12"}
    for content in ({"content": None}, {"content": ""}, {}):
        text = templates.render([USER, said(**content, tool_calls=[call]), answer], tools=[TOOL])
        assert '<call>weather{"city": "Rome"}</call>' in text
        assert text.endswith("<role>OBSERVATION</role>12<|role_end|>" + templates.ASK)


def test_text_parts_are_joined_unless_the_template_goes_through_them(templates):
    parts = [{"type": "text", "text": "1 + "}, {"type": "text", "text": "2 ="}]
    assert HUMAN.format("1 + 2 =") in templates.render([{"role": "user", "content": parts}])
    own = "{% for m in messages %}{% for p in m['content'] %}[{{ p.text }}]{% endfor %}{% endfor %}"
    assert templates.render([{"role": "user", "content": parts}], own) == "[1 + ][2 =]"
    assert templates.render([USER], own) == "[hi]"  # it takes nothing but lists
    either = own.replace(
        "{% for p", "{% if m.content is string %}{{ m.content }}{% else %}{% for p"
    )
    either = either.replace("{% endfor %}{% endfor %}", "{% endfor %}{% endif %}{% endfor %}")
    assert templates.render([USER], either) == "hi"
    assert templates.render([{"role": "user", "content": parts}], either) == "[1 + ][2 =]"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ([{"type": "image_url", "image_url": {"url": "x"}}], "part 0 is of type 'image_url'"),
        (
            [{"type": "text", "text": "a"}, {"type": "input_audio"}],
            "part 1 is of type 'input_audio'",
        ),
        ([{"type": "text"}], "part 0 needs a `text`"),
        ([3], "part 0 is of type 'int'"),
        (3, "`content` must be a text or a list of text parts; got int"),
        ({"text": "a"}, "got dict"),
        (None, "message 0 needs `content`"),
    ],
)
def test_content_of_other_kinds_is_named(templates, content, words):
    with pytest.raises(ValueError, match=words):
        templates.render([{"role": "user", "content": content}])


@pytest.mark.parametrize(
    ("chat", "words"),
    [
        ([{"role": "developer", "content": "x"}, USER], "role 'developer' is none .* knows"),
        ([USER, {"role": "function", "name": "f", "content": "x"}], "role 'function' is none"),
        (
            [USER, {"role": "system", "content": "x"}, USER],
            "leaves out message 1, of role 'system'",
        ),
        (
            [USER, said(content="a", reasoning_content="why"), USER],
            "`reasoning_content` of message 1",
        ),
        ([{**USER, "name": "Bob"}], "leaves out `name` of message 0"),
        ([{**USER, "weight": 0}], "leaves out `weight` of message 0"),
        ([{**USER, "images": ["x.png"]}], "leaves out `images` of message 0"),
        ([USER, said(content="a", function_call=FUNCTION), USER], "leaves out `function_call`"),
        ([USER, said(content="a", tool_calls=[{"id": "x"}]), USER], "needs the `name`"),
        ([USER, said(tool_calls=[{"function": {"name": "f", "arguments": "{"}}])], "must be JSON"),
    ],
)
def test_what_the_template_would_lose_is_refused(templates, chat, words):
    with pytest.raises(ValueError, match=words):
        templates.render(chat)


def test_a_short_text_that_stands_elsewhere_is_lost_all_the_same(templates):
    """Text alone does not tell: another message holds it too."""
    only_users = "{% for m in messages if m.role != 'system' %}{{ m.content }}{% endfor %}"
    with pytest.raises(ValueError, match="leaves out message 0, of role 'system'"):
        templates.render([{"role": "system", "content": "2"}, {**USER, "content": "2"}], only_users)


def test_calls_and_their_arguments_must_both_appear(templates):
    names = PRINTS.replace(
        "{{ m.content }}",
        "{{ m.content }}{% for c in m.tool_calls or [] %}{{ c.function.name }}{% endfor %}",
    )
    chat = [USER, said(tool_calls=[CALL]), {"role": "tool", "content": "12"}]
    with pytest.raises(ValueError, match="the arguments in `tool_calls` of message 1"):
        templates.render(chat, names)
    with pytest.raises(ValueError, match="leaves out `tool_calls` of message 1"):
        templates.render(chat, PRINTS)


@pytest.mark.parametrize("change", ["upper", "tojson", "trim"])
def test_a_template_may_write_a_text_in_its_own_way(templates, change):
    template = PRINTS.replace("m.content", f"m.content | {change}")
    assert templates.render([{**USER, "content": ' say "hé" '}], template)


def test_notes_and_empty_values_may_be_left_out(templates):
    message = {**USER, "id": 3, "created_at": "today", "refusal": None, "annotations": []}
    assert templates.render([message]) == templates.render([USER])
    beside = {"messages": [USER], "metadata": {"a": 1}, "source_id": 4, "tools": []}
    assert templates.render(beside) == templates.render([USER])


@pytest.mark.parametrize("role", ["developer", "tool", "function", "critic"])
def test_a_role_that_the_template_prints_is_known_to_it(templates, role):
    assert f"<{role}>x" in templates.render([{"role": role, "content": "x"}, USER], PRINTS)


def test_messages_of_a_client_library_are_messages(templates):
    from types import SimpleNamespace

    from fastedit.chats.messages import is_chat

    fields = {**said(content="4"), "refusal": None, "annotations": [], "tool_calls": None}
    answer = SimpleNamespace(model_dump=lambda: fields)
    assert is_chat([USER, answer, USER])
    assert templates.render([USER, answer, USER]) == templates.render(
        [USER, said(content="4"), USER]
    )


def test_one_place_applies_templates():
    folder = Path(fastedit.__file__).parent
    found = [
        file.name for file in folder.rglob("*.py") if "apply_chat_template" in file.read_text()
    ]
    assert found == ["template.py"]


@pytest.mark.parametrize("change", ["upper", "capitalize"])
def test_a_role_may_be_printed_in_other_letters(templates, change):
    template = PRINTS.replace("m.role", f"m.role | {change}")
    assert "x" in templates.render([{"role": "system", "content": "x"}, USER], template)


def test_a_role_that_is_taken_for_another_one_is_refused(templates):
    either = PRINTS.replace("m.role", "'A' if m.role == 'assistant' else 'H'")
    assert templates.render([USER], either) == "<H>hi<bot>"
    with pytest.raises(ValueError, match=r"message 0: role 'system' is none .*\(assistant\)"):
        templates.render([{"role": "system", "content": "x"}, USER], either)


def test_a_last_turn_of_the_assistant_is_continued_or_refused(templates):
    chat = [USER, said(content="The answer is")]
    with pytest.raises(ValueError, match=r"ends in a turn .*continue_final_message=True"):
        templates.render(chat)
    expected = templates.OFF + HUMAN.format("hi") + templates.ASK + "The answer is"
    assert templates.render(chat, continue_final_message=True) == expected
    assert templates.render({"messages": chat, "continue_final_message": True}) == expected
    with pytest.raises(ValueError, match="not of 'user'"):
        templates.render([USER], continue_final_message=True)
    with pytest.raises(ValueError, match="add_generation_prompt"):
        templates.render({"messages": [USER], "add_generation_prompt": False})


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"tools": [TOOL]}, "has no place for `tools`"),
        ({"chat_template_kwargs": {"enable_thinking": True}}, "'enable_thinking', which the chat"),
        ({"chat_template_kwargs": {"tokenize": True}}, "'tokenize'"),
        ({"chat_template_kwargs": {"tools": [TOOL]}}, "use `tools`"),
        ({"chat_template_kwargs": {"add_generation_prompt": False}}, "`continue_final_message`"),
    ],
)
def test_options_that_the_template_has_not_are_refused(templates, options, words):
    with pytest.raises(ValueError, match=words):
        templates.render([USER], PRINTS, **options)


def test_several_templates_by_name(templates):
    by_name = {"default": PRINTS, "tool_use": PRINTS + "{{ tools[0].function.name }}"}
    assert templates.render([USER], by_name) == "<user>hi<bot>"
    assert templates.render([USER], by_name, tools=[TOOL]) == "<user>hi<bot>weather"


def test_turns_in_pieces_are_the_whole_chat(templates):
    chat = [USER, said(tool_calls=[CALL]), {"role": "tool", "content": "12"}, said(content="ok")]
    turns = templates.turns([*chat, USER])
    assert [turn.message for turn in turns] == [None, 1, None, 3]
    assert turns[3].text == "ok<|role_end|>"
    whole = "".join(turn.text for turn in turns)
    assert templates.render([*chat, USER]) == whole + HUMAN.format("hi") + templates.ASK


THINK = "<think>r</think>"
# What DeepSeek's and Qwen3's templates do with reasoning: the one never shows it, the other only
# that of the last turn.
CHATS = PRINTS.replace("<bot>", "<assistant>")
CUTS = CHATS.replace("m.content", "m.content.split('</think>')[-1]")
REWRITES = PRINTS.replace(
    "{{ m.content }}",
    "{% if '</think>' in m.content %}<think>\n{{ m.content.split('</think>')[0]"
    ".split('<think>')[-1].strip('\n') }}\n</think>\n\n{% endif %}"
    "{{ m.content.split('</think>')[-1].lstrip('\n') }}",
)


@pytest.mark.parametrize("template", [None, CUTS])
@pytest.mark.parametrize("content", [THINK + "ans", "<think>\nsecret\n</think>", f"{THINK}\n\nan"])
def test_what_stands_in_front_is_not_lost_silently(templates, content, template):
    """Also where another message holds the same text, or a part of it."""
    options = {"template": template} if template else {}
    words = "leaves out a part of message 1, of role 'assistant'"
    for user in ("hi", content):
        chat = [{**USER, "content": user}, said(content=content)]
        # LLaDA2.1's shows a user's text whole; the other one cuts that, too.
        where = words if user == "hi" or not template else "leaves out a part of message 0"
        with pytest.raises(ValueError, match=where):
            templates.render([*chat, USER], **options)
        with pytest.raises(ValueError, match=where):
            templates.turns(chat, **options)


@pytest.mark.parametrize("cut", ["[-5:]", "[2:]", "[:5]", "[2:8]", ".split('\\n')[-1]"])
def test_a_text_that_is_cut_is_refused(templates, cut):
    template = PRINTS.replace("m.content", f"m.content{cut}")
    with pytest.raises(ValueError, match=r"leaves out (a part of )?message 0"):
        templates.render([{**USER, "content": "hello,\nworld"}], template)


@pytest.mark.parametrize(
    "change",
    [
        "| upper",
        "| tojson",
        "| trim",
        "| e",
        ".strip('\n')",
        "| replace('\n', ' ')",
        "| title",
        "| indent(40)",
    ],
)
@pytest.mark.parametrize("content", [" 4 \n", "\n\n", "a\n\n  b <c>\t", "say \"hé\"\n'x' \\ ß"])
def test_edges_and_spellings_are_no_loss(templates, change, content):
    template = PRINTS.replace("m.content", f"m.content {change}")
    assert templates.render([{**USER, "content": content}, said(content=content), USER], template)
    lines = PRINTS.replace(
        "{{ m.content }}", "{% for line in m.content.split('\n') %}> {{ line }}\n{% endfor %}"
    )
    assert templates.render([{**USER, "content": content}], lines)


def test_reasoning_may_be_written_in_another_layout(templates):
    text = templates.render([USER, said(content=THINK + "ans"), USER], REWRITES)
    assert "<think>\nr\n</think>\n\nans" in text
    with pytest.raises(ValueError, match="leaves out a part of message 1"):
        templates.render([USER, said(content="pre" + THINK + "ans"), USER], REWRITES)


def test_variables_that_are_not_read_are_refused(templates):
    """A name in a text, of an attribute or of the template's own is no variable."""
    template = (
        "{# mood #}mood {{ 'mood' }}{% for m in messages %}{% set own = m.content %}{{ own }}"
        "{{ m.mood }}{% generation %}{% if other is defined and other %}O{% endif %}"
        "{% endgeneration %}{% break %}{% endfor %}"
        "{% if kept is not defined %}{% set kept = 'K' %}{% endif %}{{ kept }}"
    )
    for name in ("mood", "own", "m", "namespace", "raise_exception"):
        with pytest.raises(ValueError, match=f"has '{name}', which the chat template does not"):
            templates.render([USER], template, chat_template_kwargs={name: "x"})
    variables = {"other": True, "kept": "!"}
    assert templates.render([USER], template, chat_template_kwargs=variables).endswith("hiO!")
    with pytest.raises(ValueError, match="cannot be parsed"):
        templates.render([USER], "{% if %}")


@pytest.mark.parametrize("each", ["m['content'] | list", "m.content[:]", "content"])
def test_a_loop_over_contents_gets_parts(templates, each):
    template = "{% for m in messages %}{% set content = m.content %}{% for p in EACH %}{{ p.text }}"
    template = template.replace("EACH", each) + "{% endfor %}{% endfor %}"
    assert templates.render([USER], template) == "hi"


# As Qwen3's: an empty block of reasoning in the last turn, none in those before; calls behind it.
QWEN = (
    "{%- set ns = namespace(query=0) -%}{%- for m in messages -%}{%- if m.role == 'user' -%}"
    "{%- set ns.query = loop.index0 -%}{%- endif -%}{%- endfor -%}"
    "{%- for m in messages -%}{{- '<|im_start|>' + m.role + '\n' -}}"
    "{%- set content = m.content.split('</think>')[-1].lstrip('\n') -%}"
    "{%- set reasoning = m.reasoning_content or '' -%}"
    "{%- if m.role == 'assistant' and loop.index0 > ns.query and (loop.last or reasoning) -%}"
    "{{- '<think>\n' + reasoning + '\n</think>\n\n' -}}{%- endif -%}{{- content -}}"
    "{%- for call in m.tool_calls or [] -%}"
    "{{- '<call>' + call.function.name + (call.function.arguments | tojson) + '</call>' -}}"
    "{%- endfor -%}{{- '<|im_end|>\n' -}}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\n' -}}"
    "{%- if enable_thinking is defined and not enable_thinking -%}"
    "{{- '<think>\n\n</think>\n\n' -}}{%- endif -%}{%- endif -%}"
)
EMPTY = "<think>\n\n</think>\n\n"


def test_turns_that_are_written_otherwise_later_are_found(templates):
    chat = [USER, said(content=" 4 \n"), USER, said(content="4 4"), USER, said(content="4")]
    turns = templates.turns([*chat, USER], QWEN)
    assert [turn.text for turn in turns if turn.message is not None] == [
        " 4 \n<|im_end|>\n",
        "4 4<|im_end|>\n",
        EMPTY + "4<|im_end|>\n",
    ]
    assert "".join(turn.text for turn in turns) == templates.tokenizer.apply_chat_template(
        chat, tokenize=False
    )
    calls = [USER, said(tool_calls=[CALL]), {"role": "tool", "content": "12"}, said(content="ok")]
    assert [turn.text for turn in templates.turns(calls, QWEN)][1::2] == [
        '<call>weather{"city": "Rome"}</call><|im_end|>\n',
        EMPTY + "ok<|im_end|>\n",
    ]


def test_turns_that_cannot_be_found_are_refused_or_read_only(templates):
    from fastedit.chats.messages import as_chat
    from fastedit.chats.template import render_turns

    chat = [USER, said(content="4"), USER, said(content="5")]
    for chat_, words in (
        ({"messages": chat, "chat_template_kwargs": {"enable_thinking": False}}, "own generation"),
        ([said(content="4"), *chat[2:]], "message 0 from its own generation prompt: .*`weight` 0"),
    ):
        with pytest.raises(ValueError, match=words):
            templates.turns(chat_, QWEN)
        last = len(as_chat(chat_).messages) - 1
        read, learnt = render_turns(as_chat(chat_), templates.tokenizer, [last])
        assert read.message is None and learnt.message == last
        assert learnt.text.endswith("5<|im_end|>\n")
    counts = CHATS.replace(
        "{{ m.content }}", "{{ m.content }}{{ messages | length if m.role[0] == 'a' }}"
    )
    with pytest.raises(ValueError, match="message 1 otherwise once others follow, and its end"):
        templates.turns(chat, counts)


@pytest.mark.parametrize("role", ["chatgpt", "Assistant", "model"])
def test_an_answer_of_an_unknown_role_is_not_dropped(templates, role):
    chat = [USER, said(content="4"), USER, {"role": role, "content": "5"}]
    for template in (CHATS, QWEN, None):
        with pytest.raises(ValueError, match=f"message 3: role '{role}' is unknown"):
            templates.turns(chat, *([template] if template else []))


# As DeepSeek's: calls where the content is null, and arguments that are joined as texts.
DEEPSEEK = (
    "{% for m in messages %}{% if m.role == 'assistant' and m.content is none %}"
    "{% for c in m.tool_calls %}{{ '<call>' + c.function.name + c.function.arguments }}"
    "{% endfor %}{% elif m.role == 'assistant' %}{{ '<bot>' + m.content + '<end>' }}"
    "{% else %}{{ '<' + m.role + '>' + m.content }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<bot>{% endif %}"
)


@pytest.mark.parametrize(
    "template",
    [DEEPSEEK, DEEPSEEK.replace("name +", "name ~"), DEEPSEEK.replace("is none", "== ''")],
)
@pytest.mark.parametrize("content", [{"content": None}, {"content": ""}, {}])
@pytest.mark.parametrize("arguments", [FUNCTION["arguments"], '{"city": "Rome"}'])
def test_calls_in_the_form_that_the_template_reads(templates, template, content, arguments):
    call = {**CALL, "function": {"name": "weather", "arguments": arguments}}
    chat = [USER, said(**content, tool_calls=[call]), {"role": "tool", "content": "12"}]
    expected = '<user>hi<call>weather{"city": "Rome"}<tool>12<bot>'
    assert templates.render(chat, template) == expected
    turns = templates.turns([*chat, said(content="ok")], template.replace("<call>", "<bot>"))
    assert turns[1].text == 'weather{"city": "Rome"}' and turns[3].text == "ok<end>"
    with pytest.raises(ValueError, match="leaves out"):
        templates.render(chat, template.replace("c.function.arguments", "''"))
