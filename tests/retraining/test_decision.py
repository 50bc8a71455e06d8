"""What is said of a decision: its reason, its tables and its numbers."""

import json
import re

from hypothesis import given

from judged import ANIMALS, POOL, SAME, Case, a_gate, answers, cases, check_of, decide, failed
from longtail.retraining.gate import judge


def test_a_refusal_names_the_group_and_its_interval() -> None:
    decision = decide(a_gate(few=0.05), {**SAME, "gnu": (16, 10)})
    found = re.fullmatch(
        r"Refused: few-shot accuracy fell by 15\.0 points \(90 % interval (-\d+\.\d) to (-\d+\.\d)\), "
        r"more than its allowance of 5\.0\.",
        decision.reason,
    )
    assert found, decision.reason
    check = check_of(decision, "few")
    assert check.low is not None and check.high is not None
    assert [float(x) for x in found.groups()] == [round(100 * check.low, 1), round(100 * check.high, 1)]
    assert float(found[1]) < -15 < float(found[2])


def test_a_promotion_says_the_gain_and_its_interval() -> None:
    decision = decide(a_gate(minimum_gain=0.01, confidence=0.95), dict.fromkeys(ANIMALS, (10, 18)))
    assert decision.promote
    assert re.fullmatch(
        r"Passed: balanced accuracy rose by 40\.0 points \(95 % interval \d+\.\d to \d+\.\d\), "
        r"whose lower end reaches the minimum gain of 1\.0; no other check failed\.",
        decision.reason,
    ), decision.reason


def test_many_failures_are_counted() -> None:
    gate = a_gate(minimum_gain=0, many=0, medium=0, few=0, classes={"cow": 0, "dog": 0})
    decision = decide(gate, dict.fromkeys(ANIMALS, (16, 8)))
    assert failed(decision) == ["overall", "many", "medium", "few", "class cow", "class dog"]
    assert decision.reason.count("fell by 40.0 points") == 4
    assert decision.reason.endswith(". 2 more checks failed.")


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]


def test_the_tables_say_every_check_and_every_class() -> None:
    gate = a_gate(few=0.05, new_classes=0.5)
    decision = decide(gate, {**SAME, "gnu": (16, 10), "yak": (0, 20)}, extra="yak")
    tables = [line for line in decision.markdown().splitlines() if line.startswith("|")]
    checks, classes = tables[: 2 + len(decision.checks)], tables[2 + len(decision.checks) :]
    rows = {cells(line)[0]: cells(line) for line in checks[2:]}
    low, high = check_of(decision, "few").low, check_of(decision, "few").high
    assert low is not None and high is not None
    difference = f"-15.0 (90 % interval {100 * low:.1f} to {100 * high:.1f})"
    assert rows["few-shot accuracy"][1:] == ["80.0", "65.0", difference, "≥ -5.0", "**failed**"]
    assert rows["accuracy of new class yak"][1:] == ["n/a", "100.0", "n/a", "≥ 50.0", "passed"]
    assert rows["balanced accuracy"][4:] == ["lower end ≥ -100.0", "passed"]
    assert rows["expected calibration error"][4:] == ["≤ +100.0", "passed"]
    assert [cells(line)[0] for line in classes[2:]] == ["gnu", "cow", "dog", "elk", "fox", "yak"]
    assert cells(classes[2]) == ["gnu", "20", "80.0", "50.0", "-30.0"]
    assert {len(cells(line)) for line in checks} == {6} and {len(cells(line)) for line in classes} == {5}


def test_of_many_classes_the_table_holds_those_that_changed_most() -> None:
    names = [f"kind {k:02d}" for k in range(30)]
    truth = [name for name in names for _ in range(30)]
    wrong = dict(zip(names, names[1:] + names[:1], strict=True))
    # Of class k, k images are wrong: the champion's where k is odd, the challenger's where it is even.
    champion, challenger = (
        answers(names, [wrong[n] if i % 30 < k and k % 2 == odd else n for i, n in enumerate(truth) for k in [i // 30]])
        for odd in (1, 0)
    )
    decision = judge(a_gate(), champion, challenger, truth, {})
    listed = re.findall(r"^\| (kind \d\d) \|", decision.markdown(), re.MULTILINE)
    assert listed == names[:9:-1]
    assert "## The 20 classes that changed most" in decision.markdown()


def test_names_of_classes_break_no_table_and_no_metric() -> None:
    odd = ("a|b\nc", "x/../y: 100%")
    truth = [odd[0], odd[1], odd[1]]
    model = answers(odd, truth)
    decision = judge(a_gate(classes=dict.fromkeys(odd, 0.0)), model, model, truth, {"many": odd})
    for line in decision.markdown().splitlines():
        assert not line.startswith("|") or len(cells(line)) in (5, 6), line
    for name in decision.numbers():
        assert re.fullmatch(r"[\w\-. ]{1,250}", name), name
    assert decision.numbers()["class a_b_c.champion"] == 1


@given(cases())
def test_the_document_is_json_and_the_numbers_are_the_checks(case: Case) -> None:
    champion, challenger, truth = case
    decision = judge(a_gate(minimum_gain=0, new_classes=0.5), champion, challenger, truth, {"few": POOL})
    read = json.loads(json.dumps(decision.document(), allow_nan=False))
    assert read == decision.document()
    assert (read["promote"], read["reason"]) == (decision.promote, decision.reason)
    numbers = decision.numbers()
    assert numbers["promote"] == decision.promote
    for row in read["checks"]:
        for key in ("champion", "challenger", "difference", "low", "high", "bound", "passed"):
            assert numbers.get(f"{row['name']}.{key}") == row[key]
