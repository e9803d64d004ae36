"""The grammar of questions that are made by rules, by hand-worked cases."""

import random

import pytest

from nic_ray.manuals.sections import Section
from nic_ray.questions.cells import from_row
from nic_ray.questions.clauses import is_clause, noun_phrase, order_of, statement_of
from nic_ray.questions.cloze import LARGEST_SHARE, from_first_sentence
from nic_ray.questions.conditions import from_cause, from_condition, from_meaning
from nic_ray.questions.everyday import as_typed, in_everyday_words, in_first_person
from nic_ray.questions.keywords import terms_of
from nic_ray.questions.labels import from_label
from nic_ray.questions.language import clauses, joined, lowered, names_in, sentences, tokens, without_opening
from nic_ray.questions.purposes import from_purpose
from nic_ray.questions.quantities import values_in
from nic_ray.questions.rules import ask_by_rules
from nic_ray.questions.statements import from_statement
from nic_ray.questions.steps import from_orders, orders_in
from nic_ray.questions.titles import from_title, read_title, refused_titles
from nic_ray.questions.topics import is_part, topic_of, topics_of
from nic_ray.questions.verbs import (
    VERBS,
    base_of_gerund,
    base_of_participle,
    base_of_third,
    gerund_of,
    participle_of,
    third_of,
)
from nic_ray.words import count_words

NAMES = frozenset({"modbus", "tarnwick"})


def section(title: str, text: str = "", domain: str = "d") -> Section:
    return Section(domain, "Manual", "Chapter", title, text or f"About {title}.", None, "manual.md")


def queries(drafts) -> list[str]:
    return [draft.query for draft in drafts]


def in_any_draw(make) -> set[str]:
    """All queries that a rule makes over many draws."""
    return {query for seed in range(40) for query in queries(make(random.Random(seed)))}


@pytest.mark.parametrize(
    ("gerund", "base"),
    [
        ("blocking", "block"),
        ("replacing", "replace"),
        ("setting", "set"),
        ("fitting", "fit"),
        ("shimming", "shim"),
        ("carrying", "carry"),
        ("lying", "lie"),
        ("tying", "tie"),
        ("filling", "fill"),
        ("pressing", "press"),
        ("selling", None),
        ("beginning", None),
        ("freeing", "free"),
        ("dying", None),
        ("bearing", None),
        ("ring", None),
        ("cancelling", "cancel"),
        ("labeling", "label"),
        ("using", "use"),
        ("dripping", "drip"),
    ],
)
def test_a_gerund_leads_to_its_base(gerund, base):
    assert base_of_gerund(gerund) == (base if base in VERBS else None)


def test_a_word_of_the_documents_may_be_a_base_too():
    assert read_title("Frobbing the knob", NAMES, {"frob"}).verb == "frob"
    assert base_of_gerund("frobbing") is None
    assert base_of_gerund("frobbing", {"frob"}) == "frob"
    assert base_of_gerund("zapping", {"zap"}) == "zap"


def test_every_verb_is_found_again_from_its_forms():
    for verb in sorted(VERBS):
        assert base_of_third(third_of(verb)) == verb
        assert base_of_participle(participle_of(verb)) is not None
        assert base_of_gerund(gerund_of(verb)) is not None, verb


@pytest.mark.parametrize(
    ("verb", "third", "participle", "gerund"),
    [
        ("close", "closes", "closed", "closing"),
        ("carry", "carries", "carried", "carrying"),
        ("press", "presses", "pressed", "pressing"),
        ("wind", "winds", "wound", "winding"),
        ("stop", "stops", "stopped", "stopping"),
        ("switch", "switches", "switched", "switching"),
        ("relay", "relays", "relayed", "relaying"),
        ("free", "frees", "freed", "freeing"),
    ],
)
def test_forms_of_verbs(verb, third, participle, gerund):
    assert (third_of(verb), participle_of(verb), gerund_of(verb)) == (third, participle, gerund)


