"""Counts the words of a text, and tells subscribers about long ones."""

from .words import count, longest


async def execute(data):
    text = data.get("text")
    if not isinstance(text, str):
        return {"error": "text must be a string", "error_code": "BAD_TEXT"}
    words = count(text)
    print(f"{data['user_id']} had {words} words counted")
    if words >= 1000:
        from core import event_bus  # is there when grout runs this

        event_bus.publish("long_text", {"words": words})
    return {"words": words, "longest": longest(text)}
