"""Prompts: texts, chats and files of them, read as their writer meant them.

`messages` says what a chat is, `template` renders it, the one place that does, `source` reads what
a template says of itself, and `marks` finds what it leaves out; `text` keeps masks out of ids;
`jsonl` reads files of JSON Lines, `records` what a line of them asks, and `keys` says which of its
keys may be left unread. What would change the meaning and cannot be honoured is refused by name:
ValueError or TypeError.
"""