def test_sentences_end_at_no_abbreviation_and_no_decimal_point():
    text = "Fit the seal (approx. 3.5 mm). Use No. 4 grease, e.g. Molykote. Tighten! Then wait."
    assert sentences(text) == [
        "Fit the seal (approx. 3.5 mm).",
        "Use No. 4 grease, e.g. Molykote.",
        "Tighten!",
        "Then wait.",
    ]
    assert clauses("Drain it (all); fill it.") == ["Drain it", "fill it"]
    assert tokens("Set 0.5 bar, then 1.5:1.") == ["Set", "0.5", "bar", ",", "then", "1.5:1", "."]
    assert joined(["Set", "it", ",", "then", "wait", "."]) == "Set it, then wait."


def test_names_keep_their_capital_letter():
    names = names_in(["The Modbus server runs. Server errors stop it.", "On the Tarnwick truck, the server starts."])
    assert names == {"modbus", "tarnwick"}
    assert [lowered(word, names) for word in ("Modbus", "Server", "ABS", "P0420", "R-32", "Two-Way", "A")] == [
        *("Modbus", "server", "ABS", "P0420", "R-32", "two-way", "a")
    ]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("wait 60 s", [("time", "s")]),
        ("at 35 to 45 °C", [("temperature", "°C")]),
        ("tighten to 35 N·m and 14 N·m", [("torque", "N·m"), ("torque", "N·m")]),
        ("add 4.2 litres", [("volume", "litres")]),
        ("after ten minutes", [("time", "minutes")]),
        ("is 5%", [("percentage", "%")]),
        ("the 12 terminals", []),
        ("wire no 5 A", [("current", "A")]),
    ],
)
def test_values_are_found_with_their_quantities(text, found):
    assert [(value.quantity, value.unit) for value in values_in(tokens(text))] == found


def test_a_value_begins_with_what_qualifies_it():
    (value,) = values_in(tokens("when at least 45 kg rests"))
    assert (value.start, value.end) == (1, 5)


@pytest.mark.parametrize(
    ("text", "verb", "thing"),
    [
        ("Release the lower latch with a screwdriver", "release", "the lower latch"),
        ("Switch off the 24 V supply", "switch off", "the 24 V supply"),
        ("Remove the two nuts of the water outlet elbow", "remove", "the two nuts of the water outlet elbow"),
        ("Remove the top and right-hand panels", "remove", "the top and right-hand panels"),
        ("Lift it", "lift", ""),
    ],
)
def test_an_order_has_a_verb_and_an_object(text, verb, thing):
    order = order_of(tokens(text))
    assert (order.verb, joined(order.object)) == (verb, thing)


@pytest.mark.parametrize(
    "text",
    [
        "The valve opens",
        "Test runs after a start",
        "Check of the seal",
        "Oil leaks",
        "Drain plug torque is 5 Nm",
        "Lamp off",
        "Pin 86 positive",
    ],
)
def test_what_is_no_order(text):
    assert order_of(tokens(text)) is None


def test_a_clause_with_several_orders_is_split_at_each():
    found = orders_in(tokens("Remove the cover, lift it and take out the old seal and its spring"))
    assert [joined(order.all) for order in found] == [
        "remove the cover",
        "lift it",
        "take out the old seal and its spring",
    ]
    found = orders_in(tokens("Inspect the boots and lower control arm bushes"))
    assert [joined(order.all) for order in found] == ["inspect the boots and lower control arm bushes"]
    assert [order.verb for order in orders_in(tokens("Stop the engine and lower the forks"))] == ["stop", "lower"]


@pytest.mark.parametrize(
    ("text", "subject", "asked"),
    [
        ("The seat switch closes when it is loaded", "The seat switch", "does The seat switch close when it is loaded"),
        ("The pads are worn", "The pads", "are The pads worn"),
        ("Each line can source 8 mA", "Each line", "can Each line source 8 mA"),
    ],
)
def test_a_statement_is_turned_into_the_order_of_a_question(text, subject, asked):
    found = statement_of(tokens(text))
    assert (joined(found.subject), joined(found.asked)) == (subject, asked)


@pytest.mark.parametrize(
    "text",
    [
        "It closes at 5 bar",
        "These are spare",
        "Remove the cover",
        "Below that the shell is Class C",
        "Frozen moisture blocks lines in winter",
        "The screws at the top are loose and the pump stops",
        "Never stand below",
    ],
)
def test_what_is_no_sure_statement_gives_no_question(text):
    found = statement_of(tokens(text))
    assert found is None or joined(found.subject) == "The screws at the top"


