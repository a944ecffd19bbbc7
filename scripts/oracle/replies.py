#!/usr/bin/env python3
"""Writes tests/golden/replies/replies.json: replies of models, and which part of each is reasoning and which is content.

Usage: scripts/oracle/replies.py [--out tests/golden/replies/replies.json]

The rules are those of src/prompt/reply_parser.h, here as regular expressions on the whole reply.
"""

import argparse
import json
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
GAP = r"[ \t\n\v\f\r]{0,8}"
STYLES = {"plain": [], "think": ["think"], "auto_think": ["analysis", "think", "answer"]}


def split_block(name, text):
    """The body of a block whose opening tag was read, and what follows it (None if the reply ends in the block)."""
    repeated = "" if name == "answer" else f"(?:{GAP}<{name}>)*"
    body, closed, rest = re.match(f"{repeated}(.*?)(?:(</{name}>)(.*)|\\Z)", text, re.S).groups()
    return body, rest if closed else None


def split(style, inside, reply):
    """(reasoning, content) of a reply; `inside` names the block that the prompt has opened."""
    bodies = []
    rest, name = reply, inside
    names = "|".join(STYLES[style])
    while rest is not None:
        if name is None:
            opening = re.match(f"{GAP}<({names})>", rest) if names else None
            if opening is None:
                break
            name, rest = opening[1], rest[opening.end() :]
        body, after = split_block(name, rest)
        if name == "answer":
            return "\n".join(filter(None, bodies)), body + (after or "")
        bodies.append(body)
        name, rest = None, after
    return "\n".join(filter(None, bodies)), rest or ""


