"""The attacks of the review of the evidence (2026-11-29, section 2), each with its tests.

A: the operator, who holds the key. B: anyone, without a key. C: honest, yet refused. D: `merge`. E: verify.py.
`refused`: by a claim; `named`: by a caveat, a note or a sentence, since it cannot be refused; `accepted`: it is
honest, or harmless. What stays unprovable is said in docs/explanation/evidence.md: the truth of observations, the
independence of points, ledgers that are not shown where there is no witness, and a lie by all at once.
"""

from __future__ import annotations

import ast
from typing import NamedTuple

import pytest

from tests.helpers.paths import ROOT


class Attack(NamedTuple):
    """An attack, what becomes of it, and its tests as file:function."""

    what: str
    outcome: str
    tests: tuple[str, ...]


OPERATOR, CHECKER, JOINT, WITNESS = (
    f"test_attacks_{name}" for name in ("operator", "checker", "joint", "witness")
)
ATTACKS = {
    "A1": Attack("clock set ahead within an outage", "refused", (
        f"{OPERATOR}:test_a1_a_clock_set_ahead_by_days_within_an_outage",
        "test_dishonest_operator:test_a_clock_set_ahead_within_an_outage_makes_it_no_longer")),
    "A2": Attack("an outage of years ago, by a clock set back", "named", (
        f"{OPERATOR}:test_a2_an_outage_of_years_ago",
        f"{WITNESS}:test_a2_a_past_made_up_today_contradicts_the_cosignature",
        f"{WITNESS}:test_a2_a_clock_that_the_operator_does_not_admit_is_refused")),
    "A3": Attack("one entry says that the clock was set by years", "named", (
        f"{OPERATOR}:test_a3_one_entry_says_that_the_clock_was_set_by_years",
        f"{OPERATOR}:test_a3_without_tokens_the_step_is_named_all_the_same")),
    "A4": Attack("an instant stated as days by two steps", "refused", (
        f"{OPERATOR}:test_a4_an_instant_stated_as_days_by_two_steps",)),
    "A5": Attack("rules by which good observations end nothing", "named", (
        f"{OPERATOR}:test_a5_an_outage_that_good_observations_do_not_end",
        f"{OPERATOR}:test_a5_rules_in_force_at_any_time_of_the_outage_count")),
    "A6": Attack("another host for the time of the outage", "named", (
        f"{OPERATOR}:test_a6_another_host_for_the_time_of_the_outage",)),
    "A7": Attack("provider, target and host by any word", "named", (
        f"{OPERATOR}:test_a7_a_provider_by_any_word",
        f"{OPERATOR}:test_a7_a_known_name_at_an_address_of_our_own",
        f"{OPERATOR}:test_a7_the_service_of_the_statement_is_not_believed",
        "test_observer_facts:test_the_service_of_a_period_is_compared_with_the_record")),
    "A8": Attack("maintenance made up, or left out", "named", (
        f"{OPERATOR}:test_a8_maintenance_that_nothing_announced",
        f"{OPERATOR}:test_a8_announced_maintenance_is_no_caveat_and_may_not_be_left_out",
        f"{OPERATOR}:test_a8_an_announcement_that_is_not_on_record_is_refused")),
    "A9": Attack("a promise that the provider never made", "named", (
        f"{OPERATOR}:test_a9_a_promise_that_is_not_the_catalogues",)),
    "A10": Attack("a PDF signed by a self-made authority", "named", (
        f"{CHECKER}:test_a10_a_signature_that_nobody_vouches_for_is_untrusted",
        f"{CHECKER}:test_a10_in_italian")),
    "A11": Attack("another verify.py, other instructions", "named", (
        f"{CHECKER}:test_a11_a_script_of_the_operators_is_named",)),
    "A12": Attack("other pages, or pages painted over", "refused", (
        f"{CHECKER}:test_a12_other_pages_are_refused",
        "test_pages:test_what_the_operator_put_in_place_of_the_pages_is_refused")),
    "A13": Attack("no tokens at all, everything invented", "named", (
        f"{OPERATOR}:test_a13_nothing_of_others_attests_the_time",)),
    "A14": Attack("tokens of a self-made authority", "named", (
        f"{OPERATOR}:test_a14_an_authority_of_the_operators_own_making",
        f"{CHECKER}:test_a14_a_token_is_by_the_name_in_its_certificate",
        f"{CHECKER}:test_a14_another_name_is_refused")),
    "A15": Attack("good observations that were never written", "named", (
        f"{OPERATOR}:test_a15_good_observations_that_were_never_written",)),
    "A16": Attack("a second account or target that is not shown", "named", (
        f"{OPERATOR}:test_a16_a_target_that_is_not_part_of_the_bundle",
        f"{WITNESS}:test_a_statement_is_of_the_target_of_the_bundle_alone")),
    "A17": Attack("two ledgers of which the better is shown; one begun anew", "named", (
        f"{WITNESS}:test_a17_the_better_of_two_histories_has_no_cosignature",
        f"{WITNESS}:test_a17_a_ledger_begun_anew_is_known_to_the_witness",
        f"{WITNESS}:test_a17_the_same_key_begun_anew_is_refused_by_the_witness")),
    "A18": Attack("guard off, or controls of one's own", "named", (
        f"{OPERATOR}:test_a18_controls_that_are_no_other_operators",)),
    "A19": Attack("an observation rewritten under kept tokens", "refused", (
        f"{CHECKER}:test_a19_what_a_token_covers_is_not_rewritten",
        "test_attacks:test_the_owner_cannot_rewrite_the_past")),
    "A20": Attack("what parsers read differently; unsigned checkpoints", "refused", (
        f"{CHECKER}:test_a20_checkpoints_are_signed_and_grow",
        f"{CHECKER}:test_a20_json_is_strict",
        f"{OPERATOR}:test_a20_what_parsers_read_differently_is_refused")),
    "B1": Attack("other pages in a joint zip", "refused", (
        f"{JOINT}:test_b1_other_pages_are_refused_signed_or_not",)),
    "B2": Attack("made_by and left_out of a joint zip", "refused", (
        f"{JOINT}:test_b2_who_made_it_and_what_was_left_out_cannot_be_changed",)),
    "B3": Attack("a second name in an extra field of the zip", "refused", (
        f"{CHECKER}:test_an_extra_field_is_refused",)),
    "B4": Attack("setuid bits in a zip", "refused", (f"{CHECKER}:test_b4_a_file_mode_beyond_0644_is_refused",)),
    "B5-kind": Attack("a fifo or a device in a zip", "refused", (
        f"{CHECKER}:test_b5_only_plain_files_are_accepted",)),
    "B5-header": Attack("a local header unlike the directory", "refused", (
        f"{CHECKER}:test_a_header_that_differs_from_the_directory_is_refused",)),
    "B5-comment": Attack("a comment of the zip, or of a file in it", "refused", (
        "test_attacks:test_a_hostile_zip_is_refused_with_a_reason",
        "test_fresh_reader:test_a_comment_of_a_file_in_the_zip_is_refused")),
    "B5-name": Attack("a name that is nearly right", "refused", (
        f"{CHECKER}:test_b5_a_name_that_is_nearly_right_is_refused",)),
    "B5-nested": Attack("a zip in the place of the statement", "refused", (
        f"{CHECKER}:test_b5_a_zip_in_the_place_of_a_file_is_no_statement",)),
    "B5-pdf": Attack("a PDF that refers to itself", "refused", (
        f"{CHECKER}:test_b5_a_pdf_that_refers_to_itself_is_refused",)),
    "B5-size": Attack("a checkpoint of a size of 3000 digits", "refused", (
        f"{CHECKER}:test_b5_a_size_of_thousands_of_digits_is_refused",)),
    "B5-number": Attack("1e999 and the like in JSON", "refused", (f"{CHECKER}:test_a20_json_is_strict",)),
    "C1": Attack("a token whose entry lies behind the range", "accepted", (
        f"{CHECKER}:test_c_a_token_that_is_named_after_the_range_bounds_only_what_it_covers",)),
    "C2": Attack("a time zone in POSIX form", "named", (
        "../../unit/cli/test_surroundings:test_an_invalid_zone_is_never_mistaken_for_another",)),
    "C3": Attack("one clock, two verdicts for outage and period", "accepted", (
        f"{OPERATOR}:test_c_a_wrong_clock_has_one_verdict_for_an_outage_and_a_period",)),
    "D1": Attack("one ledger signed by two keys", "refused", (
        f"{JOINT}:test_d1_one_ledger_signed_by_two_keys_is_no_second_vantage_point",
        f"{JOINT}:test_d1_other_payloads_under_the_same_salts_are_a_copy_too")),
    "D2": Attack("two MailWatches on one machine", "named", (
        f"{JOINT}:test_d2_two_ledgers_of_one_machine_are_named",)),
    "D3": Attack("a fork whose checkpoints never meet", "refused", (
        f"{JOINT}:test_d3_a_fork_is_found_where_no_checkpoints_meet",
        f"{JOINT}:test_d3_a_fork_before_the_range_is_found_by_the_subtrees_there")),
    "D4": Attack("a member dated back by years", "refused", (
        f"{JOINT}:test_d4_an_outage_dated_back_by_years_does_not_count",)),
    "D5": Attack("two names of one provider; an interval that hides", "refused", (
        f"{JOINT}:test_d5_names_that_differ_in_case_and_blanks_are_one_provider",
        f"{JOINT}:test_d5_an_interval_that_is_none_hides_no_contradiction",
        f"{JOINT}:test_d5_the_interval_that_an_outage_bundle_states_hides_no_minute_but_the_first")),
    "E1": Attack("two outages as one, for verify.py", "refused", (
        "test_standalone_script:test_two_outages_are_not_one",)),
    "E2": Attack("proven_afterwards, open: keys that ended its checks", "refused", (
        "test_standalone_script:test_what_is_not_so_is_refused",)),
    "F1": Attack("an outage that no entry records", "refused", (
        "test_fresh_reader:test_an_outage_that_no_entry_records_is_refused",)),
    "F2": Attack("a period that begins within an outage", "refused", (
        "test_fresh_reader:test_a_period_cannot_hide_an_outage_by_beginning_within_it",)),
    "F3": Attack("a message under another key or history", "refused", (
        "test_carried:test_a_message_that_does_not_show_what_its_entry_states_is_refused",
        "test_carried:test_a_checkpoint_of_another_history_is_refused")),
}  # fmt: skip
"""By the ids of the review; F: what was found since, by a second verifier and for messages."""


def test_the_attacks_of_the_review_are_all_here() -> None:
    wanted = {f"A{n}" for n in range(1, 21)} | {f"B{n}" for n in range(1, 5)} | {f"D{n}" for n in range(1, 6)}
    assert wanted <= ATTACKS.keys()
    assert len(ATTACKS) >= 41
    assert {one.outcome for one in ATTACKS.values()} == {"refused", "named", "accepted"}


@pytest.mark.parametrize("name", ATTACKS)
def test_the_tests_of_an_attack_exist(name: str) -> None:
    for test in ATTACKS[name].tests:
        file, function = test.split(":")
        path = ROOT / "tests" / "integration" / "evidence" / f"{file}.py"
        tree = ast.parse(path.read_text(encoding="utf-8"))
        assert function in {one.name for one in tree.body if isinstance(one, ast.FunctionDef)}, test