def test_conditions_need_a_subject_and_a_verb():
    assert is_clause(tokens("the lamp stays dark"))
    assert is_clause(tokens("wheels turn freely"))
    assert not is_clause(tokens("necessary"))
    assert not is_clause(tokens("fitted with a turbocharger"))
    assert noun_phrase(tokens("the pump of the boom until it stops")) == ("the", "pump", "of", "the", "boom")


@pytest.mark.parametrize(
    ("text", "some"),
    [
        ("The seat switch closes when at least 45 kg rests on the cushion", "When does the seat switch close?"),
        ("The valve opens at 85 bar", "At what pressure does the valve open?"),
        ("The tank holds 40 litres", "How many litres does the tank hold?"),
        ("The sealed generator delivers 25 amperes at 28.4 volts", "What current does the sealed generator deliver?"),
        ("The voltage regulator is bolted to the battery box", "Is the voltage regulator bolted to the battery box?"),
        ("The fuse box is mounted behind the left headlamp", "Where is the fuse box?"),
        ("The rod must not be bent", "May the rod be bent?"),
        ("The gap must be 0.5 mm", "What must the gap be?"),
        ("Free play is 5 mm", "What is the free play?"),
        ("Lower torque rods are 400 mm", None),
        ("The boom is 3.4 m long", "How long is the boom?"),
        ("The seal is fitted dry because oil makes it swell", "Why is the seal fitted dry?"),
        ("It opens at 85 bar", None),
        ("The fan must be level before start", "Does the fan have to be level?"),
        ("Cylinder 1 is at the rear of the engine", "Where is cylinder 1?"),
        ("Fast heading changes above 4 degrees per second blank the overlay", None),
        ("The fan then turns in the other direction", None),
        ("Pedal travel afterward should be 95 mm", None),
        ("A slipping spring can cause fatal injury", None),
        ("Full travel should be 95 mm", "What should the full travel be?"),
    ],
)
def test_questions_from_statements(text, some):
    found = in_any_draw(lambda rng: from_statement(tokens(text), "0", NAMES))
    assert (some in found) if some else not found, found


@pytest.mark.parametrize(
    ("text", "some"),
    [
        ("Never short the pads with a tool", "Can I short the pads with a tool?"),
        ("do not touch pads TP7 and TP8", "May I touch pads TP7?"),
        ("Switch off the 24 V supply and wait 60 s", "How long do I wait after I switch off the 24 V supply?"),
        ("Raise the carriage until the crossmember stands clear", "How far do I raise the carriage?"),
        ("Insert the red pin through the yoke of the pedestal", "Where do I insert the red pin?"),
        ("Tighten the drain plug to 35 N·m", "What is the torque for the drain plug?"),
        ("Run the blower for 5 minutes", "How long do I run the blower?"),
        ("Press the brake pedal at least 20 times", "How many times do I press the brake pedal?"),
        ("Slacken the locknut with a 17 mm spanner", "What do I need to slacken the locknut?"),
        ("Discharge the capacitor by bridging its terminals", "How do I discharge the capacitor?"),
        ("Warm the oil so that it flows", "Why do I warm the oil?"),
        ("Bend the clutch switch so that its gap is 0.5 mm", None),
        ("Oil and filter of the gearbox", None),
        ("Never spray silicone nearby", None),
        ("Leave the core longer than the others, tighten screws to 1.2 N·m", "What is the torque for screws?"),
        ("Drain the tank, remove the top cover and clean the screen", "What do I do after I remove the top cover?"),
        ("Set the idle screw to 850 rpm", "What do I set the idle screw to?"),
        ("Lift it", None),
        ("Tilt the mast with the engine running", None),
    ],
)
def test_questions_from_orders(text, some):
    found = in_any_draw(lambda rng: from_orders(tokens(text), "0", rng))
    assert (some in found) if some else not found, found


