import re

WORD = re.compile(r"\w+")


def count(text):
    return len(WORD.findall(text))


def longest(text):
    return max(WORD.findall(text), key=len, default=None)