PLAIN = [
    ("empty", ""),
    ("sentence", "The bar for 2021 is the highest."),
    ("chinese", "图中最高的柱子是2021年。"),
    ("emoji", "👩‍🔬 measures 3 < 5 🙂\n"),
    ("white_space_first", " \n\tHello"),
    ("white_space_only", "\n\n"),
    ("grounding", "<|object_ref_start|>the dog<|object_ref_end|><|box_start|>(12,34),(560,780)<|box_end|>"),
    ("tool_call", '<tool_call>\n{"name": "f", "arguments": {}}\n</tool_call>'),
    ("html", "<table><tr><td>1</td></tr></table>"),
    ("tags_as_words", "Write <think> before and </think> after, then <answer>."),
    ("closing_tag_first", "</think>\n\nHello"),
    ("closing_tag_later", "I think so.</think>\n\nYes."),
    ("other_case", "<THINK>no</THINK>"),
    ("tag_with_attribute", "<think mode='x'>no</think>"),
    ("tag_with_space", "< think>no</think>"),
    ("two_brackets", "<<think>no</think>"),
]
THINK = [
    ("think", "<think>\nIt has two wheels.\n</think>\n\nA bicycle."),
    ("think_tight", "<think>R</think>C"),
    ("empty_thought", "<think>\n\n</think>\n\nHello!"),
    ("no_thought_at_all", "<think></think>Hello!"),
    ("no_content", "<think>R</think>"),
    ("white_space_after", "<think>R</think>\n\n"),
    ("white_space_before", "\n\n<think>R</think>C"),
    ("eight_spaces_before", "        <think>R</think>C"),
    ("nine_spaces_before", "         <think>R</think>C"),
    ("other_spaces_before", "\u00a0<think>R</think>C"),
    ("windows_lines", "<think>\r\nR\r\n</think>\r\n\r\nC\r\n"),
    ("chinese_thought", "<think>\n用户想知道哪一年最高。2021年：98。\n</think>\n\n2021年。"),
    ("emoji_thought", "<think>🤔 <3</think>🙂"),
    ("repeated_opening", "<think>\n<think>\nR</think>C"),
    ("opening_inside", "<think>Say <think> twice: <think></think>C"),
    ("closing_twice", "<think>R</think></think>C"),
    ("nearly_closed", "<think>a </thin> b < /think> c </ think> d </think >e</think>C"),
    ("brackets_before_closing", "<think>1 << 2 <</think>C<"),
    ("two_thoughts", "<think>A</think>\n\n<think>B</think>\n\nC"),
    ("three_thoughts", "<think>A</think><think></think><think>\nB\n</think>C"),
    ("thought_after_content", "<think>A</think>C<think>B</think>D"),
    ("tool_call_after", '<think>R</think>\n<tool_call>\n{"name": "f"}\n</tool_call>'),
    ("tool_call_inside", '<think>I call <tool_call>{"name": "f"}</tool_call></think>ok'),
    ("cut_in_thought", "<think>\nIt has two"),
    ("cut_in_closing_tag", "<think>R</thi"),
    ("cut_in_opening_tag", "<thi"),
    ("cut_in_second_tag", "<think>A</think>\n<thin"),
    ("cut_after_opening", "<think>"),
    ("cut_after_white_space", "<think>\n"),
]
PRE_OPENED = [
    ("closing_only", "It has two wheels.\n</think>\n\nA bicycle."),
    ("closing_at_once", "</think>Hello!"),
    ("closing_after_lines", "\n\n</think>\n\nHello!"),
    ("opening_again", "<think>\nR\n</think>\n\nC"),
    ("opening_again_behind_lines", "\n<think>\nR\n</think>\n\nC"),
    ("opening_later", "R <think> R</think>C"),
    ("second_thought", "A</think>\n<think>B</think>C"),
    ("never_closed", "It has two wheels, so"),
    ("nine_spaces", "         <think>R</think>C"),
    ("chinese", "用户问好。\n</think>\n\n你好！"),
    ("nothing", ""),
    ("part_of_a_tag", "</think"),
]
AUTO = [
    ("no_think", "A red bicycle."),
    ("think_and_answer", "<think>Count: 3.</think><answer>There are 3.</answer>"),
    ("easy", "<analysis>A simple question. Therefore, /no_think mode is more appropriate.</analysis>A red bicycle."),
    ("easy_on_lines", "<analysis>\n简单的问题，/no_think 模式更合适。\n</analysis>\n\n红色的自行车。"),
    ("hard", "<analysis>Needs steps. /think mode is more appropriate.</analysis><think>1+1=2 🙂</think><answer>\\boxed{2}</answer>"),
    ("hard_on_lines", "<analysis>\nSteps.\n</analysis>\n<think>\n1+1\n</think>\n<answer>\n2\n</answer>\n"),
    ("answer_only", "<answer>2</answer>"),
    ("answer_not_closed", "<think>R</think><answer>The answer is"),
    ("answer_cut_in_tag", "<think>R</think><answer>2</answ"),
    ("text_after_answer", "<think>R</think><answer>2</answer>\n\nAnd <think>more</think>."),
    ("answer_twice", "<answer>1</answer><answer>2</answer>"),
    ("answer_inside_answer", "<answer><answer>2</answer></answer>"),
    ("thought_inside_answer", "<think>R</think><answer><think>2</think></answer>"),
    ("answer_inside_content", "<think>R</think>So: <answer>2</answer>"),
    ("answer_inside_thought", "<think>R <answer>2</answer></think><answer>3</answer>"),
    ("thought_inside_analysis", "<analysis>Then <think>x</think> y</analysis>C"),
    ("thought_before_analysis", "<think>R</think><analysis>A</analysis>C"),
    ("beginnings_of_tags", "<an</an<answe"),
    ("beginnings_in_blocks", "<analysis><a</a</analysis><t<think>"),
    ("empty_blocks", "<analysis></analysis><think></think><answer></answer>"),
    ("spaces_after_answer_tag", "<answer> \n<answer>2</answer>"),
]
CUT = "<analysis>易 /think</analysis>\n<think>r</think>\n<answer>c🙂</answer>."


def cases():
    def case(name, style, inside, reply):
        reasoning, content = split(style, inside, reply)
        return {"name": name, "style": style, "inside": inside, "reply": reply, "reasoning": reasoning, "content": content}

    for style in STYLES:
        for name, reply in PLAIN:
            yield case(f"{style}_{name}", style, None, reply)
    for name, reply in THINK:
        yield case(f"think_{name}", "think", None, reply)
        yield case(f"auto_think_{name}", "auto_think", None, reply)
    yield case("plain_with_thought", "plain", None, "<think>R</think>C")
    for style in ("think", "auto_think"):
        for name, reply in PRE_OPENED:
            yield case(f"{style}_pre_opened_{name}", style, "think", reply)
    for name, reply in AUTO:
        yield case(f"auto_think_{name}", "auto_think", None, reply)
    for length in range(len(CUT) + 1):
        yield case(f"auto_think_cut_after_{length}", "auto_think", None, CUT[:length])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=ROOT / "tests/golden/replies/replies.json")
    out = parser.parse_args().out
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps({"cases": list(cases())}, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