@pytest.mark.parametrize(
    ("text", "some"),
    [
        ("If the amber lamp stays dark, replace the fuse", "What do I replace if the amber lamp stays dark?"),
        ("If the motor hums, check the capacitor", "the motor hums, what should I check?"),
        ("When the lamp flashes, press the button", "What do I do if the lamp flashes?"),
        ("If the fan stops, the compressor is switched off", "What happens if the fan stops?"),
        ("Replace the belt if its cords are visible", None),
        ("Replace the belt if cords are visible", "What do I replace if cords are visible?"),
        ("If necessary, replace the fuse", None),
        ("Check in order: the valve and a sensor that reads cold when the engine is hot", None),
        ("If it stays dark, replace the fuse", None),
        ("If the voltage is correct, check the relay", None),
    ],
)
def test_questions_from_conditions(text, some):
    found = in_any_draw(lambda rng: from_condition(tokens(text), "0", rng, NAMES))
    assert (some in found) if some else not found, found


@pytest.mark.parametrize(
    ("text", "some"),
    [
        ("Jerky lowering indicates a blocked orifice", "What does jerky lowering indicate?"),
        ("Two flashes of the lamp mean that the feed dropped", "What do two flashes of the lamp mean?"),
        ("A wet bell housing points to the seal", "What does a wet bell housing point to?"),
        ("This means trouble", None),
        ("A larger difference means wear", None),
        ("A slow drip means that the level is correct", "a slow drip, what does that mean?"),
        ("3,500 rpm means overspeed", None),
    ],
)
def test_questions_from_what_a_sign_means(text, some):
    found = in_any_draw(lambda rng: from_meaning(tokens(text), "0", rng, NAMES))
    assert (some in found) if some else not found, found


@pytest.mark.parametrize(
    ("text", "some"),
    [
        ("To drain the lower tank, open the cock", "How do I drain the lower tank?"),
        ("In order to drain the lower tank, open the cock", "How can I drain the lower tank?"),
        ("Use a hose to drain the lower tank", "How do I drain the lower tank?"),
        ("If you want to drain the lower tank, open the cock", "How do I drain the lower tank?"),
        ("You can drain the lower tank by opening the cock", "How do I drain the lower tank?"),
        ("The cock allows you to drain the lower tank", "How do I drain the lower tank?"),
        ("The cock is used to drain the lower tank", "What is the cock used for?"),
        ("Upsmon is a client that shuts down the system", "What is upsmon?"),
        ("To drain it, open the cock", None),
        ("To be sure, open the cock", None),
    ],
)
def test_questions_from_aims_and_uses(text, some):
    found = in_any_draw(lambda rng: from_purpose(tokens(text), "0", rng, NAMES))
    assert (some in found) if some else not found, found


def test_when_with_a_gerund_says_no_time():
    text = "Filter time adds to the cycle when estimating a reaction"
    found = in_any_draw(lambda rng: from_statement(tokens(text), "0", NAMES))
    assert found == {"Does the filter time add to the cycle?"}


def test_nobody_asks_for_some_objects():
    found = in_any_draw(lambda rng: from_statement(tokens("The outdoor unit leaves the factory"), "0", NAMES))
    assert found == {"Does the outdoor unit leave the factory?"}


def test_a_manual_that_speaks_to_its_reader_is_asked_in_the_first_person():
    assert in_first_person("what if you are on your own") == "what if I am on my own"
    assert in_first_person("does it allow you to sleep") == "does it allow me to sleep"
    assert in_first_person("is the pump yours") == "is the pump mine"
    assert in_first_person("Is the pump dry?") == "Is the pump dry?"


def test_what_joins_a_clause_to_another_is_left_out():
    assert joined(without_opening(tokens("For example, the pump stops"))) == "the pump stops"
    assert joined(without_opening(tokens("Note that the pump stops"))) == "the pump stops"
    assert joined(without_opening(tokens("The pump stops"))) == "The pump stops"


def test_questions_from_causes():
    found = in_any_draw(lambda rng: from_cause(tokens("A worn bearing causes noise in neutral"), "0", rng, NAMES))
    assert "What causes noise in neutral?" in found
    for text in ("The cause is usually mechanical", "A slipping spring can cause fatal injury"):
        assert not in_any_draw(lambda rng, text=text: from_cause(tokens(text), "0", rng, NAMES))


def test_of_a_sign_that_means_that_all_is_well_nobody_asks_what_is_wrong():
    text = "A slow drip means that the level is correct"
    found = in_any_draw(lambda rng: from_meaning(tokens(text), "0", rng, NAMES))
    assert found == {"What does a slow drip mean?", "a slow drip, what does that mean?"}


