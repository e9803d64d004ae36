"""The golden texts: what a bundle stores vectors of, so that whoever serves it can be compared with it."""

PLAIN_QUERIES = (
    "How do I bleed the air out of the hydraulic brake line?",
    "What torque do the cylinder head bolts need after the first run?",
    "Why does the standby generator stop a few seconds after it starts?",
    "Which oil grade belongs in the reduction gear below freezing?",
    "My radio receives but nobody hears me when I press the switch",
    "How often must the water separator be drained?",
    "Can the filter element be washed, or does it have to be replaced?",
    "What does a slowly blinking amber lamp on the control panel mean?",
    "How is the belt tension measured without a gauge?",
    "Steps for isolating the high-voltage cabinet before maintenance",
    "Is it safe to top up coolant while the engine is hot?",
    "bearing noise at idle that disappears under load",
)
# No query of a punctuation mark alone: an embedding of nothing is so badly determined that 8 bits change it by more
# than the bound (a cosine of 0.9986 for "?" with all-MiniLM-L6-v2, 0.9993 or more for the others).
HARD_QUERIES = (
    "corrosion",
    "WARNING LIGHT STAYS ON AFTER RESET, WHAT NOW?",
    "  how   is\tthe pump \n primed ?  ",
    "Max. Druck bei 40 °C? Überdruckventil öffnet schon bei 6,5 bar",
    "how do i replce teh gaskit on teh intak manifolt",
    "What is the clearance at −20 °C: 0.05 mm, 50 µm or 1/512 in?",
    "E-1047 / E-1052 fault codes",
    "натяжение ремня генератора",
    "ポンプの点検間隔は?",
    "Ω reading between pins 3↔7 of connector J12 ≥ 10 kΩ 🙂",
    "J12?",
    "is it not unsafe to never leave the valve closed?",
)
PLAIN_DOCUMENTS = (
    "Close the isolation valve, open the drain cock and let the system empty. Refit the cock hand-tight; tighten it by "
    "a quarter turn more once the pressure is back.",
    "The transmitter is silent if the key line is open. Check the handset cable first, then the relay behind the front "
    "panel, which clicks when the switch is pressed.",
    "Tighten the bolts crosswise in three steps: 20 N·m, 45 N·m, then another 90 degrees. Bolts that were tightened "
    "once by angle are not used again.",
    "A generator that stops after a few seconds usually lacks excitation. Measure the residual voltage at the "
    "terminals; below 2 V, flash the field from a battery.",
    "Grease the rear bearing every 250 hours of operation, or every six months, whichever comes first.",
    "The separator removes water that the tank has collected. Drain it daily in humid weather, until clear fuel runs.",
    "Never remove the cap of a hot radiator. Wait until the upper hose can be held by hand, then turn the cap to its "
    "first stop.",
    "Press the belt midway between the pulleys with a force of 100 N. It must give way by 10 to 12 mm; adjust the "
    "tensioner if it does not.",
)
HARD_DOCUMENTS = (
    "NOTE",
    "CAUTION: DO NOT ENERGIZE THE CABINET WHILE THE DOOR INTERLOCK IS BYPASSED.",
    "Table 7-3  |  Item  |  Limit  |  Unit\n1 | oil pressure | 3.5 - 5.0 | bar\n2 | oil temperature | <= 95 | °C",
    "  \n\tIndented,   with\r\n\r\nblank lines \u00a0and\u2003odd spaces.\n\n",
    "Зазор клапанов на холодном двигателе: впуск 0,25 мм, выпуск 0,30 мм.",
    "La vanne de décharge s’ouvre à 6,5 bar ± 0,2 ; au-delà, vérifiez l’état du ressort.",
    "P/N 4720-00-555-0123 (ref. A1/B2), rev. D, qty 12 ea., lot #0007; superseded by 4720-00-555-0199.",
)
_PARTS = (
    *"valve pump filter hose gasket bearing shaft seal fan relay fuse cable sensor tank nozzle".split(),
    *"bracket lever spring clamp flange rotor".split(),
)
_STEPS = ("Inspect the {} for wear", "clean the {}", "compare the {} with the drawing", "refit the {} and note it")


def long_document() -> str:
    """A passage of some 700 words that repeats no sentence, which most models cut off."""
    sentences = []
    for number, part in enumerate(_PARTS, 1):
        steps = "; ".join(step.format(f"{part} of unit {number * 7}-{place}") for place, step in enumerate(_STEPS, 1))
        sentences.append(f"Step {number}. {steps}.")
    return " ".join(sentences)


def golden_texts() -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The golden queries and the golden passages."""
    return (*PLAIN_QUERIES, *HARD_QUERIES), (*PLAIN_DOCUMENTS, *HARD_DOCUMENTS, long_document())
