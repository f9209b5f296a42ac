#!/usr/bin/env python3
"""Stores the ids that Hugging Face transformers makes of chats without any attack in them.

usage: make_chat_golden.py MODEL_DIR >tests/text/golden/fable_chat.json
       (needs the PyPI packages transformers and jinja2; MODEL_DIR has the tokenizer of fable.json)
"""
import json
import sys

from transformers import AutoTokenizer

CONTENTS = ["Hi", "Tell me a story about a fox.", "", " padded \n", "line one\nline two\n\nline four", "1234567 and 3.14",
            "It's they'll WE'VE", "ünï ÇÖDÉ ß", "日本語のテキスト", "🤗 👩‍👩‍👧 ok", "<b>&amp;</b> < | im_start | >",
            "a<", "<|", "|>", "<|im_", "im_end|>", "<|im_en", "\t\ttabs   spaces ", "x" * 300, "The quick brown fox. " * 20]


def main():
    tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
    cases = []
    for i, content in enumerate(CONTENTS):
        other = CONTENTS[(i * 7 + 3) % len(CONTENTS)]
        chats = [[("user", content)], [("system", other), ("user", content)],
                 [("user", content), ("assistant", other), ("user", content[::-1])]]
        for k, chat in enumerate(chats):
            messages = [{"role": role, "content": text} for role, text in chat]
            generation = (i + k) % 3 != 0
            ids = tokenizer.apply_chat_template(messages, tokenize=True, add_generation_prompt=generation,
                                                return_dict=False)
            cases.append({"messages": messages, "add_generation_prompt": generation, "ids": ids})
    lines = ",\n".join(json.dumps(case, ensure_ascii=False) for case in cases)
    template = json.dumps(tokenizer.chat_template, ensure_ascii=False)
    print(f'{{"chat_template": {template}, "cases": [\n{lines}\n]}}')


if __name__ == "__main__":
    main()