@pytest.mark.parametrize(
    ("text", "some"),
    [
        ("Keeper bolts: 85 Nm", "What torque for the keeper bolts?"),
        ("Gravel and rough tracks: 210 kPa, 50 km/h", "What pressure for the gravel and rough tracks?"),
        ("Lamp off: measure from the channel terminal", "lamp off, what do I do?"),
        ("Every 30,000 km: replace the cabin filter", "What has to be done every 30,000 km?"),
        ("Load-test the supply: 5 V", None),
        ("The core contains strong magnets: keep steel tools away", None),
        ("High at idle only indicates a leak: inspect the hose", None),
        ("Further jobs: oil and filter of the gearbox", None),
        ("It is simple: pull", None),
    ],
)
def test_questions_from_labels(text, some):
    found = in_any_draw(lambda rng: from_label(tokens(text), "0", rng, NAMES))
    assert (some in found) if some else not found, found


@pytest.mark.parametrize(
    ("title", "type", "some"),
    [
        ("Blocking the raised mast", "procedure", "How do I block the raised mast?"),
        ("Removing and installing the thermostat", "procedure", "How do I remove and install the thermostat?"),
        ("Lift chain replacement", "procedure", "How do I replace the lift chain?"),
        ("Engine Oil and Filter Replacement", "procedure", "How do I replace the engine oil and filter?"),
        ("Desiccant canister check and replacement", "procedure", "How do I check and replace the desiccant canister?"),
        ("Radome transmissivity test", "procedure", "How do I carry out the radome transmissivity test?"),
        ("Torque converter stall test", "procedure", "How do I carry out the torque converter stall test?"),
        ("Making flare connections", "procedure", "How do I make flare connections?"),
        ("Replace the filter", "procedure", "How do I replace the filter?"),
        ("3.2.1 Charging Circuit A by subcooling", "procedure", "How do I charge circuit A by subcooling?"),
        ("Coolant preheater does not light", "fault", "Why does the coolant preheater not light?"),
        (
            "Starting motor clicks or stays silent",
            "fault",
            "the starting motor clicks or stays silent, what do I check?",
        ),
        ("Transfer case slips out of gear", "fault", "the transfer case slips out of gear, what is the cause?"),
        ("Brakes drag or pull to one side", "fault", "the brakes drag or pull to one side, what do I check?"),
        ("Tilt cylinder drift diagnosis", "fault", "What causes tilt cylinder drift?"),
        ("Low engine oil pressure", "fault", "What causes low engine oil pressure?"),
        ("Fault code E114, seat switch signal", "code", "What does fault code E114 mean?"),
        ("P0420 Catalyst Efficiency Low", "code", "Which code stands for catalyst efficiency low?"),
        ("Error code E1", "code", "What does error code E1 mean?"),
        ("Fluid capacities", "specification", "What are the fluid capacities?"),
        ("Relay panel layout", "layout", "What sits where on the relay panel?"),
        ("Seat switch interlock operation", "component", "How does the seat switch interlock work?"),
        (
            "Terminating resistor and line bias",
            "component",
            "What do I need to know about the terminating resistor and line bias?",
        ),
        ("Measuring Block 006 Oxygen Sensors", "component", None),
        ("Timing Belt Removal", "procedure", "How do I remove the timing belt?"),
        ("Cooling hose replacement", "procedure", "How do I replace the cooling hose?"),
        ("Sagging hose replacement", "procedure", "How do I replace the sagging hose?"),
        ("Oxygen sensor 1 replacement", "procedure", "How do I replace oxygen sensor 1?"),
        (
            "Starting through the external receptacle",
            "component",
            "What do I need to know about starting through the external receptacle?",
        ),
        ("Pressure testing the pipes", "procedure", "How do I pressure test the pipes?"),
        ("Hauling with the winch", "component", "What do I need to know about hauling with the winch?"),
        ("Antenna and pedestal description", "component", "What do I need to know about the antenna and pedestal?"),
        ("Modbus TCP server configuration", "procedure", "How do I configure the Modbus TCP server?"),
        ("3.2. Setup a container", "procedure", "How do I setup a container?"),
        ("12. Why is the lamp dark?", "question", "Why is the lamp dark?"),
        ("How to bleed the pump", "question", "How to bleed the pump"),
        ("Recommended: sniff the line", "other", None),
        ("Chapter 4 Oil pump removal", "procedure", "How do I remove the oil pump?"),
    ],
)
def test_titles_are_asked_about_by_their_type(title, type, some):
    read = read_title(title, NAMES)
    assert read.type == type
    found = in_any_draw(lambda rng: from_title(read, rng))
    if some:
        assert some in found


