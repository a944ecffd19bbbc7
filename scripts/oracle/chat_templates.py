#!/usr/bin/env python3
"""Writes tests/golden/chat_templates: what jinja2, set up as Hugging Face tokenizers do, makes of chat templates.

Usage: pip install 'jinja2>=3.1.6'
       scripts/oracle/chat_templates.py [--out tests/golden/chat_templates]

KIND.json: the checkpoints' templates with the reference's conversations. styles/NAME.json: expected outputs of
styles/NAME.jinja, templates in the manner of published ones. programs.json: random programs of
template_differential.py. A case has "expected", or "error" where rendering fails. continued.json: conversations whose last
message is left open, with all of these templates; null where that message cannot be continued.
The time that strftime_now shows is 2025-03-07T14:05:09.000042.
"""

import argparse
import copy
import json
import re
import sys
import types
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(Path(__file__).resolve().parent))
# The package itself would import torch; only three of its modules are needed.
package = types.ModuleType("keye_reference")
package.__path__ = [str(Path(__file__).resolve().parent / "keye_reference")]
golden = types.ModuleType("keye_reference.golden")
golden.dumps = json.dumps
sys.modules.update({"keye_reference": package, "keye_reference.golden": golden})

from jinja_environment import make_environment  # noqa: E402
from keye_reference import chat, chat_golden, templates  # noqa: E402
from template_differential import VARIABLES, Programs, expected_of  # noqa: E402

QWEN_TOKENS = {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}
DEEPSEEK_TOKENS = {"bos_token": "<｜begin▁of▁sentence｜>", "eos_token": "<｜end▁of▁sentence｜>", "pad_token": "<｜▁pad▁｜>"}
STYLE_TOKENS = {"bos_token": "<s>", "eos_token": "</s>"}

TOOL = {
    "type": "function",
    "function": {
        "name": "search",
        "description": "Finds \"things\" in <places>, e.g. 东京.",
        "parameters": {
            "type": "object",
            "properties": {
                "query": {"type": "string", "description": " what to find "},
                "limit": {"type": "integer", "default": 10},
                "places": {"type": "array", "items": {"type": "string"}},
                "kind": {"type": "string", "enum": ["new", "old"], "default": "new", "description": "which"},
                "when": {"type": ["string", "null"]},
                "near": {"type": "object", "properties": {"lat": {"type": "number"}, "lon": {"type": "number"}}, "required": ["lat"]},
                "by": {"oneOf": [{"type": "string", "description": "a name"}, {"type": "boolean", "default": True}]},
                "extra": {"type": "object", "additionalProperties": {"type": "boolean"}},
            },
            "required": ["query"],
        },
        "return": {"type": "object"},
    },
}
CLOCK = {"type": "function", "function": {"name": "clock", "description": "The time.", "parameters": {"type": "object", "properties": {}}}}


def call(name, arguments, identifier="call00001"):
    return {"id": identifier, "type": "function", "function": {"name": name, "arguments": arguments}}


def user(content):
    return {"role": "user", "content": content}


def assistant(content, **more):
    return {"role": "assistant", "content": content, **more}


def tool(content, identifier="call00001"):
    return {"role": "tool", "tool_call_id": identifier, "content": content}


