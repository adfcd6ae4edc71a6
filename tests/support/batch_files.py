"""Files of prompts, and what their lines give one by one."""

from __future__ import annotations

LENGTH = 16


def requests(count: int) -> list[dict]:
    return [{"prompt": f"number {i}", "id": f"r{i}"} for i in range(count)]


def in_order(records: list[dict]) -> list[dict]:
    return sorted(records, key=lambda record: record["index"])


def alone(decoder, prompt, **options):
    chat = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
    out = decoder.generate([chat], **{"max_new_tokens": LENGTH, **options})
    return out.texts[0], out.stats[0].as_dict()