def test_titles_that_say_nothing_or_that_sections_share_are_refused():
    titles = [
        "Introduction",
        "Notes",
        "General information",
        "Oil change",
        "Oil  CHANGE",
        "Fuse box",
        "1.2",
        "Error E4",
    ]
    refused = refused_titles([section(title) for title in titles])
    assert refused == {
        "introduction": "generic",
        "notes": "generic",
        "general information": "generic",
        "oil change": "shared",
        "1 2": "generic",
    }


def test_the_topic_of_a_title_has_few_words():
    assert topic_of(read_title("Adjusting the inching pedal", NAMES)) == "inching pedal"
    assert topic_of(read_title("Transfer case oil service", NAMES)) == "transfer case oil"
    assert topic_of(read_title("Drive axle oil level and change", NAMES)) == "drive axle oil level"
    assert topic_of(read_title("Filter parked regeneration", NAMES)) == "filter parked regeneration"
    assert topic_of(read_title("P0420 Catalyst Efficiency Low", NAMES)) == "P0420"
    assert topic_of(read_title("Waveguide run layout of system one and system two for both", NAMES)) == ""


@pytest.mark.parametrize("title", ["Setting the contact gap, 24-volt", "Charging circuit A by subcooling"])
def test_a_part_that_needs_a_description_is_not_said_to_be_off_or_flat(title):
    assert {draft.kind for draft in from_title(read_title(title, NAMES), random.Random(0))} == {"direct"}


def test_titles_with_the_same_topic_are_told_apart_by_what_follows_it():
    names = "Electrical data, 12-volt system", "Electrical data, 24-volt system", "Oil pump removal", "Oil pump test"
    titles = [read_title(name, NAMES) for name in names]
    assert topics_of([*titles, None]) == [
        "electrical data, 12-volt system",
        "electrical data, 24-volt system",
        "oil pump",
        "oil pump",
        "",
    ]


def test_only_of_a_part_one_says_that_something_is_on_it():
    assert is_part("oil pump")
    assert is_part("driver air bag module")
    for topic in ("lift cylinder leak", "engine oil and filter", "belt removal", "noise from the joint", ""):
        assert not is_part(topic)


@pytest.mark.parametrize(
    ("text", "some"),
    [
        ("Item: Idle speed; Setting: 750 rpm; Limit: 900 rpm.", {"What is the setting of the idle speed?"}),
        ("Item: Idle speed; Setting: 750 rpm; Limit: 900 rpm.", {"idle speed limit", "idle speed setting"}),
        ("Idle speed – Petrol: 800 rpm; Diesel: 750 rpm.", {"What is the petrol of the idle speed?"}),
        ("Valve: Relief valve 2; Opens at: 185 bar.", {"What is the opens at of relief valve 2?"}),
        ("Item: Seal; Part number: 4711.", set()),
        ("Symptom: The engine smokes; Possible cause: Worn rings.", {"the engine smokes, what is the cause?"}),
        ("Fault: Lamp stays dark; Remedy: Replace the fuse.", {"lamp stays dark, what do I do?"}),
        ("Symptom: It smokes; Cause: Worn rings.", set()),
    ],
)
def test_questions_from_rows_of_tables(text, some):
    found = {query for seed in range(40) for query in queries(from_row(text, "0", random.Random(seed), NAMES))}
    assert some <= found if some else not found, found


@pytest.mark.parametrize(
    "text", ["Keeper bolts: 85 Nm.", "The pump runs; stop it.", "Lamp off: test it; lamp on, go on.", "Note: 5 V"]
)
def test_a_sentence_without_several_heads_is_no_row(text):
    assert from_row(text, "0", random.Random(0), NAMES) is None