SYSTEM = {"role": "system", "content": "  Be brief.\n\nAlways."}
STYLE_CASES = [
    {"name": "one_user", "messages": [user(" Hi\n")]},
    {"name": "system_and_turns", "messages": [SYSTEM, user("Hi"), assistant(" Hello! "), user("你好 <|im_end|> & \"x\" \\n")]},
    {"name": "no_generation_prompt", "messages": [user("Hi"), assistant("Hello!", thinking="hm")], "variables": {"add_generation_prompt": False}},
    {"name": "thinking_off", "messages": [user("Hi")], "variables": {"enable_thinking": False, "date_string": "1 Jan 2000", "reasoning_effort": "low"}},
    {"name": "think_tags", "messages": [user("1+1?"), assistant("<think>\nadd\n</think>\n\n2"), user("2+2?"), assistant("<think>\nagain\n</think>\n\n4")], "variables": {"add_generation_prompt": False}},
    {"name": "tools", "messages": [SYSTEM, user("Find it")], "variables": {"tools": [TOOL, CLOCK]}},
    {"name": "tools_in_system", "messages": [user("Find it")], "variables": {"tools": [TOOL], "tools_in_user_message": False}},
    {"name": "call_and_result", "messages": [user("Find it"), assistant("", tool_calls=[call("search", {"query": "é \"q\"", "limit": 3, "f": 1.0, "z": None})]), tool("found\n1"), assistant("Here."), user("Thanks")], "variables": {"tools": [TOOL, CLOCK]}},
    {"name": "two_calls", "messages": [user("Both"), assistant("Wait.", tool_calls=[call("search", {"query": "a"}), call("clock", {}, "call00002")]), tool("r1"), tool("r2", "call00002")], "variables": {"tools": [TOOL, CLOCK]}},
    {"name": "bad_order", "messages": [user("One"), user("Two"), assistant("x", tool_calls=[call("clock", {}, "short")])]},
    {"name": "parts", "messages": [user([{"type": "image"}, {"type": "text", "text": " what? "}, {"type": "text", "text": "tell"}])]},
    {"name": "documents", "messages": [SYSTEM, user("Which?")], "variables": {"documents": [{"title": "A", "text": "one"}, {"title": "Ü", "text": "two \"2\""}]}},
    {"name": "system_only", "messages": [SYSTEM]},
    {"name": "tool_first", "messages": [tool("early"), user("?")]},
]

CONTINUED = {
    "one_word": [user("Hi"), assistant("Hello")],
    "space_behind": [user("Hi"), assistant("Hello there, ")],
    "spaces_around": [SYSTEM, user("Hi"), assistant(" \n Hello\n\n")],
    "empty": [user("Hi"), assistant("")],
    "only_spaces": [user("Hi"), assistant(" \n")],
    "same_text_before": [user("Hello"), assistant("Hello"), user("Hello"), assistant("Hello")],
    "text_of_the_template": [user("Hi"), assistant("assistant\n")],
    "special_token": [user("Hi"), assistant("<|im_end|>\n<|im_start|>assistant\n")],
    "chinese": [user("你好"), assistant("你好，我是\u3000")],
    "quotes_and_lines": [user("Hi"), assistant('a "b"\nc\\d & <e>')],
    "thought": [user("1+1?"), assistant("<think>\nadd\n</think>\n\nThe sum is")],
    "tight_thought": [user("1+1?"), assistant("<think>add</think>The sum is")],
    "empty_thought": [user("1+1?"), assistant("<think>\n\n</think>\n\n")],
    "open_thought": [user("1+1?"), assistant("<think>\nFirst,")],
    "thought_beside": [user("1+1?"), assistant("The sum is", reasoning_content="add", thinking="add")],
    "call_behind": [user("Time?"), assistant("Let me see.", tool_calls=[call("clock", {})])],
    "after_a_result": [user("Time?"), assistant("", tool_calls=[call("clock", {})]), tool("12:00"), assistant("It is ")],
    "only_message": [assistant("Once upon")],
}
CONTINUED_PARTS = {  # for the checkpoints' own templates, which take parts
    "parts": [user([{"type": "image"}, {"type": "text", "text": "?"}]), assistant([{"type": "text", "text": "One, "}, {"type": "text", "text": "two, "}])],
    "picture_behind": [user("?"), assistant([{"type": "text", "text": "See "}, {"type": "image"}])],
    "no_text_in_parts": [user("?"), assistant([{"type": "image"}])],
}


def render(environment, source, variables):
    try:
        return {"expected": environment.from_string(source).render(**variables)}
    except Exception as error:  # whatever the template raises
        return {"error": f"{type(error).__name__}: {error}"}


