"""A tokenizer whose chat template can be exchanged, and a template like that of LLaDA2.1."""

from __future__ import annotations

import pytest

# What LLaDA2.1's does: a SYSTEM header with tools and the state of thinking, methods of `content`.
LLADA = (
    "{%- set thinking = 'on' if enable_thinking else 'off' -%}"
    "{{- '<role>SYSTEM</role>' -}}"
    "{%- if messages|length > 0 and messages[0].role == 'system' -%}"
    "{{- messages[0].content + '\n' -}}{%- endif -%}"
    "{%- if tools -%}{%- for tool in tools -%}{{- (tool | tojson) + '\n' -}}{%- endfor -%}"
    "{%- endif -%}"
    "{{- 'detailed thinking ' + thinking + '<|role_end|>' -}}"
    "{%- for message in messages -%}"
    "{%- if message.role == 'user' -%}{{- '<role>HUMAN</role>' + message.content -}}"
    "{%- if message.content.startswith('/') -%}{{- '!' -}}{%- endif -%}{{- '<|role_end|>' -}}"
    "{%- elif message.role == 'assistant' -%}{{- '<role>ASSISTANT</role>' -}}"
    "{%- if not message.content.startswith('<think>') -%}{{- message.content -}}"
    "{%- else -%}{{- message.content.split('</think>')[-1] -}}{%- endif -%}"
    "{%- for call in message.tool_calls or [] -%}"
    "{{- '<call>' + call.function.name + (call.function.arguments | tojson) + '</call>' -}}"
    "{%- endfor -%}{{- '<|role_end|>' -}}"
    "{%- elif message.role == 'tool' -%}"
    "{{- '<role>OBSERVATION</role>' + message.content + '<|role_end|>' -}}{%- endif -%}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<role>ASSISTANT</role>' -}}{%- endif -%}"
)
OFF, ASK = "<role>SYSTEM</role>detailed thinking off<|role_end|>", "<role>ASSISTANT</role>"


class Templates:
    """Renders chats by a template; by LLaDA2.1's, unless another one is given."""

    def __init__(self, tokenizer) -> None:
        self.tokenizer, self.OFF, self.ASK = tokenizer, OFF, ASK

    def render(self, value, template: str | None = LLADA, **options) -> str:
        from fastedit.chats.messages import ChatOptions, as_chat
        from fastedit.chats.template import render

        self.tokenizer.chat_template = template
        return render(as_chat(value, ChatOptions(**options)), self.tokenizer)

    def turns(self, value, template: str = LLADA):
        from fastedit.chats.messages import as_chat
        from fastedit.chats.template import render_turns

        self.tokenizer.chat_template = template
        return render_turns(as_chat(value), self.tokenizer)


@pytest.fixture(scope="session")
def templates():
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    fast = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE({"a": 0}, [])))
    return Templates(fast)