def test_a_question_that_names_only_a_step_says_what_it_is_about():
    text = (
        "Park over a pit, drain the oil and mark the shafts. "
        + "Lower the unit with a jack and look at the mounts. " * 3
    )
    found = ask_by_rules([section("Removing the transfer case", text), section("Fuse box")], {}, seed=1)
    asked = [each.query for each in found if "park over" in each.query.lower() and each.kind == "direct"]
    assert asked
    assert all("transfer case" in query for query in asked)


def test_what_can_be_done_instead_does_not_come_next():
    text = "Clear the oil reminder with the scan tool, or hold the trip button"
    found = in_any_draw(lambda rng: from_orders(tokens(text), "0", rng))
    assert not any("after I" in query or "next" in query for query in found)


def test_a_short_question_says_what_it_is_about():
    text = "Dry capacity is 14 litres for the large one. " + "Lower the unit with a jack and look at the mounts. " * 3
    found = ask_by_rules([section("Powershift transmission oil change", text), section("Fuse box")], {}, seed=1)
    asked = [each.query.lower() for each in found if "dry capacity" in each.query.lower() and each.kind == "direct"]
    assert asked
    assert all("powershift transmission" in query for query in asked)


def test_terms_cut_nothing_that_hyphens_join():
    assert terms_of("general-purpose grease") == [
        "general",
        "purpose",
        "grease",
        "general purpose",
        "general purpose grease",
    ]
    assert terms_of("the off-delay timer") == ["delay", "timer", "off delay", "off delay timer"]
    assert "belt decisions" not in terms_of("seat-belt decisions")


def test_a_cloze_is_made_only_where_the_rest_can_answer():
    rest = "Open the hinged cap on the left side and push the cable home. " * 8
    for first, made in (
        ("Protection is cancelled when manual tilt is selected.", False),
        ("P0171 is stored when the fuel trim exceeds 18 %.", True),
        ("Clean the screens when the lamp lights.", True),
    ):
        found = [*from_first_sentence(section("Title", f"{first} {rest}".strip()), random.Random(0), NAMES)]
        assert bool(found) == made, first


def test_a_cloze_asks_for_what_is_left():
    rest = "Open the hinged cap on the left side and push the cable home. " * 8
    first = "Use this method when the batteries are discharged."
    found = section("Starting", f"{first} {rest}".strip())
    drafts = [*from_first_sentence(found, random.Random(0), NAMES)]
    assert [draft.kind for draft in drafts] == ["symptom"]
    assert "the batteries are discharged" in drafts[0].query
    assert drafts[0].text == rest.strip()
    assert count_words(first) <= LARGEST_SHARE * count_words(found.passage)
    steps = section("Starting", f"Remove the cover of the lower gearbox. {rest}".strip())
    (draft,) = from_first_sentence(steps, random.Random(0), NAMES)
    assert draft.query.endswith("I remove the cover of the lower gearbox?")


def test_a_long_first_sentence_or_a_short_rest_gives_no_cloze():
    first = "Use this method when the batteries are discharged."
    for text in (first, f"{first} Open the cap. Push the cable home.", f"{first} {'Push it home. ' * 12}"):
        assert [*from_first_sentence(section("Starting", text.strip()), random.Random(0), NAMES)] == []


@pytest.mark.parametrize(
    ("text", "some"),
    [
        ("How do I replace the pump?", "How do I swap the pump?"),
        ("the pump does not start", "the pump won't start"),
        ("the relay is faulty", "the relay is busted"),
        ("the seal is shot, how do I replace it?", "the seal is shot, how do I swap it out?"),
    ],
)
def test_manual_words_become_everyday_words(text, some):
    assert some in {in_everyday_words(text, random.Random(seed)) for seed in range(40)}


def test_a_question_without_manual_words_stays():
    assert in_everyday_words("why is the sky blue?", random.Random(0)) is None


def test_codes_keep_their_case_as_people_type():
    for seed in range(40):
        typed = as_typed("P0420 came up, what do I check?", random.Random(seed))
        assert typed.startswith("P0420 came up, what do I check")
        assert as_typed("What is it?", random.Random(seed)) in ("What is it?", "what is it?", "what is it")