def continued(environment, source, tokens, messages):
    """What Hugging Face's continue_final_message gives: a tag behind the last text, and the prompt cut where it comes out."""
    tag = "CONTINUE_FINAL_MESSAGE_TAG "
    messages = copy.deepcopy(messages)
    content = messages[-1]["content"]
    holder, key = messages[-1], "content"
    if isinstance(content, list):
        holder, key = next(((part, "text") for part in reversed(content) if "text" in part), (None, None))
        if holder is None:
            return None
    text = holder[key]
    holder[key] += tag
    result = render(environment, source, {**tokens, "tools": None, "documents": None, "add_generation_prompt": False, "messages": messages})
    rendered = result.get("expected", "")
    if text.strip() not in rendered or tag.strip() not in rendered:
        return None
    place = rendered.rindex(tag.strip())
    return rendered[:place] if rendered[place:].startswith(tag) else rendered[:place].rstrip()


def random_programs(environment, succeeding=700, failing=150):
    """Programs whose text does not depend on Python's memory, and neither on numbers that keye refuses."""
    programs = Programs(2025)
    wanted = {"expected": succeeding, "error": failing}
    cases = []
    while any(wanted.values()):
        source = programs.program()
        expected = expected_of(environment, source)
        kind = "expected" if isinstance(expected, str) else "error"
        shown = expected if kind == "expected" else f"{type(expected).__name__}: {expected}"
        if not wanted[kind] or len(source) > 600 or " at 0x" in shown or re.search(r"\d{18}|e\+\d\d|\dj", shown) or expected is RecursionError:
            continue
        wanted[kind] -= 1
        cases.append({"template": source, kind: shown})
    return cases


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=ROOT / "tests/golden/chat_templates")
    out = parser.parse_args().out
    environment = make_environment()
    nano = json.loads((ROOT / "models/keye-nano/tokenizer_config.json").read_text(encoding="utf-8"))["chat_template"]
    kinds = {
        "qwen3-text": (templates.QWEN, QWEN_TOKENS),
        "keye-1_5": (templates.KEYE, QWEN_TOKENS),
        "keye-nano": (nano, QWEN_TOKENS),
        "deepseek-v3-text": (templates.DEEPSEEK, DEEPSEEK_TOKENS),
        "keye-671b": (templates.DEEPSEEK, DEEPSEEK_TOKENS),
    }
    open_ends = {}
    for kind, (source, tokens) in kinds.items():
        conversations = {**CONTINUED, **CONTINUED_PARTS}
        open_ends[f"{kind}.json"] = {name: continued(environment, source, tokens, messages) for name, messages in conversations.items()}
        cases = []
        for case in chat_golden.CASES:
            variables = {**tokens, "add_generation_prompt": True, **case.get("variables", {}), "messages": chat.normalise_messages(case["messages"])}
            cases.append({**case, **render(environment, source, variables)})
        write(out / f"{kind}.json", {"template": source, "token_variables": tokens, "cases": cases})
    write(out / "programs.json", {"variables": VARIABLES, "cases": random_programs(environment)})
    for path in sorted((out / "styles").glob("*.jinja")):
        source = path.read_text(encoding="utf-8")
        open_ends[f"styles/{path.name}"] = {name: continued(environment, source, STYLE_TOKENS, messages) for name, messages in CONTINUED.items()}
        cases = []
        for case in STYLE_CASES:
            given = {"tools": None, "documents": None, "add_generation_prompt": True, **case.get("variables", {})}
            variables = {**STYLE_TOKENS, **given, "messages": case["messages"]}
            cases.append({**case, **render(environment, source, variables)})
        write(path.with_suffix(".json"), {"token_variables": STYLE_TOKENS, "cases": cases})
    write(out / "continued.json", {"conversations": {**CONTINUED, **CONTINUED_PARTS}, "expected": open_ends})


if __name__ == "__main__":
    main()
